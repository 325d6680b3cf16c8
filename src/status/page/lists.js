// Clients, those who do not keep up, and retained messages: asked for page by page.

import { fetched } from "./access.js";
import { badge, bytes, count, el, own, show, span, when } from "./elements.js";

const $ = (id) => document.getElementById(id);
const CLIENT_COLUMNS = 6;

// --- clients ---

let nextClient = null;

export async function showClients(more) {
  const query = new URLSearchParams({ limit: "100" });
  if ($("client-prefix").value) query.set("clientIdPrefix", $("client-prefix").value);
  if ($("client-endpoint").value) query.set("name", $("client-endpoint").value);
  if (more && nextClient !== null) query.set("after", nextClient);
  let page;
  try {
    page = await fetched(`/api/clients?${query}`);
  } catch (error) {
    $("client-note").textContent = error.message;
    return;
  }
  const rows = page.clients.map(clientRow);
  if (more) $("client-rows").append(...rows);
  else $("client-rows").replaceChildren(...rows);
  nextClient = page.next;
  $("client-more").hidden = nextClient === null;
  const shown = $("client-rows").querySelectorAll("tr.client").length;
  $("client-note").textContent = shown === 0 ? "No such client is connected." : `${shown} shown${nextClient === null ? "" : ", there are more"}`;
}

function clientRow(client) {
  const opener = el("button", { type: "button", class: "opener", ariaExpanded: "false" }, own(client.clientId));
  const row = el("tr", { class: "client" },
    el("th", { scope: "row" }, opener),
    el("td", {}, client.endpoint),
    el("td", { class: "nowrap" }, el("code", {}, client.address ?? "local")),
    el("td", { class: "user" }, client.username === null ? "" : own(client.username)),
    el("td", { class: "nowrap" }, `${client.protocol} ${client.transport}`),
    el("td", { class: "nowrap" }, when(client.connectedAt)));
  opener.addEventListener("click", () => toggle(row, opener, client));
  return row;
}

// The row below a client's own: what its session holds, kept up to date while it is open.
function toggle(row, opener, client) {
  if (opener.ariaExpanded === "true") {
    opener.ariaExpanded = "false";
    row.nextElementSibling.remove();
    return;
  }
  opener.ariaExpanded = "true";
  const cell = el("td", { colSpan: CLIENT_COLUMNS }, "Asking…");
  const below = el("tr", { class: "client-detail" }, cell);
  row.after(below);
  const before = {};
  const look = async () => {
    if (!below.isConnected) return;
    if (document.visibilityState === "visible") await showClient(cell, client, before);
    setTimeout(look, 2000);
  };
  look();
}

async function showClient(cell, client, before) {
  const query = new URLSearchParams({ clientId: client.clientId, name: client.endpoint });
  let found;
  try {
    found = (await fetched(`/api/clients?${query}`)).clients[0];
  } catch (error) {
    cell.textContent = error.message;
    return;
  }
  if (!found?.detail) {
    cell.textContent = "It is connected no longer.";
    return;
  }
  const detail = found.detail;
  const now = performance.now();
  const rate = (key, average) =>
    before.at && before.sequence === found.sequence ? ((detail[key] - before[key]) * 1000) / (now - before.at) : detail[average];
  const rates = { in: rate("messagesReceived", "messagesReceivedPerS"), out: rate("messagesSent", "messagesSentPerS") };
  Object.assign(before, { at: now, sequence: found.sequence, messagesReceived: detail.messagesReceived, messagesSent: detail.messagesSent });
  const state = [detail.slow && badge("bad", "✗ slow"), detail.paused && badge("warn", "! paused")].filter(Boolean);
  const facts = [
    ["Messages in", `${count(rates.in)} /s, ${count(detail.messagesReceived)} in all`],
    ["Messages out", `${count(rates.out)} /s, ${count(detail.messagesSent)} in all`],
    ["In flight", count(detail.inflightMessages)],
    ["Queued", `${count(detail.queuedMessages)} (${bytes(detail.queuedBytes)})`],
    ["Waiting for its socket", bytes(detail.waitingBytes)],
    ["Lost", count(detail.droppedMessages)],
    ["Keep alive", detail.keepAliveS ? `${detail.keepAliveS} s` : "none"],
    ["Session", detail.sessionExpiryS === 0 ? "ends with the connection" : detail.sessionExpiryS >= 4294967295 ? "never expires" : `kept for ${span(detail.sessionExpiryS)}`],
    ["Shard", String(found.shard)],
    state.length > 0 && ["State", state],
    ["Subscriptions", detail.subscriptions.length ? detail.subscriptions.flatMap((filter) => [own(filter), " "]) : "none"],
  ];
  show(cell, facts.map((fact) => fact && [fact[0], typeof fact[1] === "string" ? fact[1] : detail.subscriptions.length + state.length]), () =>
    el("dl", { class: "facts" }, ...facts.filter(Boolean).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, ...[value].flat())])));
}

// --- who does not keep up ---

export async function showSlowest() {
  let data;
  try {
    data = await fetched("/api/clients/slowest?limit=10");
  } catch {
    return; // the rest of the page says what is wrong
  }
  $("slow").hidden = data.sessions.length === 0;
  show($("slow-rows"), data.sessions, () =>
    data.sessions.map((session) =>
      el("tr", {},
        el("th", { scope: "row" }, own(session.clientId)),
        el("td", {}, session.endpoint),
        el("td", {}, session.slow ? badge("bad", "✗ slow") : session.connected ? badge("warn", "! behind") : badge("off", "– away")),
        el("td", { class: "number" }, `${count(session.queuedMessages)} (${bytes(session.queuedBytes)})`),
        el("td", { class: "number" }, bytes(session.waitingBytes)),
        el("td", { class: "number" }, count(session.droppedMessages)))),
  );
}

// --- what is retained ---

let nextTopic = null;

export async function showTopics(more) {
  const query = new URLSearchParams({ limit: "100" });
  if ($("topic-filter").value) query.set("filter", $("topic-filter").value);
  if (more && nextTopic !== null) query.set("after", nextTopic);
  let page;
  try {
    page = await fetched(`/api/topics?${query}`);
  } catch (error) {
    $("topic-note").textContent = error.message;
    return;
  }
  const rows = page.topics.map((topic) =>
    el("tr", {},
      el("th", { scope: "row" }, own(topic.topic)),
      el("td", {}, topic.namespace || "shared"),
      el("td", {}, String(topic.qos)),
      el("td", { class: "number" }, bytes(topic.payloadBytes)),
      el("td", {}, topic.expiresInS === null ? "never" : `in ${span(topic.expiresInS)}`)));
  if (more) $("topic-rows").append(...rows);
  else $("topic-rows").replaceChildren(...rows);
  nextTopic = page.next;
  $("topics").hidden = false;
  $("topic-more").hidden = nextTopic === null;
  const shown = $("topic-rows").childElementCount;
  $("topic-note").textContent = shown === 0 && nextTopic === null ? "Nothing is retained there." : `${shown} shown${nextTopic === null ? "" : ", there may be more"}`;
}

$("client-form").addEventListener("submit", (event) => {
  event.preventDefault();
  showClients(false);
});
$("client-more").addEventListener("click", () => showClients(true));
$("topic-form").addEventListener("submit", (event) => {
  event.preventDefault();
  showTopics(false);
});
$("topic-more").addEventListener("click", () => showTopics(true));
