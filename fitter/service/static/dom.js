// Building elements. Text only ever enters as text nodes, so nothing that a sweep is named can become markup.

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

export function put(id, ...children) {
  const place = typeof id === "string" ? document.getElementById(id) : id;
  place.replaceChildren(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return place;
}

// A table whose columns are [heading, cell(row), class].
export function table(caption, columns, rows) {
  return h(
    "table",
    {},
    h("caption", { class: "sr" }, caption),
    h("thead", {}, h("tr", {}, columns.map(([heading, , kind]) => h("th", { scope: "col", class: kind }, heading)))),
    h(
      "tbody",
      {},
      rows.map((row) =>
        h("tr", {}, columns.map(([, cell, kind], i) =>
          i === 0 ? h("th", { scope: "row", class: kind }, cell(row)) : h("td", { class: kind }, cell(row)),
        )),
      ),
    ),
  );
}

export function chip(state) {
  return h("span", { class: `chip ${state}` }, state);
}
