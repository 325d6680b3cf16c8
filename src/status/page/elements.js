// Elements made by text alone, numbers and times as people read them.

const SVG = "http://www.w3.org/2000/svg";

export function el(name, properties, ...children) {
  const node = document.createElement(name);
  fill(node, properties, children);
  return node;
}

export function svg(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function fill(node, properties, children) {
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (key === "class") node.className = value;
    else if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  const there = children.filter((child) => child !== null && child !== undefined && child !== false && child !== "");
  node.append(...there.map((child) => (typeof child === "string" ? visible(child) : child)));
}

// Replaces characters that are invisible or change the direction of the text (a name can end in "gpj.exe" and look like
// "exe.jpg") by their numbers.
export function visible(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) =>
    character === "\n" || character === "\t" ? character : `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

const OWN_MAX = 96;
const REVISION_MAX = 24;

// A text that a client chose, such as its id or a topic: bounded in length, its spaces visible.
export function own(text) {
  const seen = text.replace(/^ +| +$/g, (spaces) => "⟨U+0020⟩".repeat(spaces.length)).replace(/[\n\t]/g, (character) => `⟨U+000${character === "\n" ? "A" : "9"}⟩`) || "(empty)";
  const characters = [...seen];
  if (characters.length <= OWN_MAX) return el("code", { class: "own" }, seen);
  return el("span", {}, el("code", { class: "own", title: visible(text) }, `${characters.slice(0, OWN_MAX).join("")}…`), el("small", { class: "quiet" }, ` ${[...text].length} characters`));
}

// Replaces the children only if `data` differs from what is shown: focus, selection and open details stay.
export function show(node, data, make) {
  const text = JSON.stringify(data);
  if (node.shownData === text) return;
  node.shownData = text;
  node.replaceChildren(...[make()].flat().filter(Boolean));
}

export function keyed(list, items, key, make, update, gone) {
  const existing = new Map([...list.children].map((child) => [child.dataset.key, child]));
  let after = null;
  for (const item of items) {
    const name = key(item);
    let node = existing.get(name);
    existing.delete(name);
    if (!node) {
      node = make(item);
      node.dataset.key = name;
    }
    update(node, item);
    const place = after ? after.nextSibling : list.firstChild;
    if (node !== place) list.insertBefore(node, place);
    after = node;
  }
  for (const [name, node] of existing) {
    gone(name);
    node.remove();
  }
}

// A revision or digest: the short form on one line, the whole one as its title.
export function revision(text) {
  if (!text) return el("span", { class: "quiet" }, "none");
  const digest = /^([\w.]+[:-])?([0-9a-f]{13,})$/.exec(text);
  const short = digest ? `${digest[1] ?? ""}${digest[2].slice(0, 12)}` : text.length > REVISION_MAX ? `${text.slice(0, REVISION_MAX - 1)}…` : text;
  return el("code", { class: "rev", title: text }, short);
}

export const link = (name) => el("a", { class: "name", href: `#/endpoint/${encodeURIComponent(name)}` }, own(name));

// A scrollable table: head cells by name, and rows.
export function table(label, names, body) {
  const head = names.map((name) => el("th", { scope: "col" }, name));
  const rows = el("tbody", {}, ...body);
  const whole = el("div", { class: "scroll", tabIndex: 0, role: "region", ariaLabel: label }, el("table", { ariaLabel: label }, el("thead", {}, el("tr", {}, ...head)), rows));
  return whole;
}

export const facts = (list) =>
  el("dl", { class: "facts" }, ...list.filter(Boolean).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, ...[value].flat())]));

// An empty state: what is missing, what to do, and an example to copy.
export const empty = (text, example) => el("div", { class: "empty" }, el("p", {}, text), example && el("pre", { tabIndex: 0, ariaLabel: "Example" }, example));

export const badge = (kind, text) => el("span", { class: `badge ${kind}` }, text);

export function count(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  return value >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(1);
}

export function bytes(value) {
  if (value >= 1 << 20) return `${(value / (1 << 20)).toFixed(1)} MiB`;
  return value >= 1024 ? `${(value / 1024).toFixed(1)} KiB` : `${value} B`;
}

export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export const since = (time) => (Date.now() - Date.parse(time)) / 1000;
export const ago = (time) => (time ? `${span(since(time))} ago` : "never");

// A time as an age, which the page updates every second.
export function when(time) {
  if (!time) return el("span", { class: "when" }, "never");
  return el("time", { class: "when", dateTime: time, title: new Date(time).toLocaleString() }, ago(time));
}

export const written = (value) =>
  value === undefined || value === null ? "" : typeof value === "string" ? value : JSON.stringify(value);

// Escape closes a <details> and moves the focus to its summary.
export function closable(details) {
  details.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !details.open) return;
    event.stopPropagation();
    details.open = false;
    details.querySelector("summary").focus();
  });
}

export const hex = (octets) => [...octets].map((octet) => octet.toString(16).padStart(2, "0")).join(" ");
