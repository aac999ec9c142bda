// The law against the measurements: logarithmic axes, one colour and marker for each sparsity.

import { call, ofGroup, post, Problem } from "./api.js";
import { colour, quietly } from "./chrome.js";
import { h, put } from "./dom.js";
import { described } from "./runs.js";
import { count, loss, percent, si } from "./numbers.js";
import { logTicks, series, show, translucent } from "./plot.js";

const POINTS = 24; // on each line of the law
const MOST_LINES = 60;

let kind = "data";
let at = {}; // for each kind: the size or length shown, or null for all
let drawing = 0;

const named = (sparsity) => (sparsity ? percent(sparsity, 2) : "dense");
const distinct = (values) => [...new Set(values)].sort((a, b) => a - b);

function finished(state) {
  return described(state).filter((run) => run.state === "completed" && run.loss != null && run.nonzero_params && run.data);
}

export async function drawChart(state) {
  const mine = (drawing += 1);
  const runs = finished(state);
  const figure = document.getElementById("chart");
  if (!runs.length) {
    put("chart-note", "Points appear here as runs complete.");
    figure.hidden = true;
    return;
  }
  const predicted = state.law ? predict(state, runs) : null; // on its way while the lines are asked for
  const sparsities = distinct(runs.map((run) => run.sparsity));
  const build = kind === "parity" ? parity : against;
  const held = heldOut(state);
  const { traces, more, note } = await build(state, runs, sparsities, predicted, held);
  if (mine !== drawing) return;
  put("chart-note", note);
  figure.hidden = !traces.length;
  if (figure.hidden) return;
  figure.setAttribute("aria-label", `Measured and predicted loss. ${note}`);
  await show(figure, traces, more);
}

// The runs at the far end of the axis, as a law that has not seen them predicts them; null while that is not known.
let asked = { key: null, answer: null };

function heldOutAxis(state) {
  const axis = kind === "params" ? "nonzero_params" : "data";
  return { axis, key: `${state.law.version} ${axis} ${finished(state).length}` };
}

function heldOut(state) {
  if (!state.law || asked.key !== heldOutAxis(state).key || !asked.answer) return null;
  return { ...asked.answer, at: new Map(asked.answer.positions.map((position, i) => [position, i])) };
}

// A fit of its own, which takes a second: asked once the chart is drawn without it, which is then drawn again.
export async function showHeldOut(state) {
  if (!state.law || !finished(state).length) return;
  const { axis, key } = heldOutAxis(state);
  if (asked.key === key) return;
  asked = { key, answer: null };
  let answer = null;
  try {
    answer = await call(ofGroup(state, `/law/held-out?axis=${axis}`));
  } catch (problem) {
    if (!(problem instanceof Problem) || problem.status !== 422) throw problem; // too few runs would be left
  }
  if (!answer || asked.key !== key) return;
  asked = { key, answer };
  await drawChart(state);
}

async function drawAll(state) {
  await drawChart(state);
  await showHeldOut(state);
}

const WHAT = { data: "longest", nonzero_params: "largest" };

function heldNote(held) {
  if (!held) return "";
  return ` Ringed runs are held out: a law fitted to the other ${count(held.runs_fitted)} predicts these ${WHAT[held.axis]} ones within ${percent(held.log_rmse, 2)}.`;
}

// Rings around the held-out runs. They lie below the points, so that a point still tells its run.
function rings(runs, held, x, y) {
  const part = held ? runs.filter((run) => held.at.has(run.position)) : [];
  if (!part.length) return [];
  return [{
    type: "scatter",
    mode: "markers",
    x: part.map(x),
    y: part.map(y),
    marker: { symbol: "circle-open", size: 15, color: colour("ink"), line: { width: 1.4 } },
    hoverinfo: "skip",
    name: "held out",
  }];
}

function predict(state, points, intervals = false) {
  return post(ofGroup(state, "/law/predict"), {
    intervals,
    sparsity: points.map((p) => p.sparsity),
    nonzero_params: points.map((p) => p.nonzero_params),
    data: points.map((p) => p.data),
  });
}

function hover(run, value, held) {
  const index = held?.at.get(run.position);
  const unseen = index === undefined ? "" : `<br>held out: predicted ${loss(held.loss[index])} without it (${((run.loss / held.loss[index] - 1) * 100).toFixed(2)} % off)`;
  const error = value == null ? "" : `<br>predicted ${loss(value)} (${((run.loss / value - 1) * 100).toFixed(2)} % off)`;
  const link = run.mlflow ? "<br><i>click: open in MLflow</i>" : "";
  return `<b>${escape(run.name)}</b><br>measured ${loss(run.loss)}${error}${unseen}${link}`;
}

// Plotly reads a little HTML in its texts; names are not HTML.
function escape(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function markers(runs, values, index, x, y, held) {
  const { colour, symbol } = series(index);
  return {
    type: "scatter",
    mode: "markers",
    x: runs.map(x),
    y: runs.map(y),
    marker: { color: colour, symbol, size: 8, line: { width: 1, color: translucent("#ffffff", 0.6) } },
    customdata: runs.map((run) => ({ mlflow: run.mlflow })),
    text: runs.map((run, i) => hover(run, values?.[i], held)),
    hovertemplate: "%{text}<extra></extra>",
  };
}

// Loss over data (a line for each size and sparsity) or over size (for each length and sparsity).
async function against(state, runs, sparsities, predicting, held) {
  const over = kind === "data" ? "data" : "nonzero_params";
  const fixed = kind === "data" ? "nonzero_params" : "data";
  const levels = distinct(runs.map((run) => run[fixed]));
  const chosen = levels.includes(at[kind]) ? at[kind] : null;
  showLevels(state, levels, chosen);
  const shown = chosen == null ? levels : [chosen];
  const [low, high] = [Math.min(...runs.map((r) => r[over])), Math.max(...runs.map((r) => r[over]))];
  const [from, to] = [low / 1.5, high * 2.2];
  const traces = [];
  const lines = [];
  if (state.law && sparsities.length * shown.length <= MOST_LINES) {
    for (const [index, sparsity] of sparsities.entries())
      for (const level of shown)
        for (let i = 0; i < POINTS; i += 1)
          lines.push({ index, sparsity, [fixed]: level, [over]: from * (to / from) ** (i / (POINTS - 1)) });
  }
  const [predicted, answer] = await Promise.all([predicting, lines.length ? predict(state, lines, chosen != null) : null]);
  for (let start = 0; start < lines.length; start += POINTS) {
    const part = lines.slice(start, start + POINTS);
    const cut = (values) => values.slice(start, start + POINTS);
    const { colour } = series(part[0].index);
    const x = part.map((p) => p[over]);
    const common = { type: "scatter", mode: "lines", x, name: named(part[0].sparsity), hoverinfo: "skip", showlegend: false };
    if (chosen != null && answer.low[0] != null) {
      traces.push({ ...common, y: cut(answer.low), line: { width: 0 } });
      traces.push({ ...common, y: cut(answer.high), line: { width: 0 }, fill: "tonexty", fillcolor: translucent(colour, 0.14) });
    }
    traces.push({ ...common, y: cut(answer.loss), line: { color: colour, width: 1.6 } });
  }
  const losses = [];
  traces.push(...rings(runs.filter((run) => shown.includes(run[fixed])), held, (run) => run[over], (run) => run.loss));
  for (const [index, sparsity] of sparsities.entries()) {
    const which = runs.map((run, i) => i).filter((i) => runs[i].sparsity === sparsity && shown.includes(runs[i][fixed]));
    const part = which.map((i) => runs[i]);
    losses.push(...part.map((run) => run.loss));
    traces.push({
      ...markers(part, which.map((i) => predicted?.loss[i]), index, (run) => run[over], (run) => run.loss, held),
      name: named(sparsity),
    });
  }
  const [bottom, top] = [Math.min(...losses) * 0.97, Math.max(...losses) * 1.03];
  const level = state.law?.settings?.level;
  return {
    traces,
    note: state.law
      ? `Points are runs, lines are the law${chosen != null && level ? `, bands its ${percent(level, 0)} interval` : ""}. Both axes are logarithmic.${heldNote(held)}`
      : "Points are runs; the law’s lines appear with its first version.",
    more: {
      xaxis: { type: "log", range: [Math.log10(from), Math.log10(to)], title: { text: kind === "data" ? "training data D, tokens" : "non-zero parameters N" }, ...logTicks(from, to, (v) => si(v)) },
      yaxis: { type: "log", range: [Math.log10(bottom), Math.log10(top)], title: { text: "validation loss, nats" }, ...lossTicks(bottom, top) },
    },
  };
}

async function parity(state, runs, sparsities, predicting, held) {
  showLevels(state, [], null);
  const predicted = await predicting;
  if (!predicted) return { traces: [], note: "This needs a law." };
  const values = [...runs.map((run) => run.loss), ...predicted.loss];
  const [low, high] = [Math.min(...values) * 0.98, Math.max(...values) * 1.02];
  const range = [Math.log10(low), Math.log10(high)];
  const traces = [
    { type: "scatter", mode: "lines", x: [low, high], y: [low, high], line: { color: colour("muted"), width: 1, dash: "dot" }, hoverinfo: "skip", showlegend: false },
  ];
  const unseen = (run) => held.loss[held.at.get(run.position)];
  traces.push(...rings(runs, held, (run) => run.loss, unseen));
  for (const [index, sparsity] of sparsities.entries()) {
    const which = runs.map((run, i) => i).filter((i) => runs[i].sparsity === sparsity);
    const part = which.map((i) => runs[i]);
    const said = which.map((i) => predicted.loss[i]);
    traces.push({ ...markers(part, said, index, (run) => run.loss, (run) => said[part.indexOf(run)], held), name: named(sparsity) });
  }
  const error = Math.sqrt(runs.reduce((sum, run, i) => sum + Math.log(run.loss / predicted.loss[i]) ** 2, 0) / runs.length);
  return {
    traces,
    note: `${count(runs.length)} runs lie ${percent(error, 2)} from the law (root mean square of the logarithm). On the dotted line the law is exact.${held ? ` Rings are the ${WHAT[held.axis]} runs as a law fitted without them predicts them: within ${percent(held.log_rmse, 2)}.` : ""}`,
    more: {
      xaxis: { type: "log", range, title: { text: "measured loss, nats" }, ...lossTicks(low, high) },
      yaxis: { type: "log", range, title: { text: "predicted loss, nats" }, ...lossTicks(low, high) },
    },
  };
}

function lossTicks(low, high) {
  const span = high - low;
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5].find((s) => span / s <= 8) ?? 10;
  const tickvals = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) tickvals.push(Number(value.toFixed(4)));
  return { tickvals, ticktext: tickvals.map(String) };
}

function showLevels(state, levels, chosen) {
  let box = document.getElementById("chart-level");
  box?.remove();
  if (levels.length < 2) return;
  const name = kind === "data" ? "N" : "D";
  box = h(
    "select",
    { id: "chart-level", "aria-label": kind === "data" ? "Model size shown" : "Training data shown" },
    h("option", { value: "" }, kind === "data" ? "every size" : "every length"),
    levels.map((level) => h("option", { value: level, selected: level === chosen }, `${name} = ${si(level)}`)),
  );
  box.addEventListener("change", () => {
    at[kind] = box.value ? Number(box.value) : null;
    quietly(() => drawAll(state));
  });
  document.getElementById("chart-kind").after(box);
}

export function wireChart(state) {
  const group = document.getElementById("chart-kind");
  group.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    kind = button.dataset.kind;
    for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
    quietly(() => drawAll(state));
  });
}
