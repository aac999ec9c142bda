// Where each sparsity is the best, over model size and compute, with a point that answers for the user's own model.

import { call, ofGroup } from "./api.js";
import { colour, quietly } from "./chrome.js";
import { h } from "./dom.js";
import { percent, power, si } from "./numbers.js";
import { frame } from "./picture.js";
import { figureOf, logTicks, series, show, translucent } from "./plot.js";
import { described } from "./runs.js";

const LINES = [0, 0.25, 0.5, 0.75, 0.875];
const DOTS = 15; // in a decade of compute, one above the other
const STEP = 1.15; // factor of one arrow key; with shift its fourth power

let ask = () => {};
let shown = null; // the state that the map shows

export async function drawMap(state) {
  shown = state;
  const figure = document.getElementById("map");
  figure.closest("section").hidden = !state.law;
  if (!state.law) return;
  const accounting = state.question?.accounting ?? "dense";
  const query = LINES.map((s) => `sparsity=${s}`).join("&");
  const lines = await call(ofGroup(state, `/law/contours?${query}&accounting=${accounting}&points=61`));
  const x = lines.nonzero_params;
  const { question } = state;
  const [from, to] = [x[0], x.at(-1)];
  const placed = described(state)
    .filter((run) => run.nonzero_params && run.data)
    .map((run) => [run, (6 * run.nonzero_params * run.data) / (1 - run.sparsity)]);
  // Of dots that would lie on one another, one: a thousand of them take longer than all the rest of the page.
  const apart = new Map(placed.map(([run, c]) => [`${run.nonzero_params} ${Math.round(DOTS * Math.log10(c))}`, [run, c]]));
  const runs = [...apart.values()].map(([run]) => run);
  const spent = [...apart.values()].map(([, c]) => c);
  const visible = [...spent, question.flops, ...lines.contours.map((line) => line.flops[30])];
  const [bottom, top] = [Math.min(...visible) / 4, Math.max(...visible) * 6];
  const floor = bottom / 1e3; // out of sight, so that no line is seen to bend where it leaves the map
  const traces = [{ type: "scatter", mode: "lines", x, y: x.map(() => floor), line: { width: 0 }, hoverinfo: "skip", showlegend: false }];
  const tints = [colour("map-0"), colour("map-1"), colour("map-2"), colour("map-3"), colour("map-4"), colour("map-5")];
  for (const [index, line] of lines.contours.entries()) {
    traces.push({
      type: "scatter",
      mode: "lines",
      x,
      y: line.flops.map((c) => Math.max(c, floor)),
      fill: "tonexty",
      fillcolor: tints[index],
      line: { color: colour("ink"), width: 1.2 },
      showlegend: false,
      hovertemplate: `${line.sparsity ? percent(line.sparsity, 1) + " is the best" : "sparsity starts to pay"}<extra></extra>`,
    });
  }
  traces.push({ type: "scatter", mode: "lines", x, y: x.map(() => top), fill: "tonexty", fillcolor: tints[LINES.length], line: { width: 0 }, hoverinfo: "skip", showlegend: false });
  traces.push({ type: "scatter", mode: "lines", name: "best size of a dense model", x, y: lines.dense_flops, line: { color: colour("muted"), width: 1.4, dash: "dash" }, hoverinfo: "name" });
  const { colour: dots } = series(0);
  traces.push({
    type: "scatter",
    mode: "markers",
    name: "runs of this sweep",
    x: runs.map((run) => run.nonzero_params),
    y: spent,
    text: runs.map((run) => `${si(run.nonzero_params)}, ${percent(run.sparsity)}, ${power(6 * run.nonzero_params * run.data)} FLOPs`),
    hovertemplate: "%{text}<extra></extra>",
    marker: { size: 5, color: translucent(dots, 0.75) },
  });
  const annotations = labels(lines, from, to, bottom, top);
  await show(figure, traces, {
    annotations,
    xaxis: { type: "log", range: [Math.log10(from), Math.log10(to)], title: { text: "non-zero parameters N" }, ...logTicks(from, to, (v) => si(v)) },
    yaxis: { type: "log", range: [Math.log10(bottom), Math.log10(top)], title: { text: "training compute C, FLOPs" }, ...logTicks(bottom, top, (v) => power(v, 1), [1]) },
  });
  place(question);
}

// Each line is named on the right, where nothing else is drawn, or where it leaves the map above.
function labels(lines, from, to, bottom, top) {
  const said = [];
  const taken = []; // places of labels, as shares of the map
  for (const line of lines.contours) {
    let at = Math.round(lines.nonzero_params.length * 0.97);
    while (at > 0 && line.flops[at] > top / 1.6) at -= 1;
    if (line.flops[at] < bottom || at < 3) continue;
    const [x, y] = [Math.log10(lines.nonzero_params[at] / from) / Math.log10(to / from), Math.log10(line.flops[at] / bottom) / Math.log10(top / bottom)];
    const near = (other) => Math.abs(x - other[0]) < (innerWidth < 640 ? 0.24 : 0.07) && Math.abs(y - other[1]) < 0.06;
    if (taken.some(near)) continue;
    taken.push([x, y]);
    said.push({
      x: Math.log10(lines.nonzero_params[at]),
      y: Math.log10(line.flops[at]),
      text: line.sparsity || innerWidth < 640 ? percent(line.sparsity, 1) : "sparsity pays above",
      xanchor: "right",
      yanchor: "middle",
      showarrow: false,
      bgcolor: translucent(colour("raised"), 0.85),
      borderpad: 2,
      font: { size: 11.5, color: colour("ink") },
    });
  }
  return said;
}

function handle() {
  const figure = document.getElementById("map");
  let point = figure.querySelector(".yours");
  if (!point) {
    point = h("div", {
      class: "yours",
      role: "slider",
      tabindex: "0",
      "aria-label": "Your model: size and compute",
      "aria-valuemin": "0",
      "aria-valuemax": "100",
      "aria-valuenow": "0",
    });
    figure.append(point);
    wirePoint(point, figure);
  }
  return point;
}

function place(question) {
  const figure = document.getElementById("map");
  const drawn = figureOf(figure);
  if (!drawn || !question) return;
  const { x, y, left, right, top, bottom } = frame(figure, drawn.layout);
  const point = handle();
  point.style.left = `${clamp(x(question.nonzero_params), left, right)}px`;
  point.style.top = `${clamp(y(question.flops), top, bottom)}px`;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export function movePoint(question) {
  place(question);
}

function wirePoint(point, figure) {
  const moveTo = (event) => {
    const { x, y, left, right, top, bottom } = frame(figure, figureOf(figure).layout);
    const box = figure.getBoundingClientRect();
    go({
      nonzero_params: x.value(clamp(event.clientX - box.left, left, right)),
      flops: y.value(clamp(event.clientY - box.top, top, bottom)),
    });
  };
  const go = (change) => {
    const question = { ...shown.question, ...change };
    place(question);
    ask(question);
  };
  point.addEventListener("pointerdown", (event) => {
    point.setPointerCapture(event.pointerId);
    point.addEventListener("pointermove", moveTo);
    event.preventDefault();
    point.focus();
  });
  point.addEventListener("pointerup", () => point.removeEventListener("pointermove", moveTo));
  point.addEventListener("pointercancel", () => point.removeEventListener("pointermove", moveTo));
  figure.addEventListener("click", (event) => {
    if (event.target.closest(".yours") || !event.target.closest(".picture, .plot, .nsewdrag, .draglayer")) return;
    moveTo(event);
  });
  point.addEventListener("keydown", (event) => {
    const factor = event.shiftKey ? STEP ** 4 : STEP;
    const { nonzero_params: n, flops: c } = shown.question;
    const moves = {
      ArrowRight: { nonzero_params: n * factor },
      ArrowLeft: { nonzero_params: n / factor },
      ArrowUp: { flops: c * factor },
      ArrowDown: { flops: c / factor },
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    go(moves[event.key]);
  });
}

export function wireMap(state, answer) {
  let due = null;
  ask = (question) => {
    state.question = question;
    due ??= setTimeout(() => {
      due = null;
      answer(state.question);
    }, 60);
  };
  document.addEventListener("accountingchange", () => quietly(() => drawMap(state)));
  document.addEventListener("answered", ({ detail: best }) => {
    const point = document.querySelector("#map .yours");
    point?.setAttribute("aria-valuenow", String(Math.round(best.sparsity * 100)));
    point?.setAttribute("aria-valuetext", `${si(best.nonzero_params)} parameters, ${power(best.flops)} FLOPs: ${percent(best.sparsity)} sparse`);
  });
  addEventListener("resize", () => requestAnimationFrame(() => place(state.question)));
}
