// The coefficients with their intervals, what sparsity is worth, and what changed from version to version.

import { all, ofGroup } from "./api.js";
import { colour } from "./chrome.js";
import { h, put, table } from "./dom.js";
import { coefficient, count, NONE, percent, when } from "./numbers.js";
import { logTicks, series, show } from "./plot.js";

const MEANING = {
  a_S: "capacity that sparsity removes",
  b_S: "exponent of the density 1 − S",
  c_S: "capacity left at extreme sparsity",
  b_N: "exponent of the size N",
  a_D: "data scale, tokens",
  b_D: "exponent of the data D",
  c: "irreducible loss, nats",
};

// In the formula's order; JSON objects come back in any.
function ordered(coefficients) {
  const order = Object.keys(MEANING);
  const rank = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  return Object.entries(coefficients).sort(([a], [b]) => rank(a) - rank(b));
}

export function showCoefficients(state) {
  const law = state.law;
  if (!law) {
    put("formula");
    put("coefficients", h("p", { class: "muted" }, "They come with the first version of the law."));
    put("gain");
    document.getElementById("gain-title").closest(".section-head").hidden = true;
    return;
  }
  document.getElementById("gain-title").closest(".section-head").hidden = !Object.keys(law.gain).length;
  const level = percent(law.settings?.level ?? Object.values(law.intervals)[0]?.level, 0);
  put("formula", formula(law), h("span", { class: "muted" }, ` version ${law.version}, from ${count(law.runs)} runs`));
  put(
    "coefficients",
    table(
      "Coefficients of the law in raw units",
      [
        ["coefficient", ([name]) => symbol(name)],
        ["value", ([, value]) => coefficient(value), "num"],
        [`${level} interval`, ([name]) => interval(law.intervals[name]), "num"],
        ["what it is", ([name]) => MEANING[name] ?? "", "muted wide"],
      ],
      ordered(law.coefficients),
    ),
  );
  put(
    "gain",
    table(
      "Gain: how many times larger a dense model of equal loss would be",
      [
        ["sparsity", ([sparsity]) => percent(Number(sparsity))],
        ["equals a dense", ([, gain]) => `${gain.value.toFixed(2)} × N`, "num"],
        [`${level} interval`, ([, gain]) => (gain.low == null ? NONE : `${gain.low.toFixed(2)} – ${gain.high.toFixed(2)}`), "num"],
      ],
      Object.entries(law.gain),
    ),
  );
}

function interval(found) {
  if (!found) return NONE;
  if (found.low == null) return h("span", { class: "beyond", title: "These runs do not bound it." }, "not identified");
  return `${coefficient(found.low)} – ${coefficient(found.high)}`;
}

function symbol(name) {
  const [base, index] = name.split("_");
  return h("span", { class: "symbol" }, base, index ? h("sub", {}, index) : null);
}

const FORMULA = ["L(S, N, D) = (", "a_S", " (1 − S)", "^b_S", " + ", "c_S", ") N", "^−b_N", " + (", "a_D", " / D)", "^b_D", " + ", "c"];

function formula(law) {
  if (law.form !== "sparsity") return `form “${law.form}”`;
  return FORMULA.map((part) => {
    if (part.startsWith("^")) {
      const name = part.slice(1).replace("−", "");
      return h("sup", {}, part.includes("−") ? "−" : null, symbol(name));
    }
    return part in law.coefficients ? symbol(part) : part;
  });
}

export async function showHistory(state) {
  document.getElementById("versions-title").closest(".section-head").hidden = !state.law;
  if (!state.law) {
    put("history");
    document.getElementById("history-chart").hidden = true;
    return;
  }
  const versions = await all(ofGroup(state, "/law/history?limit=200"));
  state.history = versions;
  put(
    "history",
    table(
      "Versions of the law, newest first",
      [
        ["version", (v) => v.version],
        ["fitted", (v) => when(v.created_at)],
        ["runs", (v) => count(v.runs), "num"],
        ...["b_S", "b_N", "b_D", "c"].filter((n) => n in versions[0].coefficients).map((n) => [symbol(n), (v) => coefficient(v.coefficients[n]), "num"]),
        ["what moved most", (v) => moved(v, versions), "muted"],
      ],
      versions.slice(0, 12),
    ),
  );
  const figure = document.getElementById("history-chart");
  figure.hidden = versions.length < 2;
  if (versions.length < 2) return;
  const oldest = [...versions].reverse();
  const newest = versions[0].coefficients;
  // One that is 0 now is no measure for what it was.
  const traces = ordered(newest).filter(([, value]) => value !== 0).map(([name], index) => ({
    type: "scatter",
    mode: "lines+markers",
    name,
    x: oldest.map((v) => v.version),
    y: oldest.map((v) => v.coefficients[name] / newest[name]),
    line: { color: series(index).colour, width: 1.5 },
    marker: { symbol: series(index).symbol, size: 6 },
    hovertemplate: `${name} in version %{x}: %{y:.3f} of its newest value<extra></extra>`,
  }));
  const every = Math.max(1, Math.round(oldest.length / 10));
  const ticks = oldest.filter((_, i) => i % every === 0).map((v) => v.version);
  const values = traces.flatMap(({ y }) => y).filter((value) => value > 0);
  const [low, high] = [Math.min(...values) / 1.2, Math.max(...values) * 1.2];
  await show(figure, traces, {
    xaxis: { range: [oldest[0].version - 0.5, oldest.at(-1).version + 0.5], title: { text: "version" }, tickvals: ticks, ticktext: ticks.map(String) },
    yaxis: { type: "log", range: [Math.log10(low), Math.log10(high)], title: { text: "value over newest" }, ...logTicks(low, high, String) },
  });
}

function moved(version, versions) {
  const before = versions.find((other) => other.version < version.version);
  if (!before) return "first fit";
  let most = ["", 0];
  for (const [name, value] of Object.entries(version.coefficients)) {
    const change = value / before.coefficients[name] - 1;
    if (Number.isFinite(change) && Math.abs(change) > Math.abs(most[1])) most = [name, change];
  }
  const added = version.runs - before.runs;
  const more = `${count(added)} more ${added === 1 ? "run" : "runs"}`;
  if (Math.abs(most[1]) < 5e-4) return `nothing; ${more}`;
  return [symbol(most[0]), ` ${most[1] > 0 ? "+" : "−"}${percent(Math.abs(most[1]))}, ${more}`];
}
