// Numbers as people read them: units on everything, no more digits than are known, no end of a line before a unit.

const SI = [
  [1e15, "P"],
  [1e12, "T"],
  [1e9, "B"],
  [1e6, "M"],
  [1e3, "k"],
];
const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";

export const NONE = "–";

// 48000 → "48,000". Intl's formats cost the first page a tenth of its time.
export function count(value) {
  return value == null ? NONE : String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ",");
}

// 5308416 → "5.31 M"
export function si(value, digits = 3) {
  if (value == null || !Number.isFinite(value)) return NONE;
  for (const [size, unit] of SI) {
    if (Math.abs(value) >= size * 0.9995) {
      if (Math.abs(value) >= 1000 * SI[0][0]) break;
      return `${Number((value / size).toPrecision(digits))}\u00a0${unit}`;
    }
  }
  return Math.abs(value) < 1e3 ? `${Number(value.toPrecision(digits))}` : power(value, digits);
}

// 1.2e18 → "1.2 × 10¹⁸"
export function power(value, digits = 2) {
  if (value == null || !Number.isFinite(value)) return NONE;
  if (value !== 0 && (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3)) {
    const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    const raised = [...String(Number(exponent))].map((c) => (c === "-" ? "⁻" : SUPERSCRIPT[Number(c)])).join("");
    const factor = Number(mantissa);
    return factor === 1 ? `10${raised}` : `${factor} × 10${raised}`;
  }
  return String(Number(value.toPrecision(digits)));
}

export function percent(value, digits = 1) {
  return value == null || !Number.isFinite(value) ? NONE : `${Number((100 * value).toFixed(digits))}\u00a0%`;
}

export function loss(value) {
  return value == null || !Number.isFinite(value) ? NONE : value.toFixed(3);
}

// Coefficients span twenty orders of magnitude: three to four significant digits, powers of ten outside 0.001–10⁵.
export function coefficient(value) {
  return power(value, 4);
}

export function duration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return NONE;
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Number((seconds / 3600).toFixed(1))} h`;
  return `${Number((seconds / 86400).toFixed(1))} days`;
}

export function ago(iso) {
  const seconds = (Date.now() - new Date(iso).getTime()) / 1000;
  return seconds < 45 ? "just now" : `${duration(seconds)} ago`;
}

export function when(iso) {
  return new Date(iso).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

// "5.3M", "1e18", "5,300,000", "2 × 10^9" → a number; NaN for anything else.
export function parse(text) {
  const plain = text.trim().replaceAll(/[,_\s]/g, "").replace(/[×x*]10\^?/i, "e");
  const found = /^([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)([kmbgtp]?)$/i.exec(plain);
  if (!found) return NaN;
  const factor = { "": 1, k: 1e3, m: 1e6, b: 1e9, g: 1e9, t: 1e12, p: 1e15 }[found[2].toLowerCase()];
  return Number(found[1]) * factor;
}

// Numbers in text fields: short, and `parse` reads them back. A size, and a budget: nobody counts FLOPs in billions of them.
export function sizeField(value) {
  return value >= 1e15 || value < 1e3 ? flopsField(value) : si(value).replace("\u00a0", "");
}

export function flopsField(value) {
  return value.toExponential(2).replace("e+", "e").replace(/\.?0+e/, "e");
}
