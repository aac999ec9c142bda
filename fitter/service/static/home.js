// The list of sweeps, and submitting one.

import { call, post, Problem } from "./api.js";
import { toast, wireHeader } from "./chrome.js";
import { chip, h, put } from "./dom.js";
import { ago, count, loss, NONE } from "./numbers.js";
import { bar } from "./progress.js";

const REFRESH = 4000; // ms between looks at the list while the page is in view

wireHeader();
let pages = 1;

function card(sweep) {
  const runs = sweep.runs;
  const ended = runs.completed + runs.failed + runs.diverged;
  const address = `/sweeps/${encodeURIComponent(sweep.name)}`;
  return h(
    "article",
    { class: "sweep" },
    h("div", { class: "sweep-head" }, h("h3", {}, h("a", { href: address }, sweep.name)), chip(sweep.state)),
    bar(runs, `${ended} of ${runs.total} runs ended`),
    h(
      "dl",
      { class: "facts small" },
      fact("runs", [`${count(runs.completed)} of ${count(runs.total)}`, runs.failed + runs.diverged ? h("small", { class: "bad" }, ` ${count(runs.failed + runs.diverged)} failed`) : null]),
      fact("best loss", sweep.best_loss == null ? NONE : loss(sweep.best_loss)),
      fact("law", sweep.law_version == null ? "not yet" : `version ${sweep.law_version}`),
      fact("submitted", ago(sweep.created_at)),
    ),
  );
}

function fact(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}

async function refresh() {
  const sweeps = [];
  let cursor = "";
  for (let page = 0; page < pages; page += 1) {
    const answer = await call(`/v1/sweeps?limit=60${cursor ? `&cursor=${cursor}` : ""}`);
    sweeps.push(...answer.items);
    cursor = answer.next_cursor;
    if (!cursor) break;
  }
  const focused = document.activeElement?.closest?.(".sweep a")?.getAttribute("href");
  put("sweeps", sweeps.map(card)).setAttribute("aria-busy", "false");
  if (focused) document.querySelector(`.sweep a[href="${CSS.escape(focused)}"]`)?.focus();
  document.getElementById("count").textContent = sweeps.length ? count(sweeps.length) : "";
  document.getElementById("empty").hidden = sweeps.length > 0;
  document.getElementById("sweeps-title").parentElement.hidden = sweeps.length === 0;
  document.getElementById("more").hidden = !cursor;
}

async function watch() {
  try {
    if (!document.hidden) await refresh();
  } catch (problem) {
    toast(problem.message);
  }
  setTimeout(watch, REFRESH);
}

document.getElementById("more").addEventListener("click", () => {
  pages += 1;
  refresh();
});

document.getElementById("spec-file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file) document.getElementById("spec").value = await file.text();
});

document.getElementById("submit").addEventListener("submit", async (event) => {
  event.preventDefault();
  put("spec-problems");
  try {
    const made = await post("/v1/sweeps", document.getElementById("spec").value, "application/yaml");
    location.assign(made.links.page);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    put("spec-problems", h("p", { class: "bad" }, problem.document.title ?? problem.message), problems(problem));
  }
});

function problems(problem) {
  const found = problem.document.errors ?? [];
  if (!found.length) return h("p", {}, problem.message);
  return h(
    "ul",
    { class: "problems" },
    found.map((item) =>
      h(
        "li",
        {},
        item.line ? h("span", { class: "muted" }, `line ${item.line} `) : null,
        item.path ? h("code", {}, item.path) : null,
        " ",
        item.message,
      ),
    ),
  );
}

watch();
