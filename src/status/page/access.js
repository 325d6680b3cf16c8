// Requests to the status server, with the token that the reader entered where one is required. It is kept for this tab only.

const tags = new Map(); // path -> entity tag and data
const KEY = "weir-token";

export class Unauthorized extends Error {}

function setToken(token) {
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
  tags.clear();
}

function headers(more) {
  const token = sessionStorage.getItem(KEY);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

// The data at `path`. Data that is known is requested with its entity tag, so that it is sent only if it has changed.
export async function fetched(path) {
  const known = tags.get(path);
  const answer = await fetch(path, { headers: headers(known ? { "If-None-Match": known.tag } : {}) });
  if (answer.status === 304 && known) return known.data;
  const body = await answer.json();
  if (answer.status === 401) throw new Unauthorized(body.message);
  if (!answer.ok && body.data === null) throw new Error(body.message);
  const tag = answer.headers.get("etag");
  if (tags.size > 200) tags.clear(); // a page that is open for weeks requests many paths
  if (tag) tags.set(path, { tag, data: body.data });
  return body.data;
}

// Server-sent events by fetch, because EventSource cannot send a token. Returns when the stream ends.
export async function streamed(path, opened, took) {
  const answer = await fetch(path, { headers: headers({ Accept: "text/event-stream" }) });
  if (answer.status === 401) throw new Unauthorized();
  if (!answer.ok) throw new Error(`${answer.status}`);
  opened();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    waiting += value;
    const events = waiting.split("\n\n");
    waiting = events.pop();
    for (const event of events) {
      const field = (name) => event.split("\n").find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      if (field("event")) took(field("event"), JSON.parse(field("data")));
    }
  }
}

// Shows the form for the token, and calls `then` when one was entered.
export function askToken(then) {
  const form = document.getElementById("login");
  const input = document.getElementById("token");
  form.hidden = false;
  input.focus();
  form.onsubmit = (event) => {
    event.preventDefault();
    setToken(input.value.trim());
    input.value = "";
    form.hidden = true;
    then();
  };
}
