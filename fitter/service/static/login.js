import { wireHeader } from "./chrome.js";

wireHeader();
document.getElementById("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await fetch("/session", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token: document.getElementById("token").value }),
  });
  if (answer.ok) {
    // Only a path of this site: an address given from outside must not lead elsewhere.
    const next = new URLSearchParams(location.search).get("next") ?? "/";
    location.assign(/^\/(?![/\\])/.test(next) ? next : "/");
    return;
  }
  const problem = await answer.json().catch(() => ({}));
  document.getElementById("login-problem").textContent = problem.detail ?? "The service does not answer.";
});
