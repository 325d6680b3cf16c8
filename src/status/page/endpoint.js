// The page of one endpoint: problems first, then its settings, limits, traffic, clients, bridges, history and fields.

import { fetched } from "./access.js";
import { clientList, showSlowest } from "./clients.js";
import { badge, bytes, closable, count, el, empty, facts, own, show, table, when, written } from "./elements.js";
import { complaint, conditionKind, diagnosticItem, expiryBadge, place, showHistory, stateBadge } from "./overview.js";
import { CLIENTS, MESSAGES, figure, pointsOf } from "./plots.js";

const $ = (id) => document.getElementById(id);
let name = null; // the endpoint of the page that is open
let parts = null; // the elements that are updated

export function openEndpoint(wanted) {
  name = wanted;
  $("endpoint-title").replaceChildren(own(name));
  const clients = clientList(name);
  const part = () => el("div", {});
  parts = { top: part(), settings: part(), limits: part(), plots: el("div", { class: "plots" }), totals: part(), errors: part(), bridges: part(), fields: part(), conditions: part(), clients };
  parts.slow = el("section", { ariaLabel: "Slow consumers", hidden: true }, el("h3", {}, "Slow consumers"), el("div", { class: "slow-list" }));
  parts.history = el("div", { class: "list" });
  const titled = (title, ...content) => el("section", { ariaLabel: title }, el("h3", {}, title), ...content);
  $("endpoint-page").replaceChildren(
    parts.top, parts.slow, parts.errors, parts.settings,
    titled("Conditions", parts.conditions),
    titled("Limits and use", parts.limits),
    titled("Traffic, last five minutes", parts.plots, parts.totals),
    titled("Clients", clients.node),
    titled("Bridges", parts.bridges),
    titled("History", parts.history),
    titled("Declared and live", parts.fields));
  showPlots();
  refreshEndpoint().then(() => name === wanted && parts.found && clients.load());
}

export function closeEndpoint() {
  name = null;
  parts = null;
  $("endpoint-page").replaceChildren();
}

export async function refreshEndpoint() {
  if (!name) return;
  const [wanted, into] = [name, parts];
  const which = `name=${encodeURIComponent(wanted)}`;
  let data, status, counted;
  try {
    [data, status, counted] = await Promise.all(["get", "status", "metrics"].map((path) => fetched(`/api/endpoints/${path}?${which}`)));
  } catch (error) {
    if (parts === into) show(into.top, error.message, () => el("p", { class: "banner bad", role: "alert" }, error.message));
    return;
  }
  // These show clients or documents, and may be refused on their own.
  const [plan, bridges, history] = await Promise.all(["/api/plan", "/api/bridges", `/api/endpoints/history?limit=10&${which}`].map((path) => fetched(path).catch((error) => ({ error: error.message }))));
  if (parts !== into) return;
  into.found = true;
  showProblems(into.top, data, status, plan.diagnostics ?? []);
  showSettings(into.settings, data, status);
  show(into.conditions, [data.conditions, data.origin], () => conditions(data));
  showCounted(counted, data);
  showBridges(into.bridges, bridges, wanted, data);
  if (history.error) show(into.history, history.error, () => el("p", { class: "quiet" }, history.error));
  else showHistory(into.history, history.entries, "No revision has changed this endpoint since the broker started.");
  show(into.fields, data, () => compare(data));
  showSlowest(into.slow, wanted);
}

// `traffic`: new rates arrived; else the counters are requested.
export async function tickEndpoint(traffic) {
  if (!parts) return;
  if (traffic) return showPlots();
  const into = parts;
  if (!into.found) return;
  showSlowest(into.slow, name);
  const counted = await fetched(`/api/endpoints/metrics?name=${encodeURIComponent(name)}`).catch(() => null);
  if (parts === into && counted && into.data) showCounted(counted, into.data);
}

function showPlots() {
  const points = pointsOf(name);
  parts.plots.replaceChildren(figure("Messages", points, MESSAGES, "/s"), figure("Clients", points, CLIENTS, ""));
}

// --- state and settings ---

function showProblems(node, data, status, diagnostics) {
  // Diagnostics name files, not endpoints: those of the same file are likely about it.
  const own = diagnostics.filter((found) => found.file === data.origin.file);
  const why = complaint(status);
  const expiry = status.certificateExpiresAt;
  show(node, [data, own, expiry], () => [
    el("p", { class: "states" }, stateBadge(status), " ", expiry && expiryBadge(expiry)),
    why && el("p", { class: `banner ${status.health === "unhealthy" ? "bad" : "warn"}` }, why),
    own.length > 0 && el("ul", { class: "diagnostics", ariaLabel: "Errors and warnings in its file" }, ...own.map(diagnosticItem)),
  ]);
}

function showSettings(node, data, status) {
  const live = data.live ?? data.declared ?? {};
  const expiry = status.certificateExpiresAt;
  show(node, [data, expiry], () =>
    el("div", { class: "card" }, facts([
      ["Address", data.address ? el("code", {}, data.address) : "none"],
      ["Declared in", data.origin.file ? el("code", {}, place(data.origin)) : "no document: it was removed"],
      ["Transport", transport(live)],
      live.sslConfig && ["Certificate", expiry ? [expiryBadge(expiry), " ", new Date(expiry).toLocaleString()] : "the date of expiry is known when it listens"],
      ["MQTT versions", written(live.protocolVersions) && [live.protocolVersions].flat().join(", ")],
      ["Authentication", live.enableAuth === false ? "none: every client may connect" : `auth ${written(live.auth) || "default"}`],
      ["Authorization", live.enableAcl === false ? "none: every client may use every topic" : `acl ${written(live.acl) || "default"}`],
      live.mountpoint && ["Mountpoint", el("code", {}, live.mountpoint)],
      data.pending && ["Pending", data.pending],
      ["MQTT client", clientLink(data)],
    ].filter((fact) => fact && fact[1]))));
}

const transport = (live) => `${live.useWebsocket ? `WebSocket at ${live.path ?? "/mqtt"}` : "TCP"}${live.sslConfig ? " with TLS" : ", not encrypted"}`;

function clientLink(data) {
  if (!data.live?.useWebsocket || !data.live.port) return "for endpoints that listen with useWebsocket: true";
  const query = new URLSearchParams({ name: data.name, port: data.live.port, tls: String(Boolean(data.live.sslConfig)) });
  return el("a", { href: `/client?${query}` }, "Open the MQTT client for this endpoint");
}

function conditions(data) {
  const rows = data.conditions.map((condition) => {
    const kind = conditionKind(condition);
    const mark = { good: "✓ ", bad: "✗ ", warn: "! ", off: "– " }[kind];
    return el("tr", {},
      el("th", { scope: "row" }, condition.type),
      el("td", {}, badge(kind, mark + condition.status)),
      el("td", {}, condition.reason),
      el("td", {}, condition.message, condition.message && kind === "bad" && data.origin.file && el("div", {}, el("code", {}, place(data.origin)))),
      el("td", { class: "nowrap" }, when(condition.lastTransitionTime)));
  });
  return table("Conditions", ["Condition", "Status", "Reason", "Message", "Since"], rows);
}

// --- limits and losses ---

const BYTES = /Bytes$|messageMaxSize/;
// Limits without a count of their own; they apply to each client or message.
const EACH = ["maxConnectionPerAddress", "maxConnectionPerSecond", "maxQueuedMessages", "maxQueuedBytes", "maxInflight", "maxSubscriptions", "messageMaxSize", "maxPublishPerSecond", "maxTotalPublishPerSecond", "maxRetainedMessages", "maxRetainedBytes"];

function showCounted(counted, data) {
  parts.data = data;
  const live = data.live ?? data.declared ?? {};
  const held = counted.sessions;
  const used = [
    ["maxConnectionSize", counted.connections.current, "clients connected"],
    ["maxPendingConnections", counted.connections.pending, "connections before their CONNECT is accepted"],
    ["maxSessionSize", held?.sessions, held && `sessions, ${count(held.sessionsAway)} of them offline`],
  ];
  show(parts.limits, [used, live, held], () => [
    table("Limits and use", ["Limit", "Use", "Maximum"], [
      ...used.map(([field, value, what]) => limitRow(field, value, what, live[field])),
      ...EACH.filter((field) => live[field] !== undefined && live[field] !== null).map((field) => limitRow(field, null, "", live[field])),
    ]),
    held && el("p", {}, `${count(held.subscriptions)} subscriptions; ${count(held.inflightMessages)} messages in flight, ${count(held.queuedMessages)} queued (${bytes(held.queuedBytes)}).`),
  ]);
  const lost = Object.entries(counted.messages.droppedByReason).filter(([, number]) => number > 0);
  const refused = Object.entries({ ...counted.errors.byKind, ...counted.connects }).filter(([word, number]) => number > 0 && word !== "success");
  const list = (entries) => entries.map(([word, number]) => `${word.replaceAll("_", " ")} ${count(number)}`).join(", ");
  show(parts.errors, [lost, refused], () =>
    lost.length + refused.length > 0 && el("section", { ariaLabel: "Errors since start" },
      el("h3", {}, "Errors since start"),
      el("div", { class: "card" }, facts([
        lost.length > 0 && ["Messages dropped", list(lost)],
        refused.length > 0 && ["Connections rejected", list(refused)],
      ]))));
  show(parts.totals, [counted.messages, counted.bytes], () =>
    el("div", { class: "card" }, facts([
      ["Received since start", `${count(counted.messages.receivedTotal)} messages, ${bytes(counted.bytes.receivedTotal)}`],
      ["Sent since start", `${count(counted.messages.sentTotal)} messages, ${bytes(counted.bytes.sentTotal)}`],
    ])));
}

function limitRow(field, value, what, max) {
  const shown = max === undefined || max === null ? "no limit" : BYTES.test(field) ? bytes(max) : String(max);
  const use = value === null ? el("span", { class: "quiet" }, "–") : `${count(value)} ${what ?? ""}`;
  const meter = value !== null && value !== undefined && max && el("meter", { min: 0, max, high: max * 0.8, optimum: 0, value, ariaLabel: `${value} of ${max}` });
  return el("tr", {}, el("th", { scope: "row" }, ...broken(field)), el("td", {}, use, meter && " ", meter), el("td", { class: "number" }, shown));
}

// A field's name, which may break before its capitals.
const broken = (field) => field.split(/(?=[A-Z])/).flatMap((part, index) => (index ? [el("wbr"), part] : [part]));

// --- bridges ---

function showBridges(node, answer, wanted, data) {
  if (answer.error) return show(node, answer.error, () => el("p", { class: "quiet" }, answer.error));
  const bridges = answer.bridges.filter((bridge) => bridge.endpoints.includes(wanted));
  show(node, [bridges, data.origin], () => {
    if (bridges.length === 0) return empty("No bridge uses this endpoint. To forward its messages to another broker, declare a bridge, and name it here with enableBridge: true and bridges: [NAME].");
    return table("Bridges", ["Bridge", "State", "Address", "Queued", "Dropped", "Declared in"], bridges.map((bridge) => {
      const bad = bridge.conditions.find((condition) => conditionKind(condition) === "bad");
      const elsewhere = bridge.conditions.find((condition) => condition.reason === "RunsElsewhere");
      const dropped = Object.values(bridge.link?.messagesDropped ?? {}).reduce((sum, number) => sum + number, 0);
      return el("tr", {},
        el("th", { scope: "row" }, bridge.name),
        el("td", {}, badge(bad ? "bad" : bridge.link?.connected ? "good" : "off", bad ? `✗ ${bad.reason}` : bridge.link?.connected ? "✓ connected" : `– ${elsewhere?.message ?? "not running"}`), bad && el("div", {}, bad.message)),
        el("td", {}, el("code", {}, bridge.link?.address ?? bridge.addresses[0] ?? "")),
        el("td", { class: "number" }, count(bridge.link?.queuedMessages)),
        el("td", { class: "number" }, count(dropped)),
        el("td", {}, el("code", {}, place(bridge.origin))));
    }));
  });
}

// --- declared and live ---

// The differences; the other fields only where the reader opens them.
function compare(data) {
  if (!data.declared) {
    const gone = data.conditions.some((condition) => condition.type === "Accepted" && condition.reason === "Removed");
    return el("p", {}, gone ? "Its document was removed: the endpoint disconnects its clients and stops." : "No version of its document was accepted: see Accepted above.");
  }
  const fields = [...new Set([...Object.keys(data.declared), ...Object.keys(data.live ?? {})])];
  const named = new Set(data.differences.map((difference) => difference.field));
  const differing = fields.filter((field) => named.has(field));
  const same = fields.filter((field) => !named.has(field));
  const others = same.length > 0 && el("details", { class: "same" },
    el("summary", {}, `${same.length} ${same.length === 1 ? "field" : "fields"} ${data.live ? "that are the same" : "as declared"}`),
    comparison("The other fields", same, data, ""));
  if (others) closable(others);
  return el("div", {},
    differing.length ? comparison("Differences", differing, data, "differs") : el("p", {}, data.live ? "Live as declared." : "It does not listen."),
    others);
}

function comparison(label, fields, data, kind) {
  const rows = fields.map((field) =>
    el("tr", { class: kind },
      el("th", { scope: "row" }, ...broken(field)),
      el("td", {}, el("code", {}, written(data.declared[field]) || "–")),
      el("td", {}, data.live ? el("code", {}, written(data.live[field]) || "–") : "does not listen")),
  );
  const whole = table(label, ["Field", "Declared", "Live"], rows);
  whole.querySelector("table").className = "compare";
  return whole;
}
