// What the broker says, shown. Everything comes from this broker and everything is put in as text: client ids, topics
// and commit messages are strangers' words.

import { Unauthorized, fetched, setToken, streamed } from "./access.js";
import { ago, badge, count, el, keyed, show, since, span, svg, when, written } from "./elements.js";
import { showClients, showSlowest } from "./lists.js";

const $ = (id) => document.getElementById(id);
const KEPT = 150; // points of a plot
const series = new Map(); // endpoint -> [{at, in, out, connections, dropped}]
const redraw = new Map(); // endpoint -> function that shows its newest numbers
let total = [];
let staleSince = null;
let startedAt = null;

const HEALTH = {
  healthy: ["good", "✓ healthy"],
  degraded: ["warn", "! degraded"],
  unhealthy: ["bad", "✗ down"],
  disabled: ["off", "– off"],
};
const STATE = { draining: "– draining", refused: "✗ refused", notSelected: "– not here" };
const OUTCOME = {
  applied: ["good", "✓ applied"],
  appliedWithRefusals: ["warn", "! with refusals"],
  refused: ["bad", "✗ refused"],
};

// --- fetching ---

let refreshing = false;
let again = false;

async function refresh() {
  if (refreshing) {
    again = true;
    return;
  }
  refreshing = true;
  try {
    do {
      again = false;
      const [status, plan, source, system, nodes, history] = await Promise.all(
        ["/api/endpoints/status", "/api/plan", "/api/source", "/api/system/health", "/api/cluster/nodes", "/api/endpoints/history?limit=30"].map(fetched),
      );
      showHead(system, source, nodes);
      showEndpoints(Object.values(status.endpoints));
      showDiagnostics(plan.diagnostics);
      showHistory(history.entries);
      showSource(source);
      showNodes(nodes.nodes, nodes.trouble);
      showTiles();
    } while (again);
  } catch (error) {
    if (error instanceof Unauthorized) return askToken();
    $("trouble").textContent = `This page could not be brought up to date: ${error.message}`;
    $("trouble").hidden = false;
  } finally {
    refreshing = false;
  }
}

// --- head and tiles ---

let endpointsNow = [];
let sourceNow = null;

function showHead(system, source, nodes) {
  sourceNow = source;
  startedAt = system.startedAt;
  $("node").textContent = `${nodes.nodes[0]?.name ?? ""} · ${system.version}`;
  document.title = `Weir ${nodes.nodes[0]?.name ?? ""}`;
  const failing = system.checks.filter((check) => !check.ok);
  const good = failing.length === 0;
  $("verdict").className = `verdict ${good ? "good" : "warn"}`;
  $("verdict").textContent = good
    ? "✓ Everything declared is live"
    : `! ${failing.map((check) => `${CHECKS[check.check] ?? check.check}${NAMING.has(check.check) ? `: ${check.message}` : ""}`).join("; ")}`;
  const said = source.trouble ? `The ${source.kind} source cannot be read since ${ago(source.trouble.since)}: ${source.trouble.message}. What was applied last stays live.` : "";
  $("trouble").textContent = said;
  $("trouble").hidden = !said;
}

const NAMING = new Set(["DocumentsAccepted", "EndpointsListening", "EndpointsAsDeclared"]); // their message says which

const CHECKS = {
  Serving: "Not serving",
  SourceReadable: "The source cannot be read",
  DocumentsAccepted: "A document is refused",
  EndpointsListening: "An endpoint is down",
  EndpointsAsDeclared: "An endpoint is not as declared",
  NotSuspended: "Reconciling is suspended",
};

function showTiles() {
  const listening = endpointsNow.filter((endpoint) => endpoint.state === "listening").length;
  const last = total.at(-1);
  const clients = last ? last.connections : endpointsNow.reduce((sum, endpoint) => sum + endpoint.connections.current, 0);
  const facts = [
    ["Listening", String(listening), `of ${endpointsNow.length}`],
    ["Clients", count(clients), ""],
    ["Messages in", count(last?.in), "/s"],
    ["Messages out", count(last?.out), "/s"],
    ["Dropped", count(last?.dropped), "/s"],
    ["Revision", sourceNow?.appliedRevision?.slice(0, 12) ?? "none", ""],
    ["Source read", sourceNow?.lastReadAt ? span(since(sourceNow.lastReadAt)) : "never", sourceNow?.lastReadAt ? "ago" : ""],
    ["Up", startedAt ? span(since(startedAt)) : "–", ""],
  ];
  show($("tiles"), facts, () =>
    facts.map(([name, value, unit]) => el("div", {}, el("dt", {}, name), el("dd", { class: value.length > 8 ? "long" : "" }, value, unit && " ", unit && el("small", {}, unit)))),
  );
}

// --- plots ---

function path(points, key, width, height, top) {
  const end = points.at(-1)?.at ?? 0;
  const x = (at) => width - ((end - at) / (KEPT * 2000)) * width;
  const y = (value) => height - 2 - (value / top) * (height - 6);
  return points.map((point, index) => `${index ? "L" : "M"}${x(point.at).toFixed(1)} ${y(point[key]).toFixed(1)}`).join("");
}

// A round number above the highest value, so that the scale does not jump with every point.
function ceiling(points, keys) {
  const most = Math.max(1, ...points.flatMap((point) => keys.map((key) => point[key])));
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * power).find((round) => round >= most);
}

function plot(label, points, lines, width, height) {
  const top = ceiling(points, lines.map(([key]) => key));
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  for (const part of [0, 0.5, 1]) {
    const y = height - 2 - part * (height - 6);
    drawing.append(svg("line", { x1: 0, x2: width, y1: y, y2: y, class: "grid" }));
  }
  for (const [key, style] of lines) {
    if (points.length > 1) drawing.append(svg("path", { d: path(points, key, width, height, top), class: `series ${style}` }));
  }
  return [drawing, top];
}

function figure(title, points, lines, unit) {
  const last = points.at(-1);
  const texts = lines.map(([key, , name]) => `${name} ${count(last?.[key])}${unit}`);
  const [drawing, top] = plot(`${title}: ${texts.join(", ")}`, points, lines, 600, 100);
  const legend = lines.map(([key, style, name]) =>
    el("span", {}, el("span", { class: `key ${style}`, ariaHidden: "true" }, style === "out" ? "╌ " : "— "), `${name} `, el("b", {}, `${count(last?.[key])}${unit}`)),
  );
  return el("figure", { class: "plot" }, el("figcaption", {}, el("b", {}, title), ...legend, el("span", {}, `scale to ${count(top)}${unit}`)), drawing);
}

const MESSAGES = [
  ["in", "in", "in"],
  ["out", "out", "out"],
];

function showPlots() {
  $("plots").replaceChildren(
    figure("Messages", total, MESSAGES, "/s"),
    figure("Clients", total, [["connections", "in", "open"]], ""),
  );
  for (const draw of redraw.values()) draw();
}

function took(points) {
  for (const point of points) {
    const at = Date.parse(point.at);
    const sum = { at, in: 0, out: 0, connections: 0, dropped: 0 };
    for (const [name, rates] of Object.entries(point.endpoints)) {
      const values = { at, in: rates.messagesReceivedPerS, out: rates.messagesSentPerS, connections: rates.connections, dropped: rates.messagesDroppedPerS };
      const kept = series.get(name) ?? [];
      kept.push(values);
      series.set(name, kept.slice(-KEPT));
      for (const key of ["in", "out", "connections", "dropped"]) sum[key] += values[key];
    }
    total.push(sum);
  }
  total = total.slice(-KEPT);
  const names = new Set(Object.keys(points.at(-1)?.endpoints ?? {}));
  for (const name of series.keys()) if (!names.has(name)) series.delete(name);
  showPlots();
  showTiles();
}

// --- endpoints ---

function showEndpoints(endpoints) {
  // What is wrong is seen first.
  const urgency = ["unhealthy", "degraded", "healthy", "disabled"];
  endpoints.sort((a, b) => urgency.indexOf(a.health) - urgency.indexOf(b.health));
  endpointsNow = endpoints;
  keyed($("endpoint-list"), endpoints, (endpoint) => endpoint.name, newEndpoint, updateEndpoint, (name) => redraw.delete(name));
  if (endpoints.length === 0) $("endpoint-list").textContent = "No endpoint is declared.";
  const names = endpoints.map((endpoint) => endpoint.name);
  show($("client-endpoint"), names, () => [el("option", { value: "" }, "all"), ...names.map((name) => el("option", { value: name }, name))]);
}

function newEndpoint(endpoint) {
  const name = endpoint.name;
  const node = el("details", {}, el("summary", {}, el("span", { class: "row" })), el("div", { class: "detail" }));
  redraw.set(name, () => {
    const points = series.get(name) ?? [];
    const [drawing] = plot(`Messages of ${name}`, points, MESSAGES, 128, 30);
    drawing.setAttribute("class", "spark");
    node.querySelector("svg.spark")?.replaceWith(drawing);
    const last = points.at(-1);
    const rates = node.querySelector(".rates");
    if (rates && last) rates.textContent = `${count(last.in)} in, ${count(last.out)} out /s`;
    const open = node.querySelector(".clients-now");
    if (open && last) open.textContent = count(last.connections);
    const meter = node.querySelector("meter");
    if (meter && last) meter.value = last.connections;
  });
  node.addEventListener("toggle", () => node.open && showDetail(node, name));
  return node;
}

function updateEndpoint(node, endpoint) {
  const { connections, ...fixed } = endpoint;
  show(node.querySelector(".row"), fixed, () => {
    const max = connections.max;
    const [kind, word] = HEALTH[endpoint.health];
    const expiry = endpoint.certificateExpiresAt;
    return [
      el("span", { class: "state" }, badge(kind, STATE[endpoint.state] ?? word)),
      el("span", { class: "who" }, el("span", { class: "name" }, endpoint.name)),
      el("span", { class: "where" }, el("code", {}, endpoint.address)),
      el("span", {},
        el("small", {}, el("b", { class: "clients-now" }, count(connections.current)), max ? ` of ${count(max)} clients` : " clients"),
        max && el("meter", { min: 0, max, high: max * 0.8, optimum: 0, value: connections.current, ariaLabel: `${connections.current} of ${max} clients` })),
      el("small", { class: "rates" }, "–"),
      svg("svg", { class: "spark" }),
      complaint(endpoint) && el("small", { class: "complaint" }, complaint(endpoint)),
      expiry && since(expiry) > -14 * 86400 && el("span", { class: "expiry" }, badge(since(expiry) > 0 ? "bad" : "warn", since(expiry) > 0 ? "certificate expired" : `certificate expires in ${span(-since(expiry))}`)),
    ];
  });
  redraw.get(endpoint.name)?.();
  if (node.open) showDetail(node, endpoint.name);
}

// Why it is not as declared, in one sentence.
function complaint(endpoint) {
  if (endpoint.health === "healthy" || endpoint.health === "disabled") return endpoint.pending ?? "";
  const bad = endpoint.conditions.find((condition) => condition.status !== "Unknown" && condition.message && (condition.status === "True") !== GOOD_WHEN_TRUE.has(condition.type));
  return bad?.message ?? endpoint.pending ?? "";
}

async function showDetail(node, name) {
  let data, counted;
  try {
    const who = encodeURIComponent(name);
    [data, counted] = await Promise.all([fetched(`/api/endpoints/get?name=${who}`), fetched(`/api/endpoints/metrics?name=${who}`)]);
  } catch (error) {
    node.querySelector(".detail").replaceChildren(el("p", { class: "banner bad" }, error.message));
    return;
  }
  const lost = Object.entries(counted.messages.droppedByReason).filter(([, number]) => number > 0);
  const refused = Object.entries({ ...counted.errors.byKind, ...counted.connects }).filter(([word, number]) => number > 0 && word !== "success");
  const list = (entries) => entries.map(([word, number]) => `${word.replaceAll("_", " ")} ${count(number)}`).join(", ") || "none";
  const held = counted.sessions;
  show(node.querySelector(".detail"), [data, lost, refused, held], () => [
    el("p", { class: "quiet" }, "Declared in ", el("code", {}, `${data.origin.file}:${data.origin.line}`)),
    el("p", {},
      held && `${count(held.sessions)} sessions, ${count(held.sessionsAway)} of them away; ${count(held.subscriptions)} subscriptions; ${count(held.queuedMessages)} messages waiting. `,
      `Messages lost: ${list(lost)}. Connections refused: ${list(refused)}.`),
    el("h3", {}, "Conditions"),
    conditions(data.conditions),
    el("h3", {}, "Declared and live"),
    compare(data),
  ]);
}

const GOOD_WHEN_TRUE = new Set(["Accepted", "ResolvedRefs", "Programmed"]);

function conditions(list) {
  const rows = list.map((condition) => {
    const good = (condition.status === "True") === GOOD_WHEN_TRUE.has(condition.type);
    const kind = condition.status === "Unknown" ? "off" : good ? "good" : condition.type === "Draining" ? "warn" : "bad";
    const mark = { good: "✓ ", bad: "✗ ", warn: "! ", off: "– " }[kind];
    return el("tr", {},
      el("th", { scope: "row" }, condition.type),
      el("td", {}, badge(kind, mark + condition.status)),
      el("td", {}, condition.reason),
      el("td", {}, condition.message),
      el("td", { class: "nowrap" }, when(condition.lastTransitionTime)));
  });
  const head = ["Condition", "Status", "Reason", "Message", "Since"].map((name) => el("th", { scope: "col" }, name));
  return scrolled("Conditions", el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)));
}

const scrolled = (label, table) => el("div", { class: "scroll", tabIndex: 0, role: "region", ariaLabel: label }, table);

// The differences; the rest only where the reader asks for it.
function compare(data) {
  if (!data.declared) {
    const gone = data.conditions.some((condition) => condition.type === "Accepted" && condition.reason === "Removed");
    return el("p", {}, gone ? "Its document is gone: the endpoint is being drained." : "Nothing of its document is in force: see Accepted above.");
  }
  const fields = [...new Set([...Object.keys(data.declared), ...Object.keys(data.live ?? {})])];
  const named = new Set(data.differences.map((difference) => difference.field));
  const differing = fields.filter((field) => named.has(field));
  const same = fields.filter((field) => !named.has(field));
  const nothing = data.live ? "Live as declared." : "Nothing listens for it.";
  return el("div", {},
    differing.length ? comparison("What differs", differing, data, "differs") : el("p", {}, nothing),
    same.length && el("details", { class: "same" },
      el("summary", {}, `${same.length} fields ${data.live ? "that are the same" : "as declared"}`),
      comparison("The other fields", same, data, "")));
}

function comparison(label, fields, data, kind) {
  const rows = fields.map((field) =>
    el("tr", { class: kind },
      el("th", { scope: "row" }, ...field.split(/(?=[A-Z])/).flatMap((part, index) => (index ? [el("wbr"), part] : [part]))),
      el("td", {}, el("code", {}, written(data.declared[field]) || "–")),
      el("td", {}, data.live ? el("code", {}, written(data.live[field]) || "–") : "nothing listens")),
  );
  const head = ["Field", "Declared", "Live"].map((name) => el("th", { scope: "col" }, name));
  return scrolled(label, el("table", { class: "compare" }, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)));
}

// --- diagnostics, history, source, brokers ---

function showDiagnostics(list) {
  $("diagnostics").hidden = list.length === 0;
  show($("diagnostic-list"), list, () =>
    list.map((found) =>
      el("li", { class: found.severity },
        el("code", {}, `${found.file}:${found.line}:${found.col}`), " ", found.path && el("b", {}, `${found.path}: `), found.message,
        found.help && el("div", { class: "quiet" }, found.help))),
  );
}

function showHistory(entries) {
  keyed($("history-list"), entries, (entry) => String(entry.sequence), newEntry, () => {}, () => {});
  if (entries.length === 0) $("history-list").textContent = "Nothing has been applied yet.";
}

function newEntry(entry) {
  const [kind, word] = OUTCOME[entry.outcome];
  const subject = entry.commit ? `${entry.commit.subject} (${entry.commit.author})` : entry.summary;
  const actions = entry.actions.map((action) =>
    el("li", {}, `${action.action} `, el("b", {}, action.endpoint), action.error ? `: ${action.error}` : ""));
  return el("details", {},
    el("summary", {}, el("span", { class: "history" },
      el("span", {}, badge(kind, word)), el("code", {}, entry.revision.slice(0, 12)), el("span", { class: "subject" }, subject), when(entry.at))),
    el("div", { class: "detail" },
      el("p", {}, entry.summary, " ", el("span", { class: "quiet" }, `in ${(entry.durationUs / 1000).toFixed(1)} ms`)),
      actions.length ? el("ul", {}, ...actions) : null,
      entry.diff ? diff(entry.diff) : el("p", { class: "quiet" }, "The declaration itself did not change.")));
}

function diff(text) {
  const kinds = [["+++", "head"], ["---", "head"], ["@@", "head"], ["+", "plus"], ["-", "minus"]];
  const lines = text.replace(/\n$/, "").split("\n").map((line) =>
    el("span", { class: kinds.find(([start]) => line.startsWith(start))?.[1] ?? "" }, line || " "));
  return el("pre", { class: "diff", tabIndex: 0, ariaLabel: "Difference" }, ...lines);
}

function showSource(source) {
  show($("source"), source, () => {
    const facts = [
      ["Kind", source.kind],
      ["Location", el("code", {}, source.location)],
      ["Attempted", el("code", {}, source.attemptedRevision ?? "nothing yet")],
      ["Applied", el("code", {}, source.appliedRevision ?? "nothing yet")],
      source.commit && ["Commit", `${source.commit.subject} (${source.commit.author})`],
      ["Last read", when(source.lastReadAt)],
      source.lastKnownGood && ["Serving", `the last known good revision ${source.lastKnownGood.revision}`],
      source.suspended && ["Suspended", "nothing is applied until `suspend` is lifted"],
      ["Declaration", el("code", {}, source.declarationDigest)],
      ["Live", el("code", {}, source.liveDigest)],
      source.ignored?.length && ["Ignored", source.ignored.join(", ")],
    ];
    return facts.filter(Boolean).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
  });
}

function showNodes(nodes, trouble) {
  $("nodes-note").textContent = trouble ? `The others are shown as they were last known: ${trouble}` : "";
  show($("nodes"), nodes, () =>
    nodes.map((node) =>
      el("tr", {},
        el("th", { scope: "row" }, pageOf(node), node.this && el("span", { class: "quiet" }, " (this one)"), node.duplicateName && badge("bad", "✗ two of this name")),
        el("td", {}, badge(node.converged ? "good" : "warn", node.converged ? "✓ yes" : "! no"), node.reason && ` ${node.reason}`, refusalsOf(node)),
        el("td", {}, el("code", { title: documentsOf(node) }, documentsOf(node).slice(0, 11) || "–"), el("small", { class: "quiet" }, ` at ${node.appliedRevision?.slice(0, 12) ?? "none"}`)),
        el("td", { class: "nowrap" }, `${node.endpoints.listening} of ${node.endpoints.declared}`),
        el("td", { class: "number" }, count(node.connections)))),
  );
}

// Equal where brokers serve the same documents, whatever else the store's revision counts.
const documentsOf = (node) => node.appliedDocuments ?? node.declarationDigest;

function refusalsOf(node) {
  const refused = Object.entries(node.refusals);
  const number = refused.length + node.moreRefusals;
  if (number === 0) return null;
  const said = refused.map(([key, refusal]) => `${key}: ${refusal.reason}`);
  return el("details", { class: "same" }, el("summary", {}, badge("warn", `! ${number} refused`)),
    el("ul", {}, ...said.map((line) => el("li", {}, line)), node.moreRefusals ? el("li", {}, `and ${node.moreRefusals} more`) : null));
}

// A broker's own page, where its address is one of the web: others write these records.
function pageOf(node) {
  const web = /^https?:\/\//.test(node.statusUrl ?? "") && !node.this;
  return web ? el("a", { href: node.statusUrl, rel: "noreferrer" }, node.name) : node.name;
}

// --- live ---

let asking = false;

function askToken() {
  asking = true;
  $("login").hidden = false;
  $("verdict").textContent = "This broker asks for a token";
  $("token").focus();
}

async function follow() {
  const connection = $("connection");
  const opened = () => {
    staleSince = null;
    series.clear(); // the stream begins with the last five minutes
    total = [];
    connection.textContent = "● live";
  };
  try {
    await streamed("/api/events", opened, (kind, data) => {
      if (kind === "state") refresh();
      else if (kind === "traffic") took(data);
    });
  } catch (error) {
    if (error instanceof Unauthorized) return askToken();
  }
  staleSince ??= Date.now();
  connection.textContent = "○ the broker does not answer; trying again";
  setTimeout(follow, 2000);
}

let ticks = 0;

function tick() {
  for (const time of document.querySelectorAll("time")) time.textContent = ago(time.dateTime);
  if (staleSince) $("connection").textContent = `○ no answer for ${span((Date.now() - staleSince) / 1000)}; what is shown may be old`;
  showTiles();
  ticks += 1;
  if (ticks % 10 === 0 && !staleSince && !asking && document.visibilityState === "visible") showSlowest();
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken($("token").value.trim());
  $("token").value = "";
  $("login").hidden = true;
  asking = false;
  start();
});

function start() {
  refresh().then(() => {
    if (asking) return;
    showClients(false);
    showSlowest();
  });
  follow();
}

showPlots();
start();
setInterval(tick, 1000);
