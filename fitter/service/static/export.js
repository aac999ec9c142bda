// Every figure as SVG and PNG, every table as CSV.

import { ofGroup } from "./api.js";
import { colour, toast } from "./chrome.js";
import { h } from "./dom.js";
import { figureOf, plotly } from "./plot.js";
import { failed } from "./runs.js";

export function wireExports(state) {
  for (const place of document.querySelectorAll(".export")) {
    const { figure, table, svg } = place.dataset;
    if (figure) place.append(button("SVG", () => saveFigure(state, figure, "svg")), button("PNG", () => saveFigure(state, figure, "png")));
    if (svg) place.append(button("SVG", () => saveForest(state, "svg")), button("PNG", () => saveForest(state, "png")));
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
  const data = figure.traces.filter(({ name }) => !figure.hidden.has(name));
  await Plotly.downloadImage({ data, layout: paper }, { format, width: 1200, height: 720, scale: 2, filename: `${state.sweep.name}-${id}` });
}

async function saveForest(state, format) {
  const drawn = document.getElementById("forest-svg");
  if (!drawn) return toast("There is no figure yet.");
  const copy = drawn.cloneNode(true);
  const [from, to] = [drawn, copy].map((root) => [...root.querySelectorAll("rect, path, line, text")]);
  from.forEach((element, i) => {
    const style = getComputedStyle(element);
    for (const name of ["fill", "stroke", "stroke-width", "font-size", "font-family"]) to[i].setAttribute(name, style.getPropertyValue(name));
  });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  const svg = new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
  save(format === "svg" ? svg : await raster(svg, drawn.clientWidth, drawn.clientHeight), `${state.sweep.name}-forest.${format}`);
}

// A drawing as a PNG of twice its size, on the colour of the cards.
async function raster(svg, width, height) {
  const image = new Image(2 * width, 2 * height);
  image.src = URL.createObjectURL(svg);
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: 2 * width, height: 2 * height });
  const brush = canvas.getContext("2d");
  brush.fillStyle = colour("raised");
  brush.fillRect(0, 0, canvas.width, canvas.height);
  brush.drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

const columnsOf = (names, rows) => rows && [names, ...rows.map((row) => names.map((name) => row[name]))];

// Tables that the page has itself, as rows with their headings; null while there is none.
const TABLES = {
  optima: ({ optima }) => columnsOf(["nonzero_params", "flops", "sparsity", "low", "high", "level", "data", "loss", "dense_loss", "extrapolates"], optima),
  coefficients: ({ law }) => law && [
    ["coefficient", "value", "low", "high", "level"],
    ...Object.entries(law.coefficients).map(([name, value]) => [name, value, law.intervals[name]?.low, law.intervals[name]?.high, law.intervals[name]?.level]),
  ],
  gain: ({ law }) => law && columnsOf(["sparsity", "value", "low", "high"], Object.entries(law.gain).map(([sparsity, gain]) => ({ sparsity, ...gain }))),
  history: ({ law, history }) => law && history && [
    ["version", "created_at", "runs", ...Object.keys(law.coefficients)],
    ...history.map((v) => [v.version, v.created_at, v.runs, ...Object.keys(law.coefficients).map((name) => v.coefficients[name])]),
  ],
  failed: ({ runs }) => columnsOf(["name", "state", "sparsity", "nonzero_params", "data", "reason"], failed(runs)),
  suggestions: ({ suggestions }) => columnsOf(["sparsity", "nonzero_params", "data", "flops", "deviation", "reduction"], suggestions),
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

// As the service writes them: text that a spreadsheet would run as a formula gets a quote before it.
function cell(value) {
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value ?? "");
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function save(blob, name) {
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
