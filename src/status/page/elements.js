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

// Characters that are not seen, or turn the reading round (a name can end in "gpj.exe" and look like "exe.jpg"), by number.
function visible(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) =>
    character === "\n" || character === "\t" ? character : `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

const OWN_MAX = 96;

// What a client calls itself or its topics: however long, on a few lines, and its spaces seen.
export function own(text) {
  const seen = text.replace(/^ +| +$/g, (spaces) => "⟨U+0020⟩".repeat(spaces.length)) || "(empty)";
  const characters = [...seen];
  if (characters.length <= OWN_MAX) return el("code", { class: "own" }, seen);
  return el("span", {}, el("code", { class: "own", title: visible(text) }, `${characters.slice(0, OWN_MAX).join("")}…`), el("small", { class: "quiet" }, ` ${characters.length} characters`));
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

// A time that keeps telling how long ago it was.
export function when(time) {
  if (!time) return el("span", { class: "when" }, "never");
  return el("time", { class: "when", dateTime: time, title: new Date(time).toLocaleString() }, ago(time));
}

export const written = (value) =>
  value === undefined || value === null ? "" : typeof value === "string" ? value : JSON.stringify(value);
