// Plotly, loaded when the page has shown its words, and dressed in the page's colours.

import { colour } from "./chrome.js";

let loading = null;

// The words are painted first: reading the library holds the page up. A page that nobody sees is never painted.
const painted = () => new Promise((resolve) => {
  requestAnimationFrame(() => setTimeout(resolve));
  setTimeout(resolve, 200);
});

export function plotly() {
  loading ??= painted().then(read);
  return loading;
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

export function layout(more) {
  const { xaxis, yaxis, ...rest } = more;
  const narrow = innerWidth < 640;
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12.5, color: colour("ink") },
    margin: { l: narrow ? 56 : 68, r: narrow ? 10 : 24, t: 12, b: 52 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, bgcolor: "rgba(0,0,0,0)" },
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

export const CONFIG = { displayModeBar: false, responsive: true, scrollZoom: false };
