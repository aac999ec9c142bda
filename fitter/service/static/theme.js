// Settled before the first paint, so that the page does not flash in the other scheme.
{
  const wanted = localStorage.getItem("scheme") ?? "system";
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  document.documentElement.dataset.scheme = wanted === "system" ? system : wanted;
}
