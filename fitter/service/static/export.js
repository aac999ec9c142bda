// Every figure as SVG and PNG, every table as CSV.

import { ofGroup } from "./api.js";
import { colour, toast } from "./chrome.js";
import { h } from "./dom.js";
import { figureOf, plotly } from "./plot.js";

export function wireExports(state) {
  for (const place of document.querySelectorAll(".export")) {
    const { figure, table, svg } = place.dataset;
    if (figure) place.append(button("SVG", () => saveFigure(state, figure, "svg")), button("PNG", () => saveFigure(state, figure, "png")));
    if (svg) place.append(button("SVG", () => saveForest(state)));
    if (table) place.append(button("CSV", () => saveTable(state, table)));
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", "Save");
  }
}

function button(label, work) {
  return h("button", { type: "button", class: "quiet", "aria-label": `Save as ${label}`, onclick: () => Promise.resolve(work()).catch((problem) => toast(problem.message)) }, label);
}

async function saveFigure(state, id, format) {
  const figure = figureOf(document.getElementById(id));
  if (!figure) return toast("There is no figure yet.");
  const Plotly = await plotly();
  const { margin, ...rest } = figure.layout;
  const legend = { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 };
  const paper = { ...rest, margin: { ...margin, t: 40 }, showlegend: true, legend, paper_bgcolor: colour("raised") };
  await Plotly.downloadImage({ data: figure.traces, layout: paper }, { format, width: 1200, height: 720, scale: 2, filename: `${state.sweep.name}-${id}` });
}

function saveForest(state) {
  const drawn = document.getElementById("forest-svg");
  if (!drawn) return toast("There is no figure yet.");
  const copy = drawn.cloneNode(true);
  const [from, to] = [drawn, copy].map((root) => [...root.querySelectorAll("rect, path, line, text")]);
  from.forEach((element, i) => {
    const style = getComputedStyle(element);
    for (const name of ["fill", "stroke", "stroke-width", "font-size", "font-family"]) to[i].setAttribute(name, style.getPropertyValue(name));
  });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  save(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }), `${state.sweep.name}-forest.svg`);
}

const TABLES = {
  coefficients: ({ law }) => law && [
    ["coefficient", "value", "low", "high", "level"],
    ...Object.entries(law.coefficients).map(([name, value]) => [name, value, law.intervals[name]?.low, law.intervals[name]?.high, law.intervals[name]?.level]),
  ],
  suggestions: ({ suggestions }) => suggestions && [
    ["sparsity", "nonzero_params", "data", "flops", "deviation", "reduction"],
    ...suggestions.map((x) => [x.sparsity, x.nonzero_params, x.data, x.flops, x.deviation, x.reduction]),
  ],
};

function saveTable(state, name) {
  const served = { runs: `${state.base}/runs?format=csv`, contours: ofGroup(state, `/law/contours?format=csv&accounting=${state.question?.accounting ?? "dense"}`) };
  if (served[name]) {
    h("a", { href: served[name], download: "" }).click();
    return;
  }
  const rows = TABLES[name](state);
  if (!rows) return toast("There is no table yet.");
  const text = rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
  save(new Blob([text], { type: "text/csv" }), `${state.sweep.name}-${name}.csv`);
}

function cell(value) {
  const text = String(value ?? "");
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function save(blob, name) {
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
