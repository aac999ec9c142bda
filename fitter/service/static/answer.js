// How sparse should my model be: one sentence with its interval, and a table of a few (N, C).

import { call, ofGroup, post } from "./api.js";
import { quietly } from "./chrome.js";
import { h, put, table } from "./dom.js";
import { flopsField, loss, parse, percent, power, si, sizeField } from "./numbers.js";

let asked = 0;

export async function showAnswer(state, question) {
  const form = document.getElementById("question");
  form.hidden = !state.law;
  if (!state.law) {
    put("answer", h("span", { class: "muted" }, "No law yet: it is fitted as soon as the completed runs identify it."),
      h("ul", { class: "missing" }, state.missing.map((sentence) => h("li", {}, sentence))));
    return;
  }
  let best;
  if (question) state.question = question;
  // Nobody has asked yet: the service knows which question the runs answer best.
  else if (!state.question) state.question = best = await call(ofGroup(state, "/law/optimum"));
  const { nonzero_params: n, flops: c, accounting } = state.question;
  if (document.activeElement?.form !== form) {
    form.elements.nonzero_params.value = sizeField(n);
    form.elements.flops.value = flopsField(c);
    form.elements.accounting.value = accounting;
  }
  const mine = (asked += 1);
  best ??= (await optima(state, [[n, c]], accounting))[0];
  if (mine !== asked) return; // a later question has been asked meanwhile
  state.best = best;
  put("answer", sentence(best));
  document.dispatchEvent(new CustomEvent("answered", { detail: best }));
}

// Answers to questions [N, C], in their order.
async function optima(state, questions, accounting) {
  const body = { nonzero_params: questions.map(([n]) => n), flops: questions.map(([, c]) => c), accounting };
  return (await post(ofGroup(state, "/law/optimum"), body)).items;
}

function sentence(best) {
  const level = percent(best.level, 0);
  const interval = best.low == null ? "" : ` (${level} interval ${percent(best.low)} to ${percent(best.high)})`;
  const model = `With ${si(best.nonzero_params)} non-zero parameters and ${power(best.flops)} FLOPs`;
  const said =
    best.sparsity < 0.005
      ? [`${model}, train `, h("strong", {}, "a dense model"), `${interval}: `, `it sees ${si(best.data)} tokens and reaches a loss of ${loss(best.loss)}.`]
      : [
          `${model}, make it `,
          h("strong", {}, `${percent(best.sparsity)} sparse`),
          `${interval}: it sees ${si(best.data)} tokens and reaches a loss of ${loss(best.loss)}, where a dense one reaches ${loss(best.dense_loss)}.`,
        ];
  const doubts = [
    best.sparsity > 0.9989 ? "No more than 99.9\u00a0% is looked at: up to there this law only gains by sparsity." : null,
    best.extrapolates ? "This lies outside what was trained, so the interval understates the doubt." : null,
  ].filter(Boolean);
  return [h("span", {}, said), doubts.length ? h("span", { class: "beyond" }, doubts.join(" ")) : null];
}

export async function showOptima(state) {
  document.getElementById("optima-title").closest(".section-head").hidden = !state.law;
  if (!state.law) {
    put("optima");
    return;
  }
  const { nonzero_params: [small, large], data: [, longest] } = state.law.diagnostics.ranges;
  const sizes = small === large ? [small, 4 * small] : [small, Math.sqrt(small * large), large, large * 4];
  const middle = 6 * sizes[1] * longest;
  const budgets = [1, 4, 16, 64].map((factor) => factor * middle);
  const answers = await optima(state, sizes.flatMap((n) => budgets.map((c) => [n, c])), state.question.accounting);
  state.optima = answers;
  const rows = sizes.map((n, i) => ({ n, answers: answers.slice(i * budgets.length, (i + 1) * budgets.length) }));
  const columns = [
    ["N", (row) => si(row.n)],
    ...budgets.map((c, i) => [`C = ${power(c)}`, (row) => cell(row.answers[i]), "num"]),
  ];
  const beyond = answers.some((best) => best.extrapolates);
  put("optima", table("Optimal sparsity for a few sizes and budgets", columns, rows),
    beyond ? h("p", { class: "muted note" }, "* outside the sizes, lengths or sparsities that were trained") : null);
}

function cell(best) {
  const value = best.sparsity < 0.005 ? "dense" : percent(best.sparsity, 0);
  const interval = best.low == null || best.high < 0.005 ? "" : `${percent(best.low, 0)} – ${percent(best.high, 0)}`;
  const mark = best.extrapolates ? h("abbr", { title: "outside what was trained" }, "*") : h("abbr", { "aria-hidden": "true", class: "blank" }, "*");
  return [h("span", {}, value, mark), h("small", {}, interval)];
}

export function wireQuestion(state, moved) {
  const form = document.getElementById("question");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    const question = { accounting: form.elements.accounting.value };
    for (const name of ["nonzero_params", "flops"]) {
      const input = form.elements[name];
      question[name] = parse(input.value);
      const good = question[name] >= 1 && question[name] <= 1e36;
      input.setAttribute("aria-invalid", String(!good));
      if (!good) return;
    }
    const changed = question.accounting !== state.question?.accounting;
    quietly(async () => {
      await showAnswer(state, question);
      moved(question);
      if (changed) {
        document.dispatchEvent(new CustomEvent("accountingchange"));
        await showOptima(state);
      }
    });
  });
}
