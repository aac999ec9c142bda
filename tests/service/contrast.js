// Text whose contrast with its background is below 4.5, or 3 where it is large: WCAG 2.2, 1.4.3.
() => {
  const parse = (text) => text.match(/[\d.]+/g).map(Number);
  const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => 0.2126 * linear(rgb[0]) + 0.7152 * linear(rgb[1]) + 0.0722 * linear(rgb[2]);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const e of document.querySelectorAll("main *:not(svg *), header *:not(svg *)")) {
    const spoken = [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!spoken || !e.checkVisibility({ visibilityProperty: true })) continue;
    const style = getComputedStyle(e);
    if (style.clipPath !== "none" || e.closest(".skeleton, .sr, noscript, option")) continue;
    const [a, b] = [light(parse(style.color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const needed = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if (ratio < needed) bad.push([e.tagName, e.textContent.trim().slice(0, 30), ratio.toFixed(2)]);
  }
  return bad;
}
