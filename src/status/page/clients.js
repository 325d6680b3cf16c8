// Connected clients page by page, and slow consumers.

import { fetched } from "./access.js";
import { badge, bytes, count, el, facts, link, own, show, span, table, when } from "./elements.js";

// A list of clients: of one endpoint, or of all with a choice. `names`: the endpoints to choose from.
export function clientList(endpoint) {
  const prefix = el("input", { type: "search", autocomplete: "off", spellcheck: false });
  const choice = el("select", {}, el("option", { value: "" }, "all"));
  const form = el("form", { class: "filter", role: "search", ariaLabel: "Clients" },
    el("label", {}, "Client ID begins with ", prefix),
    endpoint ? null : el("label", {}, "Endpoint ", choice),
    el("button", { type: "submit" }, "Search"));
  const names = ["Client ID", !endpoint && "Endpoint", "Address", "User", "Protocol", "Connected"].filter(Boolean);
  const list = table("Clients", names, []);
  list.classList.add("clients");
  const rows = list.querySelector("tbody");
  const more = el("button", { type: "button", hidden: true }, "More");
  const note = el("span", { class: "quiet", role: "status" });
  const columns = names.length;
  let next = null;

  async function load(append) {
    const query = new URLSearchParams({ limit: "100" });
    if (prefix.value) query.set("clientIdPrefix", prefix.value);
    const name = endpoint ?? choice.value;
    if (name) query.set("name", name);
    if (append && next !== null) query.set("after", next);
    let page;
    try {
      page = await fetched(`/api/clients?${query}`);
    } catch (error) {
      list.hidden = true;
      note.textContent = error.message;
      return;
    }
    const found = page.clients.map((client) => clientRow(client, !endpoint, columns));
    if (append) rows.append(...found);
    else rows.replaceChildren(...found);
    next = page.next;
    more.hidden = next === null;
    const shown = rows.querySelectorAll("tr.client").length;
    list.hidden = shown === 0;
    note.textContent = shown === 0 ? nothing(prefix.value || (!endpoint && choice.value)) : `${shown} shown${next === null ? "" : ", there are more"}`;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    load(false);
  });
  more.addEventListener("click", () => load(true));
  const node = el("div", {}, form, list, el("p", {}, more, " ", note));
  const offer = (endpoints) => show(choice, endpoints, () => [el("option", { value: "" }, "all"), ...endpoints.map((name) => el("option", { value: name }, name))]);
  return { node, load: () => load(false), offer };
}

const nothing = (filtered) => (filtered ? "No connected client matches. Change the search." : "No client is connected. Connect one to an address in the list of endpoints.");

function clientRow(client, withEndpoint, columns) {
  const opener = el("button", { type: "button", class: "opener", ariaExpanded: "false" }, own(client.clientId));
  const row = el("tr", { class: "client" },
    el("th", { scope: "row" }, opener),
    withEndpoint && el("td", {}, link(client.endpoint)),
    el("td", { class: "nowrap" }, el("code", {}, client.address ?? "local")),
    el("td", { class: "user" }, client.username === null ? "" : own(client.username)),
    el("td", { class: "nowrap" }, `${client.protocol} ${client.transport}`),
    el("td", { class: "nowrap" }, when(client.connectedAt)));
  const close = () => {
    opener.ariaExpanded = "false";
    row.nextElementSibling.remove();
  };
  const open = () => {
    opener.ariaExpanded = "true";
    const cell = el("td", { colSpan: columns }, "Loading…");
    const below = el("tr", { class: "client-detail" }, cell);
    row.after(below);
    below.addEventListener("keydown", escaped);
    follow(below, cell, client);
  };
  const escaped = (event) => {
    if (event.key !== "Escape" || opener.ariaExpanded !== "true") return;
    close();
    opener.focus();
  };
  opener.addEventListener("click", () => (opener.ariaExpanded === "true" ? close() : open()));
  opener.addEventListener("keydown", escaped);
  return row;
}

// Keeps the detail of a client up to date while it is open.
function follow(below, cell, client) {
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
  const detail = found?.detail;
  if (!detail) {
    show(cell, "gone", () => "It is not connected any more.");
    return;
  }
  // Rates since the look before; after a reconnect, the average since then.
  const now = Date.now();
  const rate = (key, average) => (before.at && before.sequence === found.sequence ? ((detail[key] - before[key]) * 1000) / (now - before.at) : detail[average]);
  const rates = { in: rate("messagesReceived", "messagesReceivedPerS"), out: rate("messagesSent", "messagesSentPerS") };
  Object.assign(before, { at: now, sequence: found.sequence, messagesReceived: detail.messagesReceived, messagesSent: detail.messagesSent });
  const state = [detail.slow && badge("bad", "✗ slow"), detail.paused && badge("warn", "! paused")].filter(Boolean);
  const list = [
    state.length > 0 && ["State", state],
    ["Messages in", `${count(rates.in)} /s, ${count(detail.messagesReceived)} in all`],
    ["Messages out", `${count(rates.out)} /s, ${count(detail.messagesSent)} in all`],
    ["In flight", count(detail.inflightMessages)],
    ["Queued", `${count(detail.queuedMessages)} (${bytes(detail.queuedBytes)})`],
    ["Not yet sent by the socket", bytes(detail.waitingBytes)],
    ["Dropped", count(detail.droppedMessages)],
    ["Keep alive", detail.keepAliveS ? `${detail.keepAliveS} s` : "none"],
    ["Session", detail.sessionExpiryS === 0 ? "ends with the connection" : detail.sessionExpiryS >= 4294967295 ? "never expires" : `kept for ${span(detail.sessionExpiryS)} after a disconnect`],
    ["Shard", String(found.shard)],
    ["Subscriptions", detail.subscriptions.length ? detail.subscriptions.flatMap((filter) => [own(filter), " "]) : "none"],
  ];
  show(cell, list.map((fact) => fact && [fact[0], typeof fact[1] === "string" ? fact[1] : [detail.subscriptions, state.length]]), () => facts(list));
}

// --- slow consumers ---

// Fills `section` with the sessions that have the largest backlogs, of `endpoint` or of all; hides it without any.
export async function showSlowest(section, endpoint) {
  let data;
  try {
    data = await fetched(`/api/clients/slowest?limit=${endpoint ? 200 : 10}`);
  } catch {
    return; // the rest of the page reports the error
  }
  const sessions = data.sessions.filter((session) => !endpoint || session.endpoint === endpoint).slice(0, 10);
  section.hidden = sessions.length === 0;
  show(section.querySelector(".slow-list"), sessions, () =>
    table("Slow consumers", ["Client ID", !endpoint && "Endpoint", "State", "Queued", "Not yet sent", "Dropped"].filter(Boolean),
      sessions.map((session) =>
        el("tr", {},
          el("th", { scope: "row" }, own(session.clientId)),
          !endpoint && el("td", {}, link(session.endpoint)),
          el("td", {}, session.slow ? badge("bad", "✗ slow") : session.connected ? badge("warn", "! behind") : badge("off", "– offline")),
          el("td", { class: "number" }, `${count(session.queuedMessages)} (${bytes(session.queuedBytes)})`),
          el("td", { class: "number" }, bytes(session.waitingBytes)),
          el("td", { class: "number" }, count(session.droppedMessages))))));
}
