// The REST interface, as the page uses it. A refused request throws a Problem with the server's own words.

export class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? document.title ?? `the service answered ${status}`);
    this.status = status;
    this.kind = (document.type ?? "").split("#").pop();
    this.document = document;
  }
}

export async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { headers: { Accept: "application/json" }, ...options });
  } catch {
    throw new Problem(0, { detail: "The service does not answer. Is `lacuna serve` running?" });
  }
  if (answer.status === 401) {
    location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
    return new Promise(() => {}); // the page is about to change
  }
  const body = answer.headers.get("content-type")?.includes("json") ? await answer.json() : {};
  if (!answer.ok) throw new Problem(answer.status, body);
  return body;
}

export function post(path, body, type = "application/json") {
  const content = body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) };
  return call(path, { method: "POST", headers: { Accept: "application/json", "Content-Type": type }, ...content });
}

// An address of the sweep's law, asked of the group of runs that the page shows.
export function ofGroup(state, path) {
  const joint = path.includes("?") ? "&" : "?";
  return `${state.base}${path}${state.group ? `${joint}group=${encodeURIComponent(state.group)}` : ""}`;
}

// All items of a list that is read by cursor.
export async function all(path) {
  const items = [];
  let cursor = null;
  do {
    const joint = path.includes("?") ? "&" : "?";
    const page = await call(cursor ? `${path}${joint}cursor=${cursor}` : path);
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor);
  return items;
}
