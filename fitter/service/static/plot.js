// Figures: drawn at once as still pictures, and by Plotly in the page's colours as soon as that has been read.

import { colour } from "./chrome.js";
import { h, s } from "./dom.js";
import { marker, picture } from "./picture.js";

const shown = new Map(); // figure → what it shows: { traces, layout, hidden: names that its reader has switched off }
let library = null;
let reading = null;

// Shows traces and a layout, as Plotly takes them, in a figure. Axes have a range and ticks.
export async function show(figure, traces, more) {
  const hidden = shown.get(figure)?.hidden ?? new Set();
  shown.set(figure, { traces, layout: layout(more), hidden });
  showLegend(figure);
  await draw(figure);
}

export const figureOf = (figure) => shown.get(figure);

async function draw(figure) {
  const { traces, layout, hidden } = shown.get(figure);
  const seen = traces.filter(({ name }) => !hidden.has(name));
  if (!library) {
    picture(figure, seen, layout);
    return;
  }
  await library.react(figure, seen, layout, { displayModeBar: false, responsive: true, scrollZoom: false });
  figure.querySelector(".picture")?.remove();
  figure.removeAllListeners("plotly_click");
  figure.on("plotly_click", ({ points: [point] }) => point.customdata?.mlflow && open(point.customdata.mlflow, "_blank", "noreferrer"));
}

addEventListener("resize", () => {
  if (!library) for (const figure of shown.keys()) if (figure.clientWidth) draw(figure);
});

// Plotly, which from then on draws all figures: they tell what lies under the pointer, and can be zoomed and saved.
export function plotly() {
  reading ??= read().then(async (found) => {
    library = found;
    for (const figure of shown.keys()) await draw(figure);
    return found;
  });
  return reading;
}

function read() {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = document.getElementById("sweep").dataset.plotly;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("The plotting library could not be loaded."));
    document.head.append(script);
  });
}

// The names of the traces above their figure, as buttons that switch them off and on.
function showLegend(figure) {
  const { traces, hidden } = shown.get(figure);
  const entries = traces.filter((trace) => trace.name && trace.showlegend !== false).map((trace) => {
    const { name } = trace;
    const toggle = ({ currentTarget: button }) => {
      if (!hidden.delete(name)) hidden.add(name);
      button.setAttribute("aria-pressed", String(!hidden.has(name)));
      return draw(figure);
    };
    return h("button", { type: "button", class: "quiet key", "aria-pressed": String(!hidden.has(name)), onclick: toggle }, sample(trace), name);
  });
  const legend = h("div", { class: "legend", role: "group", "aria-label": "Shown in the figure" }, entries);
  if (figure.previousElementSibling?.classList.contains("legend")) figure.previousElementSibling.replaceWith(legend);
  else figure.before(legend);
}

function sample({ mode, line, marker: dot }) {
  return s("svg", { width: 20, height: 16, "aria-hidden": "true" },
    mode.includes("lines") && line ? s("path", { d: "M0,8H20", stroke: line.color, "stroke-width": line.width, "stroke-dasharray": line.dash && "4,3" }) : null,
    mode.includes("markers") ? marker({ ...dot, color: dot.color ?? line.color }, 10, 8) : null);
}

// Okabe and Ito's colours tell apart by every kind of colour sight; a marker says it once more.
const MARKERS = ["circle", "square", "diamond", "triangle-up", "cross", "pentagon", "star", "triangle-down"];

export function series(index) {
  return { colour: colour(`series-${index % 8}`), symbol: MARKERS[index % MARKERS.length] };
}

export function translucent(hex, alpha) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  return `rgba(${r}, ${g}, ${b}, ${alpha})`;
}

// No automargin: with it a chart is drawn twice.
const axis = () => ({
  color: colour("muted"),
  gridcolor: colour("line"),
  linecolor: colour("line-strong"),
  zeroline: false,
  title: { font: { size: 13, color: colour("ink") }, standoff: 10 },
});

function layout(more) {
  const { xaxis, yaxis, ...rest } = more;
  const narrow = innerWidth < 640;
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12.5, color: colour("ink") },
    margin: { l: narrow ? 56 : 68, r: narrow ? 10 : 24, t: 8, b: 52 },
    showlegend: false,
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line-strong"), font: { color: colour("ink"), size: 12.5 }, align: "left" },
    hovermode: "closest",
    dragmode: false,
    ...rest,
    xaxis: { ...axis(), ...xaxis, title: { ...axis().title, ...xaxis.title } },
    yaxis: { ...axis(), ...yaxis, title: { ...axis().title, ...yaxis.title } },
  };
}

// Ticks of a logarithmic axis as people write them. `values` are the data that the axis shows.
export function logTicks(low, high, format, steps = [1, 2, 5]) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const step of steps) {
      const value = step * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
    }
  }
  const most = innerWidth < 640 ? 5 : 9;
  if (found.length > most && steps.length > 1) return logTicks(low, high, format, steps.length === 3 ? [1, 3] : [1]);
  const every = Math.ceil(found.length / most);
  const kept = found.filter((_, i) => i % every === 0);
  return { tickvals: kept, ticktext: kept.map(format) };
}
