// The runs as a table, and those that failed, with why.

import { chip, h, put, table } from "./dom.js";
import { count, loss, NONE, percent, si } from "./numbers.js";

// The runs that the law of the page's group describes.
export function described(state) {
  const runs = [...state.runs.values()];
  const group = state.sweep?.groups.find(({ name }) => name === state.group);
  if (!group) return runs;
  const members = new Set(group.runs);
  return runs.filter((run) => members.has(run.position));
}

const ROWS = 200;
let all = false;

export function showRuns(state) {
  const runs = [...state.runs.values()].sort((a, b) => a.position - b.position);
  const shown = all ? runs : runs.slice(0, ROWS);
  const columns = [
    ["run", (run) => (run.mlflow ? h("a", { href: run.mlflow, rel: "noreferrer" }, run.name) : run.name)],
    ["state", (run) => chip(run.state)],
    ["loss", (run) => (run.loss == null ? NONE : loss(run.loss)), "num"],
    ["S", (run) => percent(run.sparsity, 2), "num minor"],
    ["N", (run) => si(run.nonzero_params), "num minor"],
    ["D", (run) => si(run.data), "num minor"],
    ["steps", (run) => count(run.steps), "num minor"],
  ];
  const rest = runs.length - shown.length;
  put("runs", table("Runs of the sweep", columns, shown),
    rest ? h("button", { type: "button", onclick: () => { all = true; showRuns(state); } }, `Show ${count(rest)} more`) : null);
}

export const failed = (runs) => [...runs.values()].filter((run) => run.state === "failed" || run.state === "diverged");

export function showFailed(state) {
  const bad = failed(state.runs);
  document.getElementById("failed-section").hidden = bad.length === 0;
  put("failed", table("Runs that failed or diverged", [
    ["run", (run) => run.name],
    ["state", (run) => chip(run.state)],
    ["why", (run) => reason(run.reason), "wide"],
  ], bad));
}

function reason(text) {
  if (!text) return NONE;
  const [first, ...rest] = text.trim().split("\n");
  return rest.length ? h("details", {}, h("summary", {}, first), h("pre", {}, rest.join("\n"))) : first;
}
