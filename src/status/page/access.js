// How this page asks: with the token that its reader typed in, where the broker wants one; kept for this tab only.

const tags = new Map(); // path -> entity tag and what it stood for
const KEY = "weir-token";

export class Unauthorized extends Error {}

export function setToken(token) {
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
  tags.clear();
}

function headers(more) {
  const token = sessionStorage.getItem(KEY);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

// What is at `path`; of what is known already, only whether it has changed is asked.
export async function fetched(path) {
  const known = tags.get(path);
  const answer = await fetch(path, { headers: headers(known ? { "If-None-Match": known.tag } : {}) });
  if (answer.status === 304 && known) return known.data;
  const body = await answer.json();
  if (answer.status === 401) throw new Unauthorized(body.message);
  if (!answer.ok && body.data === null) throw new Error(body.message);
  const tag = answer.headers.get("etag");
  if (tags.size > 200) tags.clear(); // a page that is open for weeks asks for many clients
  if (tag) tags.set(path, { tag, data: body.data });
  return body.data;
}

// Server-sent events by fetch, which can show a token, as EventSource cannot. Ends when the stream does.
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
