// What to train next, with what it costs.

import { call, ofGroup, Problem } from "./api.js";
import { put, table } from "./dom.js";
import { percent, power, si } from "./numbers.js";

export async function showSuggestions(state) {
  const section = document.getElementById("suggestions-section");
  section.hidden = true;
  if (!state.law) return;
  try {
    const { items } = await call(ofGroup(state, "/suggestions"));
    state.suggestions = items;
    section.hidden = items.length === 0;
    put("suggestions", table("Runs worth doing next", [
      ["S", (x) => percent(x.sparsity, 2)],
      ["N", (x) => si(x.nonzero_params), "num"],
      ["D", (x) => si(x.data), "num"],
      ["cost, FLOPs", (x) => power(x.flops), "num"],
      ["less variance", (x) => percent(x.reduction, 0), "num"],
    ], items));
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem; // a service without suggestions shows none
  }
}
