// One sweep: loads what the page shows, and keeps it current by server-sent events.

import { showAnswer, showOptima, wireQuestion } from "./answer.js";
import { all, call, ofGroup, Problem } from "./api.js";
import { drawChart, showHeldOut, wireChart } from "./chart.js";
import { quietly, toast, wireHeader } from "./chrome.js";
import { showCoefficients, showHistory } from "./coefficients.js";
import { h, put } from "./dom.js";
import { wireExports } from "./export.js";
import { showForest } from "./forest.js";
import { drawMap, movePoint, wireMap } from "./map.js";
import { plotly } from "./plot.js";
import { showProgress } from "./progress.js";
import { showFailed, showRuns } from "./runs.js";
import { showSuggestions } from "./suggestions.js";

const root = document.getElementById("sweep");
const base = `/v1/sweeps/${encodeURIComponent(root.dataset.name)}`;

// What the page knows. Parts of the page read it; only this file writes it.
const state = { base, sweep: null, runs: new Map(), group: "", law: null, missing: [], question: null };

wireHeader();
wireExports(state);
wireQuestion(state, (question) => movePoint(question));
wireChart(state);
wireMap(state, (question) => quietly(() => showAnswer(state, question)));

// The law, or what is missing for one.
async function askLaw() {
  try {
    return { law: await call(ofGroup(state, "/law")), missing: [] };
  } catch (problem) {
    if (!(problem instanceof Problem) || problem.status !== 404) throw problem;
    return { law: null, missing: problem.document.missing ?? [] };
  }
}

let loading = 0;

// What a reader sees first: the answer, the numbers, the chart. Whether a later call has not overtaken this one.
async function loadLaw(asked = askLaw()) {
  const mine = (loading += 1);
  const found = await asked;
  if (mine !== loading) return false; // another group has been chosen meanwhile
  Object.assign(state, found);
  if (state.law) state.group = state.law.group ?? "";
  await showAnswer(state); // it settles the question that the map begins with
  await Promise.all([showOptima(state), showCoefficients(state), loaded.then(() => drawChart(state))]);
  return mine === loading;
}

// What stands below, from above to below, one after the other: the dearest questions last.
async function loadBelow() {
  for (const part of [drawMap, showHistory]) await part(state);
  await Promise.all([enliven(), showHeldOut(state).then(() => showSuggestions(state))]);
}

// Plotly takes the pictures' place. Reading it holds the page up for a while, so it comes when the page can be read.
async function enliven() {
  try {
    await plotly();
    root.dataset.interactive = "true";
  } catch (problem) {
    const still = document.getElementById("still");
    still.textContent = `${problem.message} The figures are still pictures: load the page again to have them answer to the pointer.`;
    still.hidden = false;
  }
}

async function reloadLaw() {
  if (await loadLaw()) await loadBelow();
}

async function loadRuns() {
  for (const run of await all(`${base}/runs`)) state.runs.set(run.position, run);
}

function listRuns() {
  showRuns(state);
  showFailed(state);
}

async function loadForest() {
  showForest((await call(`${base}/forest`)).segments, state);
}

async function loadSweep() {
  state.sweep = await call(base);
  showProgress(state.sweep.progress, state.sweep);
  showGroups();
  put("spec-text", state.sweep.spec_text);
  document.getElementById("spec-title").closest("section").hidden = !state.sweep.spec_text; // imported runs have none
}

// Where families, methods or patterns are mixed, each group of runs has a law of its own: a choice above the answer.
function showGroups() {
  const names = state.sweep.groups.map(({ name }) => name);
  if (!names.includes(state.group)) state.group = names[0] ?? "";
  document.getElementById("group-choice").hidden = names.length < 2;
  put("group", names.map((name) => h("option", { value: name, selected: name === state.group }, name)));
}

document.getElementById("group").addEventListener("change", (event) => {
  state.group = event.target.value;
  quietly(reloadLaw);
});

// Several events in one moment become one piece of work.
function soon(work, wait) {
  let due = null;
  return () => {
    due ??= setTimeout(async () => {
      due = null;
      await quietly(async () => work());
    }, wait);
  };
}

const forestSoon = soon(loadForest, 300);
const runsSoon = soon(async () => {
  listRuns();
  await drawChart(state);
  await showHeldOut(state);
}, 300);

function listen() {
  const events = new EventSource(`${base}/events`);
  const trained = ({ segments, working }) => JSON.stringify([segments, working]);
  let told = trained(state.sweep.progress); // the first event often says what has just been loaded
  events.addEventListener("progress", (event) => {
    const progress = JSON.parse(event.data);
    showProgress(progress, state.sweep);
    if (trained(progress) !== told) forestSoon();
    told = trained(progress);
  });
  events.addEventListener("run", (event) => {
    const run = JSON.parse(event.data);
    state.runs.set(run.position, run);
    runsSoon();
  });
  events.addEventListener("law", (event) => {
    const law = JSON.parse(event.data);
    if (law.group !== state.group || law.version <= (state.law?.version ?? 0)) return;
    toast(`Law version ${law.version}, from ${law.runs} runs`);
    quietly(reloadLaw);
  });
}

document.addEventListener("schemechange", () => {
  for (const draw of [drawChart, drawMap, showHistory]) quietly(() => draw(state));
});
document.addEventListener("sweepchange", () => quietly(loadSweep));

const loaded = Promise.all([loadSweep(), loadRuns()]);
try {
  await Promise.all([loaded.then(listen), loadLaw()]); // the law of the default group, which is the first
  root.dataset.ready = "true";
  listRuns();
  await Promise.all([loadForest(), loadBelow()]);
} catch (problem) {
  toast(problem.message);
  put("status", problem.message);
}
root.dataset.ready = root.dataset.complete = "true";
