// The tree of retained topics, read level by level, and the search by topic filter.

import { fetched } from "./access.js";
import { bytes, closable, el, empty, hex, own, show, span, table, visible } from "./elements.js";

const $ = (id) => document.getElementById(id);
const REFRESH_MS = 3000;
const REFRESHED_MAX = 20; // requests for each update
const LINE_MAX = 60; // characters of a value beside its topic
let timer = null;
let root = null;

export async function openTopics() {
  closeTopics();
  timer = setInterval(refresh, REFRESH_MS);
  await offerNamespaces();
  root = level(null);
  $("tree").replaceChildren(root.node);
  await load(root, false);
}

export function closeTopics() {
  clearInterval(timer);
  timer = null;
  root = null;
  $("tree").replaceChildren();
}

// The namespaces that endpoints use; without any mountpoint there is only the shared one.
async function offerNamespaces() {
  const list = await fetched("/api/endpoints/list").catch(() => ({ endpoints: {} }));
  const used = Object.values(list.endpoints).map((endpoint) => endpoint.mountpoint ?? "");
  const names = [...new Set(["", ...used])].sort();
  $("namespace-choice").hidden = names.length === 1;
  show($("namespace"), names, () => names.map((name) => el("option", { value: name }, name || "(shared)")));
}

// --- a level ---

// `below`: the topic whose next level it is; null: the first level.
function level(below) {
  const list = el("ul", {});
  const note = el("p", { class: "quiet", role: "status" });
  const more = el("button", { type: "button", hidden: true }, "More");
  const made = { below, list, note, more, next: null, pages: 0, children: new Map(), node: el("div", {}, list, el("p", { class: "more" }, more, " ", note)) };
  more.addEventListener("click", () => load(made, true));
  return made;
}

function path(below, after) {
  const query = new URLSearchParams({ namespace: $("namespace").value });
  if (below !== null) query.set("below", below);
  if (after !== null) query.set("after", after);
  return `/api/topics/tree?${query}`;
}

// Reads the next page (`append`), or all pages that were read before.
async function load(into, append, budget = { left: REFRESHED_MAX }) {
  const wanted = append ? 1 : Math.max(1, into.pages);
  let after = append ? into.next : null;
  const found = [];
  let read = 0;
  try {
    do {
      budget.left -= 1;
      const page = await fetched(path(into.below, after));
      found.push(...page.entries);
      after = page.next;
      read += 1;
    } while (after !== null && (read < wanted || found.length === 0) && budget.left > 0);
  } catch (error) {
    into.note.textContent = error.message;
    return;
  }
  // An update that ran out of requests does not remove the pages that it did not read.
  if (!append && read < wanted && after !== null) return;
  into.pages = append ? into.pages + read : read;
  into.next = after;
  into.more.hidden = after === null;
  place(into, found, append);
  into.note.textContent = "";
  if (into.children.size === 0 && after === null) {
    if (into.below === null) into.list.replaceChildren(el("li", {}, empty("No message is retained. Publish one with the retain flag, for example with the MQTT client of an endpoint that has useWebsocket: true.")));
    else into.note.textContent = "No topic is retained here any more.";
  }
}

// A topic and the branch of the same level are one line.
function place(into, entries, append) {
  const merged = new Map();
  for (const entry of entries) {
    const before = merged.get(entry.level);
    merged.set(entry.level, { topic: entry.topic, level: entry.level, branch: entry.branch || before?.branch, value: entry.value ?? before?.value });
  }
  if (!append) {
    into.list.querySelector(":scope > li > .empty")?.parentElement.remove();
    for (const [key, child] of into.children) {
      if (merged.has(key)) continue;
      child.item.remove();
      into.children.delete(key);
    }
  }
  let last = append ? into.list.lastElementChild : null;
  for (const [key, entry] of merged) {
    let child = into.children.get(key);
    if (child && append) entry.value ??= child.entry.value;
    if (child && append) entry.branch ||= child.entry.branch;
    if (!child) {
      child = topic(entry);
      into.children.set(key, child);
    }
    update(child, entry);
    if (child.item.parentElement === into.list && append) continue;
    const next = last ? last.nextSibling : into.list.firstChild;
    if (child.item !== next) into.list.insertBefore(child.item, next);
    last = child.item;
  }
}

// --- a topic ---

function topic(entry) {
  const name = own(entry.level);
  const line = el("span", { class: "value" });
  const details = el("details", {}, el("summary", {}, name, " ", line), el("div", { class: "below" }));
  const body = details.querySelector(".below");
  const child = { item: el("li", {}, details), details, line, body, shown: el("div", {}), level: null, entry };
  body.append(child.shown);
  closable(details);
  details.addEventListener("toggle", () => {
    if (!details.open || !child.entry.branch || child.level) return;
    child.level = level(child.entry.topic);
    body.append(child.level.node);
    load(child.level, false);
  });
  return child;
}

function update(child, entry) {
  child.entry = entry;
  child.details.classList.toggle("branch", Boolean(entry.branch));
  show(child.line, [entry.value, entry.branch], () => [entry.value && el("code", {}, oneLine(entry.value)), !entry.value && entry.branch && "/"]);
  show(child.shown, entry.value, () => entry.value && wholeValue(entry));
  if (!entry.branch && child.level) {
    child.level.node.remove();
    child.level = null;
  }
}

function oneLine(value) {
  if (value.payload === undefined) return `${bytes(value.payloadBytes)}, not text`;
  const text = visible(value.payload).replace(/\s+/g, " ");
  const characters = [...text];
  return characters.length > LINE_MAX ? `${characters.slice(0, LINE_MAX).join("")}…` : text;
}

function wholeValue(entry) {
  const { payload, payloadBase64, payloadBytes, qos, expiresInS } = entry.value;
  const text = payload ?? hex(decoded(payloadBase64));
  const cut = payload === undefined ? atob(payloadBase64).length < payloadBytes : new TextEncoder().encode(payload).length < payloadBytes;
  return el("div", {},
    el("p", { class: "quiet" }, own(entry.topic), ` · ${bytes(payloadBytes)}${payload === undefined ? ", shown as hexadecimal" : ""} · QoS ${qos} · ${expiresInS === null ? "does not expire" : `expires in ${span(expiresInS)}`}`),
    el("pre", { tabIndex: 0, ariaLabel: "Last value" }, text),
    cut && el("p", { class: "quiet" }, "The payload is longer. To read all of it, subscribe to the topic."));
}

const decoded = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

// --- updates ---

let refreshing = false;

async function refresh() {
  if (refreshing || !root || document.visibilityState !== "visible") return;
  refreshing = true;
  const budget = { left: REFRESHED_MAX };
  for (const each of openLevels(root)) {
    if (budget.left <= 0 || !root) break;
    await load(each, false, budget);
  }
  refreshing = false;
}

function openLevels(from) {
  const below = [...from.children.values()].filter((child) => child.details.open && child.level);
  return [from, ...below.flatMap((child) => openLevels(child.level))];
}

$("namespace").addEventListener("change", async () => {
  root = level(null);
  $("tree").replaceChildren(root.node);
  await load(root, false);
});

// --- search ---

let nextTopic = null;

async function search(append) {
  const query = new URLSearchParams({ limit: "100" });
  if ($("topic-filter").value) query.set("filter", $("topic-filter").value);
  if (append && nextTopic !== null) query.set("after", nextTopic);
  let page;
  try {
    page = await fetched(`/api/topics?${query}`);
  } catch (error) {
    $("topic-note").textContent = error.message;
    return;
  }
  const rows = page.topics.map((found) =>
    el("tr", {},
      el("th", { scope: "row" }, own(found.topic)),
      el("td", {}, found.namespace || "(shared)"),
      el("td", {}, String(found.qos)),
      el("td", { class: "number" }, bytes(found.payloadBytes)),
      el("td", {}, found.expiresInS === null ? "never" : `in ${span(found.expiresInS)}`)));
  if (!append || !$("topic-list").firstChild) $("topic-list").replaceChildren(table("Retained messages", ["Topic", "Namespace", "QoS", "Payload", "Expires"], rows));
  else $("topic-list").querySelector("tbody").append(...rows);
  nextTopic = page.next;
  $("topic-more").hidden = nextTopic === null;
  const shown = $("topic-list").querySelector("tbody").childElementCount;
  $("topic-list").hidden = shown === 0;
  $("topic-note").textContent = shown === 0 && nextTopic === null ? "No retained message matches. Change the filter: + is one level, # is all levels below." : `${shown} shown${nextTopic === null ? "" : ", there may be more"}`;
}

$("topic-form").addEventListener("submit", (event) => {
  event.preventDefault();
  search(false);
});
$("topic-more").addEventListener("click", () => search(true));
