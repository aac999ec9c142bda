// Figures as still pictures, drawn at once from what Plotly is given: it takes a second to be read, and then their place.

import { s } from "./dom.js";

const polygon = (corners, reach) => (r) =>
  `M${corners.map((turn, i) => [Math.sin(turn * 2 * Math.PI), -Math.cos(turn * 2 * Math.PI)].map((v) => (v * r * reach(i)).toFixed(2))).join("L")}Z`;
const even = (n) => Array.from({ length: n }, (_, i) => i / n);
const circle = (r) => `M${r},0A${r},${r} 0 1,1 0,${-r}A${r},${r} 0 0,1 ${r},0Z`;

// The shapes and sizes of Plotly's markers of these names, around (0, 0), for a radius.
const SYMBOLS = {
  circle,
  "circle-open": circle,
  square: (r) => `M${r},${r}H${-r}V${-r}H${r}Z`,
  diamond: polygon(even(4), () => 1.3),
  "triangle-up": (r) => `M${-1.15 * r},${r / 2}H${1.15 * r}L0,${-r}Z`,
  "triangle-down": (r) => `M${-1.15 * r},${-r / 2}H${1.15 * r}L0,${r}Z`,
  cross: (r) => { const [a, b] = [1.2 * r, 0.4 * r]; return `M${a},${b}H${b}V${a}H${-b}V${b}H${-a}V${-b}H${-b}V${-a}H${b}V${-b}H${a}Z`; },
  pentagon: polygon(even(5), () => 1),
  star: polygon(even(10), (i) => (i % 2 ? 0.382 : 1) * 1.4),
};
const DASHES = { dot: "3,3", dash: "9,9" };

function scale({ type, range: [low, high] }, from, length) {
  const place = (value) => from + (((type === "log" ? Math.log10(value) : value) - low) / (high - low)) * length;
  place.value = (px) => { const at = low + ((px - from) / length) * (high - low); return type === "log" ? 10 ** at : at; };
  return place;
}

// Where the plot lies in its figure, in px, and where each value lies in the figure (`x`, `y`; `x.value` is the inverse).
export function frame(figure, { margin, xaxis, yaxis }) {
  const [left, top] = [margin.l, margin.t];
  const [right, bottom] = [figure.clientWidth - margin.r, figure.clientHeight - margin.b];
  return { left, top, right, bottom, x: scale(xaxis, left, right - left), y: scale(yaxis, bottom, top - bottom) };
}

export function marker({ symbol = "circle", size, color, line }, x, y) {
  const open = symbol.endsWith("-open");
  const stroke = open ? color : line?.color;
  return s("path", { class: "point", d: SYMBOLS[symbol](size / 2), transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`, fill: open ? "none" : color, stroke, "stroke-width": line?.width });
}

const known = (point) => point.every(Number.isFinite); // 0 has no place on a logarithmic axis

// A line through points, with gaps where one has no place.
function path(points) {
  return points.map((point, i) => known(point) && `${i && known(points[i - 1]) ? "L" : "M"}${point.map((v) => v.toFixed(1))}`).filter(Boolean).join("");
}

// Fills below all lines, then lines and markers from the first trace to the last.
function shapes(traces, { x, y }) {
  const placed = traces.map((trace) => trace.x.map((value, i) => [x(value), y(trace.y[i])]));
  const fills = traces.map((trace, i) => trace.fill && s("path", { d: path([...placed[i], ...placed[i - 1].toReversed()]), fill: trace.fillcolor }));
  const marks = traces.map(({ mode, line: { color, width, dash } = {}, marker: dot }, i) => [
    mode.includes("lines") && width > 0 && s("path", { class: "line", d: path(placed[i]), fill: "none", stroke: color, "stroke-width": width, "stroke-dasharray": DASHES[dash] }),
    mode.includes("markers") && placed[i].filter(known).map((point) => marker({ color, ...dot }, ...point)),
  ]);
  return [fills, marks];
}

// Draws a figure's traces and axes as Plotly would, in the same places.
export function picture(figure, traces, layout) {
  const place = frame(figure, layout);
  const { left, top, right, bottom, x, y } = place;
  const { xaxis, yaxis, font: { size }, annotations = [] } = layout;
  const text = (words, attributes) => s("text", attributes, words);
  const labels = yaxis.ticktext.map((words, i) => text(words, { class: "tick", x: left - 3.5, y: y(yaxis.tickvals[i]) + 0.35 * size, "text-anchor": "end" }));
  const title = text(yaxis.title.text, { class: "title", "text-anchor": "middle" });
  const svg = s("svg", { class: "picture", "aria-hidden": "true", width: figure.clientWidth, height: figure.clientHeight, "font-size": size },
    xaxis.tickvals.map((value) => s("path", { class: "grid", d: `M${x(value)},${top}V${bottom}` })),
    yaxis.tickvals.map((value) => s("path", { class: "grid", d: `M${left},${y(value)}H${right}` })),
    // An inner svg cuts off what lies outside of the axes.
    s("svg", { x: left, y: top, width: right - left, height: bottom - top, viewBox: `${left} ${top} ${right - left} ${bottom - top}` }, shapes(traces, place)),
    s("path", { class: "axis", d: `M${left},${top}V${bottom}H${right}` }),
    xaxis.ticktext.map((words, i) => text(words, { class: "tick", x: x(xaxis.tickvals[i]), y: bottom + 3.5 + size, "text-anchor": "middle" })),
    labels,
    annotations.map((a) => text(a.text, { class: "label", x: x(10 ** a.x) - 2, y: y(10 ** a.y) + 4, "text-anchor": "end", "font-size": a.font.size })),
    text(xaxis.title.text, { class: "title", x: (left + right) / 2, y: bottom + 22.6 + 1.2 * size, "text-anchor": "middle" }),
    title);
  figure.querySelector(".picture")?.remove();
  figure.prepend(svg);
  const widest = Math.max(0, ...labels.map((element) => element.getComputedTextLength()));
  title.setAttribute("transform", `translate(${left - widest - 17.5},${(top + bottom) / 2})rotate(-90)`);
}
