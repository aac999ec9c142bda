// Is my sweep healthy, and when is it done?

import { post } from "./api.js";
import { toast } from "./chrome.js";
import { h, put } from "./dom.js";
import { count, duration, loss, NONE, percent, si } from "./numbers.js";

const ORDER = ["completed", "running", "failed", "diverged", "pending"];

const HEADLINE = {
  done: () => "Done.",
  running: (p) => (p.seconds_left == null ? "Running." : `Running, about ${duration(p.seconds_left)} left.`),
  waiting: () => "Waiting: nothing is being trained. Start a controller with “lacuna run”.",
  paused: () => "Paused. Work stops at the next checkpoint.",
  cancelled: () => "Cancelled. What was trained is kept.",
  attention: (p) => {
    const bad = p.runs.failed + p.runs.diverged;
    const left = p.seconds_left == null ? "" : `, about ${duration(p.seconds_left)} left`;
    return `${count(bad)} ${bad === 1 ? "run needs" : "runs need"} attention${left}.`;
  },
};

// A bar of runs by state. Widths are set by the DOM, so that no style attribute is in the markup.
export function bar(runs, label) {
  const line = h("div", { class: "bar", role: "img", "aria-label": label });
  for (const state of ORDER) {
    if (!runs[state]) continue;
    const piece = h("span", { class: state, title: `${runs[state]} ${state}` });
    piece.style.flexGrow = runs[state];
    line.append(piece);
  }
  return line;
}

export function showProgress(progress, sweep) {
  const { runs, segments } = progress;
  put("status", h("span", { class: `dot ${progress.health}`, "aria-hidden": "true" }), " ",
    HEADLINE[progress.health](progress), " ", `${count(runs.completed)} of ${count(runs.total)} runs done.`);
  const line = bar(runs, `${runs.completed} completed, ${runs.running} running, ${runs.failed} failed, ${runs.diverged} diverged, ${runs.pending} pending`);
  line.id = "bar";
  document.getElementById("bar").replaceWith(line);
  const saved = sweep.plan?.saved;
  const facts = [
    ["time left", progress.seconds_left == null ? NONE : duration(progress.seconds_left)],
    ["speed", progress.steps_per_second ? `${si(progress.steps_per_second)} steps/s` : NONE],
    ["best loss", loss(progress.best_loss)],
    ["segments", segments.total ? `${count(segments.completed)} of ${count(segments.total)}` : NONE],
    ["saved by sharing", saved == null ? NONE : `${percent(saved, 0)} of FLOPs`],
    ["law", progress.law_version == null ? "not yet" : `version ${progress.law_version}`],
  ];
  // What does not apply is left out: a sweep that is over has no speed, imported runs have no segments.
  const told = facts.filter(([, value]) => value !== NONE || progress.state === "active");
  put("facts", told.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  put("working", progress.working.map(worker));
  showActions(progress.state, sweep);
}

function worker(item) {
  const done = (item.step - item.start_step) / (item.end_step - item.start_step);
  const meter = h("progress", { max: 1, value: done, "aria-label": `Segment ${item.segment_key.slice(0, 8)}` });
  return h(
    "div",
    { class: "worker" },
    h("span", {}, item.worker),
    meter,
    h("span", { class: "num" }, `step ${count(item.step)} of ${count(item.end_step)}`),
    h("span", { class: "num muted" }, item.loss == null ? "" : `loss ${loss(item.loss)}`),
    h("span", { class: "muted" }, `${count(item.runs)} ${item.runs === 1 ? "run waits" : "runs wait"} on it`),
  );
}

const ACTIONS = {
  active: [["pause", "Pause"], ["cancel", "Cancel"]],
  paused: [["resume", "Resume"], ["cancel", "Cancel"]],
  cancelled: [["resume", "Resume"]],
  completed: [],
};
let shown = null;

function showActions(state, sweep) {
  if (state === shown) return; // a button under the pointer or the focus must not be replaced
  shown = state;
  const links = sweep.links.mlflow ? [h("a", { class: "button", href: sweep.links.mlflow, rel: "noreferrer" }, "Open in MLflow")] : [];
  put("actions", links, ACTIONS[state].map(([verb, label]) =>
    h("button", { type: "button", "data-verb": verb, onclick: () => act(verb, sweep.name) }, label)));
}

async function act(verb, name) {
  if (verb === "cancel" && !confirm(`Cancel ${name}? What was trained is kept, and you can resume it later.`)) return;
  try {
    const answer = await post(`/v1/sweeps/${encodeURIComponent(name)}/${verb}`);
    toast(`${name} is ${answer.state}`);
    document.dispatchEvent(new CustomEvent("sweepchange"));
  } catch (problem) {
    toast(problem.message);
  }
}
