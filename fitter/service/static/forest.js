// The forest: training steps from left to right, one lane for each branch, coloured by state as it trains.

import { h, put, s } from "./dom.js";
import { count, si } from "./numbers.js";

const STATES = ["completed", "running", "pending", "failed", "diverged"];
const MARGIN = { left: 8, right: 16, top: 22, bottom: 4 };

export function showForest(segments, state) {
  document.getElementById("forest").closest("section").hidden = segments.length === 0; // all runs were imported
  const tally = Object.fromEntries(STATES.map((name) => [name, segments.filter((x) => x.state === name).length]));
  put("forest-legend", STATES.filter((name) => tally[name]).map((name) =>
    h("span", { class: "key" }, h("span", { class: `swatch ${name}`, "aria-hidden": "true" }), `${count(tally[name])} ${name}`)));
  note(segments);
  const { lanes, placed } = lanesOf(segments);
  const box = document.getElementById("forest");
  const width = Math.max(box.clientWidth - 2, 560);
  const height = lanes > 400 ? 3 : lanes > 120 ? 6 : lanes > 40 ? 11 : 15;
  const thick = Math.max(2, Math.round(height * 0.62));
  const last = Math.max(...segments.map((x) => x.end_step), 1);
  const x = (step) => MARGIN.left + (step / last) * (width - MARGIN.left - MARGIN.right);
  const y = (lane) => MARGIN.top + lane * height + height / 2;
  const drawn = [];
  for (const step of ticks(last)) {
    drawn.push(s("line", { class: "grid", x1: x(step), x2: x(step), y1: MARGIN.top - 4, y2: MARGIN.top + lanes * height }));
    drawn.push(s("text", { class: "tick", x: x(step), y: 12, "text-anchor": step ? "middle" : "start" }, step ? si(step) : "step 0"));
  }
  for (const segment of segments) {
    const lane = placed.get(segment.key);
    const parent = placed.get(segment.parent_key);
    const [from, to] = [x(segment.start_step), x(segment.end_step)];
    if (parent !== undefined && parent !== lane)
      drawn.push(s("path", { class: "join", d: `M${from} ${y(parent)}V${y(lane)}h3` }));
    const gap = parent === lane ? 1 : 3;
    const attributes = { x: from + gap, y: y(lane) - thick / 2, width: Math.max(to - from - gap, 1), height: thick, rx: Math.min(3, thick / 2) };
    const bar = s("rect", { class: `segment ${segment.state}`, ...attributes }, s("title", {}, describe(segment, state)));
    drawn.push(bar);
    if (segment.state === "running" && segment.step > segment.start_step) {
      const done = (segment.step - segment.start_step) / (segment.end_step - segment.start_step);
      drawn.push(s("rect", { class: "segment done", ...attributes, width: Math.max((to - from - gap) * done, 1) }));
    }
  }
  put(box, s("svg", { id: "forest-svg", width, height: MARGIN.top + MARGIN.bottom + lanes * height, role: "img", "aria-label": `${segments.length} training segments: ${STATES.filter((n) => tally[n]).map((n) => `${tally[n]} ${n}`).join(", ")}` }, drawn));
}

// A trunk keeps its lane through its longest descendant; every other child gets a lane of its own below.
function lanesOf(segments) {
  const children = new Map();
  for (const segment of segments) {
    const list = children.get(segment.parent_key) ?? [];
    list.push(segment);
    children.set(segment.parent_key, list);
  }
  const known = new Set(segments.map((segment) => segment.key));
  const roots = segments.filter((segment) => segment.parent_key === null || !known.has(segment.parent_key));
  const reach = new Map();
  for (const segment of [...segments].reverse()) {
    const below = (children.get(segment.key) ?? []).map((child) => reach.get(child.key));
    // The trunk is what most runs go through; among equals, what goes furthest.
    reach.set(segment.key, [segment.runs.length, Math.max(segment.end_step, ...below.map((r) => r[1]))]);
  }
  const placed = new Map();
  let lanes = 0;
  const stack = roots.reverse().map((root) => [root, null]);
  while (stack.length) {
    const [segment, lane] = stack.pop();
    placed.set(segment.key, lane ?? lanes);
    if (lane === null) lanes += 1;
    const below = [...(children.get(segment.key) ?? [])].sort((a, b) => {
      const [ra, rb] = [reach.get(a.key), reach.get(b.key)];
      return rb[0] - ra[0] || rb[1] - ra[1] || a.end_step - b.end_step;
    });
    below.slice(1).reverse().forEach((child) => stack.push([child, null]));
    if (below.length) stack.push([below[0], placed.get(segment.key)]);
  }
  return { lanes, placed };
}

function describe(segment, state) {
  const runs = segment.runs.length;
  const first = state.runs.get(segment.runs[0])?.name ?? `run ${segment.runs[0]}`;
  const lines = [
    `${segment.state}, steps ${count(segment.start_step)} to ${count(segment.end_step)}`,
    runs === 1 ? `needed by ${first}` : `shared by ${count(runs)} runs, such as ${first}`,
    segment.key.slice(0, 12),
  ];
  if (segment.attempts > 1) lines.push(`${segment.attempts} attempts`);
  if (segment.reason) lines.push(segment.reason.slice(0, 300));
  return lines.join("\n");
}

function note(segments) {
  const once = segments.reduce((sum, x) => sum + x.end_step - x.start_step, 0);
  const alone = segments.reduce((sum, x) => sum + (x.end_step - x.start_step) * x.runs.length, 0);
  document.getElementById("forest-note").textContent =
    alone > once
      ? `Runs that start alike share their trunk, so each stretch is trained once: ${si(once)} steps in place of ${si(alone)}.`
      : "These runs share nothing: each is trained by itself.";
}

function ticks(last) {
  const raw = last / 5;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * unit).find((m) => m >= raw);
  return Array.from({ length: Math.floor(last / step) + 1 }, (_, i) => i * step);
}
