// What every page has: the colour-scheme button, logging out, short messages, and tooltips.

const SCHEMES = ["system", "light", "dark"];
const dark = matchMedia("(prefers-color-scheme: dark)");

export function wireHeader() {
  const button = document.getElementById("theme");
  const wanted = () => localStorage.getItem("scheme") ?? "system";
  const apply = () => {
    const system = dark.matches ? "dark" : "light";
    document.documentElement.dataset.scheme = wanted() === "system" ? system : wanted();
    button.setAttribute("aria-label", `Colour scheme: ${wanted() === "system" ? "as the system" : wanted()}`);
    button.title = button.getAttribute("aria-label");
    document.dispatchEvent(new CustomEvent("schemechange"));
  };
  button.addEventListener("click", () => {
    localStorage.setItem("scheme", SCHEMES[(SCHEMES.indexOf(wanted()) + 1) % SCHEMES.length]);
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
  document.getElementById("logout")?.addEventListener("click", async () => {
    await fetch("/session", { method: "DELETE" });
    location.assign("/login");
  });
}

let fading;
export function toast(message) {
  const box = document.getElementById("toast");
  box.textContent = message;
  box.classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => box.classList.remove("shown"), 5000);
}

// Work that nobody waits for: what goes wrong in it is told, and is no script error.
export function quietly(work) {
  return work().catch((problem) => toast(problem.message));
}

// The value of a CSS custom property, for what draws on its own (plotly, images).
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
