// The overview: problems and slow consumers first, then endpoints, traffic, clients, history, source and brokers.

import { clientList, showSlowest } from "./clients.js";
import { badge, closable, count, el, empty, facts, keyed, link, own, revision, show, since, span, when } from "./elements.js";
import { CLIENTS, MESSAGES, figure, pointsOf, sparkline, totals } from "./plots.js";

const $ = (id) => document.getElementById(id);
const clients = clientList(null);
$("clients").append(clients.node);
let endpointsNow = [];
let sourceNow = null;
let startedAt = null;

export const HEALTH = {
  healthy: ["good", "✓ healthy"],
  degraded: ["warn", "! degraded"],
  unhealthy: ["bad", "✗ down"],
  disabled: ["off", "– disabled"],
};
const STATE = { draining: "– draining", refused: "✗ rejected", notSelected: "– not selected", removed: "– removed" };
const OUTCOME = {
  applied: ["good", "✓ applied"],
  appliedWithRefusals: ["warn", "! with rejections"],
  refused: ["bad", "✗ rejected"],
};
const GOOD_WHEN_TRUE = new Set(["Accepted", "ResolvedRefs", "Programmed", "Connected"]);

export function stateBadge(endpoint) {
  const [kind, word] = HEALTH[endpoint.health] ?? ["off", endpoint.health];
  return badge(kind, STATE[endpoint.state] ?? word);
}

export const conditionKind = (condition) =>
  condition.status === "Unknown" ? "off" : (condition.status === "True") === GOOD_WHEN_TRUE.has(condition.type) ? "good" : condition.type === "Draining" ? "warn" : "bad";

export const place = (origin) => (origin?.file ? `${origin.file}:${origin.line}` : "");

export function showOverview(data) {
  sourceNow = data.source;
  startedAt = data.system.startedAt;
  showEndpoints(data.endpoints, data.source);
  showProblems(data);
  if (!data.history) show($("history-list"), data.refused, () => el("p", { class: "quiet" }, "Not shown: see above."));
  else showHistory($("history-list"), data.history, `No revision has been applied yet. Commit a document to ${data.source.location}.`);
  showSource(data.source);
  showNodes(data.nodes.nodes, data.nodes.trouble, data.members.cluster);
  showTiles();
}

export function loadOverview() {
  clients.load();
  showSlowest($("slow"), null);
}

export function tickOverview(traffic, slowest) {
  showTiles();
  if (traffic) {
    $("plots").replaceChildren(figure("Messages", totals(), MESSAGES, "/s"), figure("Clients", totals(), CLIENTS, ""));
    for (const node of document.querySelectorAll(".endpoint")) showRates(node, node.dataset.key);
  }
  if (slowest) showSlowest($("slow"), null);
}

function showTiles() {
  const here = endpointsNow.filter((endpoint) => endpoint.state !== "notSelected");
  const listening = here.filter((endpoint) => endpoint.state === "listening").length;
  const last = totals().at(-1);
  const open = last ? last.connections : endpointsNow.reduce((sum, endpoint) => sum + endpoint.connections.current, 0);
  const tiles = [
    ["Listening", String(listening), `of ${here.length}`],
    ["Clients", count(open), ""],
    ["Messages in", count(last?.in), "/s"],
    ["Messages out", count(last?.out), "/s"],
    ["Dropped", count(last?.dropped), "/s"],
    ["Revision", sourceNow?.appliedRevision ?? "none", ""],
    ["Source read", sourceNow?.lastReadAt ? span(since(sourceNow.lastReadAt)) : "never", sourceNow?.lastReadAt ? "ago" : ""],
    ["Up", startedAt ? span(since(startedAt)) : "–", ""],
  ];
  show($("tiles"), tiles, () =>
    tiles.map(([name, value, unit]) =>
      el("div", {}, el("dt", {}, name), el("dd", { class: name === "Revision" ? "long" : "" }, name === "Revision" ? revision(value) : value, unit && " ", unit && el("small", {}, unit)))),
  );
}

// --- problems ---

// Why it is not as declared, in one sentence.
export function complaint(endpoint) {
  const pending = endpoint.pending ? `Pending: ${endpoint.pending}` : "";
  if (endpoint.health === "healthy" || endpoint.health === "disabled") return pending;
  const bad = endpoint.conditions.find((condition) => condition.message && conditionKind(condition) === "bad");
  return bad?.message ?? pending;
}

function showProblems({ endpoints, diagnostics, bridges }) {
  const broken = endpoints.filter((endpoint) => endpoint.health === "unhealthy" || endpoint.health === "degraded");
  const failed = bridges.filter((bridge) => bridge.conditions.some((condition) => conditionKind(condition) === "bad"));
  const late = endpoints.filter((endpoint) => endpoint.certificateExpiresAt && since(endpoint.certificateExpiresAt) > -14 * 86400);
  $("problems").hidden = broken.length + failed.length + late.length + diagnostics.length === 0;
  const brief = (endpoint) => [endpoint.name, endpoint.state, endpoint.health, complaint(endpoint), endpoint.certificateExpiresAt];
  show($("problem-list"), [broken.map(brief), late.map(brief), failed, diagnostics], () => [
    ...broken.map((endpoint) =>
      el("li", { class: endpoint.health === "unhealthy" ? "error" : "warning" },
        stateBadge(endpoint), " ", link(endpoint.name), " ", complaint(endpoint), " ", el("code", {}, place(endpoint.origin)))),
    ...late.map((endpoint) => el("li", { class: "warning" }, expiryBadge(endpoint.certificateExpiresAt), " ", link(endpoint.name))),
    ...failed.map((bridge) =>
      el("li", { class: "warning" }, badge("bad", "✗ bridge"), " ", el("b", {}, bridge.name), " ",
        bridge.conditions.find((condition) => conditionKind(condition) === "bad").message, " ", el("code", {}, place(bridge.origin)))),
    ...diagnostics.map(diagnosticItem),
  ]);
}

export const diagnosticItem = (found) =>
  el("li", { class: found.severity },
    el("code", {}, `${found.file}:${found.line}:${found.col}`), " ", found.path && el("b", {}, `${found.path}: `), found.message,
    found.help && el("div", { class: "quiet" }, found.help));

export function expiryBadge(expiresAt) {
  const gone = since(expiresAt) > 0;
  const late = since(expiresAt) > -14 * 86400;
  return badge(gone ? "bad" : late ? "warn" : "good", gone ? "✗ certificate expired" : `${late ? "! " : ""}certificate expires in ${span(-since(expiresAt))}`);
}

// --- endpoints ---

const EXAMPLE = "endpoint:\n  name: mqtt\n  host: 127.0.0.1\n  port: 1883\n  enableAuth: false\n  enableAcl: false\n";

function showEndpoints(endpoints, source) {
  const urgency = ["unhealthy", "degraded", "healthy", "disabled"];
  endpoints.sort((a, b) => urgency.indexOf(a.health) - urgency.indexOf(b.health));
  endpointsNow = endpoints;
  const here = endpoints.filter((endpoint) => endpoint.state !== "notSelected");
  const elsewhere = endpoints.filter((endpoint) => endpoint.state === "notSelected");
  if (here.length === 0) show($("endpoint-list"), source.location, () => empty(`No endpoint is declared. Add a document to ${source.location}, for example:`, EXAMPLE));
  else {
    $("endpoint-list").querySelector(".empty")?.remove();
    $("endpoint-list").shownData = null;
    keyed($("endpoint-list"), here, (endpoint) => endpoint.name, newEndpoint, updateEndpoint, () => {});
  }
  $("elsewhere").hidden = elsewhere.length === 0;
  $("elsewhere").querySelector("summary").textContent = `${elsewhere.length} ${elsewhere.length === 1 ? "endpoint is" : "endpoints are"} not selected for this broker`;
  keyed($("elsewhere-list"), elsewhere, (endpoint) => endpoint.name, newEndpoint, updateEndpoint, () => {});
  clients.offer(here.map((endpoint) => endpoint.name));
}

const newEndpoint = () => el("div", { class: "endpoint" }, el("div", { class: "row" }));

function updateEndpoint(node, endpoint) {
  const { connections, ...fixed } = endpoint;
  show(node.querySelector(".row"), fixed, () => {
    const max = connections.max;
    const expiry = endpoint.certificateExpiresAt;
    return [
      el("span", { class: "state" }, stateBadge(endpoint)),
      el("span", { class: "who" }, link(endpoint.name)),
      el("span", { class: "where" }, endpoint.address ? el("code", {}, endpoint.address) : el("span", { class: "quiet" }, "no address")),
      el("span", {},
        el("small", {}, el("b", { class: "clients-now" }, count(connections.current)), max ? ` of ${count(max)} clients` : " clients"),
        max && el("meter", { min: 0, max, high: max * 0.8, optimum: 0, value: connections.current, ariaLabel: `${connections.current} of ${max} clients` })),
      el("small", { class: "rates" }, "–"),
      el("span", { class: "spark" }),
      complaint(endpoint) && el("small", { class: "complaint" }, complaint(endpoint)),
      expiry && since(expiry) > -14 * 86400 && el("span", { class: "expiry" }, expiryBadge(expiry)),
    ];
  });
  showRates(node, endpoint.name);
}

function showRates(node, name) {
  const last = pointsOf(name).at(-1);
  const [rates, open, meter] = [".rates", ".clients-now", "meter"].map((each) => node.querySelector(each));
  node.querySelector(".spark")?.replaceWith(sparkline(name));
  if (!last) return;
  if (rates) rates.textContent = `${count(last.in)} in, ${count(last.out)} out /s`;
  if (open) open.textContent = count(last.connections);
  if (meter) meter.value = last.connections;
}

// --- history ---

export function showHistory(list, entries, nothing) {
  if (entries.length === 0) {
    list.replaceChildren(empty(nothing));
    return;
  }
  list.querySelector(".empty")?.remove();
  keyed(list, entries, (entry) => String(entry.sequence), newEntry, () => {}, () => {});
}

function newEntry(entry) {
  const [kind, word] = OUTCOME[entry.outcome] ?? ["off", entry.outcome];
  const subject = entry.commit ? `${entry.commit.subject} (${entry.commit.author})` : entry.summary;
  const actions = entry.actions.map((action) =>
    el("li", {}, `${action.action} `, el("b", {}, own(action.endpoint)), action.error ? `: ${action.error}` : ""));
  const node = el("details", {},
    el("summary", {}, el("span", { class: "history" },
      el("span", {}, badge(kind, word)), revision(entry.revision), el("span", { class: "subject" }, subject), when(entry.at))),
    el("div", { class: "detail" },
      el("p", {}, entry.summary, " ", el("span", { class: "quiet" }, `in ${(entry.durationUs / 1000).toFixed(1)} ms`)),
      actions.length ? el("ul", {}, ...actions) : null,
      entry.diff ? diff(entry.diff) : el("p", { class: "quiet" }, "The declaration did not change.")));
  closable(node);
  return node;
}

function diff(text) {
  const kinds = [["+++", "head"], ["---", "head"], ["@@", "head"], ["+", "plus"], ["-", "minus"]];
  const lines = text.replace(/\n$/, "").split("\n").map((line) =>
    el("span", { class: kinds.find(([start]) => line.startsWith(start))?.[1] ?? "" }, line || " "));
  return el("pre", { class: "diff", tabIndex: 0, ariaLabel: "Difference" }, ...lines);
}

// --- source and brokers ---

function showSource(source) {
  show($("source"), source, () =>
    facts([
      ["Kind", source.kind],
      ["Location", el("code", {}, source.location)],
      ["Attempted", revision(source.attemptedRevision)],
      ["Applied", revision(source.appliedRevision)],
      source.commit && ["Commit", `${source.commit.subject} (${source.commit.author})`],
      ["Last read", when(source.lastReadAt)],
      source.lastKnownGood && ["Serving", ["the last known good revision ", revision(source.lastKnownGood.revision)]],
      source.suspended && ["Suspended", "no revision is applied until `reconcile.suspend` is removed"],
      ["Declaration", revision(source.declarationDigest)],
      ["Live", revision(source.liveDigest)],
      source.ignored?.length && ["Ignored", source.ignored.join(", ")],
    ]));
}

// `cluster`: null where the broker is alone. Its nodes that have no record, as they are out or have left, are listed last.
function showNodes(nodes, trouble, cluster) {
  $("nodes-note").textContent = trouble ? `The other brokers are shown as they were last known: ${trouble}` : "";
  const states = stateOfNodes(cluster);
  const gone = (cluster?.peers ?? []).filter((peer) => !nodes.some((node) => node.name === peer.node));
  show($("nodes"), [nodes, states, gone.map((peer) => peer.node)], () =>
    [...nodes.map((node) =>
      el("tr", {},
        el("th", { scope: "row" }, pageOf(node), node.this && el("span", { class: "quiet" }, " (this one)"), el("small", { class: "quiet" }, ` ${node.version} `), stateOf(states[node.name]), node.duplicateName && badge("bad", "✗ two of this name")),
        el("td", {}, badge(node.converged ? "good" : "warn", node.converged ? "✓ yes" : "! no"), node.reason && ` ${node.reason}`, refusalsOf(node)),
        el("td", {}, revision(documentsOf(node)), el("small", { class: "quiet" }, " at "), revision(node.appliedRevision)),
        el("td", { class: "nowrap" }, `${node.endpoints.listening} of ${node.endpoints.declared}`),
        el("td", { class: "number" }, count(node.connections)))),
    ...gone.map((peer) =>
      el("tr", {},
        el("th", { scope: "row" }, peer.node, el("small", { class: "quiet" }, ` ${peer.version} `), stateOf(states[peer.node])),
        el("td", {}, "–"), el("td", {}, "–"), el("td", {}, "–"), el("td", { class: "number" }, "–")))],
  );
}

// The state of each node of the cluster, and its problem, by name.
function stateOfNodes(cluster) {
  if (!cluster) return {};
  const problem = (name) => cluster.suspects.find((suspect) => suspect.node === name)?.reason ?? "";
  const own = !cluster.in ? "out" : cluster.role === "member" ? "in" : cluster.role;
  const states = [[cluster.node, own, cluster.notReady ?? ""], ...cluster.peers.map((peer) => [peer.node, peer.state, ""])];
  return Object.fromEntries(states.map(([name, state, reason]) => [name, { state, reason: reason || problem(name) }]));
}

function stateOf(known) {
  if (!known) return null;
  const good = known.state === "in" && !known.reason;
  return el("span", {}, badge(good ? "good" : "warn", `${good ? "✓" : "!"} ${known.state}`), known.reason && ` ${known.reason}`);
}

// Equal where brokers serve the same documents, even if the revisions of the store differ.
const documentsOf = (node) => node.appliedDocuments ?? node.declarationDigest;

function refusalsOf(node) {
  const refused = Object.entries(node.refusals);
  const number = refused.length + node.moreRefusals;
  if (number === 0) return null;
  const lines = refused.map(([key, refusal]) => `${key}: ${refusal.reason}`);
  return el("details", { class: "same" }, el("summary", {}, badge("warn", `! ${number} rejected`)),
    el("ul", {}, ...lines.map((line) => el("li", {}, line)), node.moreRefusals ? el("li", {}, `and ${node.moreRefusals} more`) : null));
}

// A link to a broker's own page, where its address is a web address: other brokers write these records.
function pageOf(node) {
  const web = /^https?:\/\//.test(node.statusUrl ?? "") && !node.this;
  return web ? el("a", { href: node.statusUrl, rel: "noreferrer" }, node.name) : node.name;
}
