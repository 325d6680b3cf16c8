// The views of the page and what keeps them up to date. All data is inserted as text: client IDs, topics and commit
// messages are input from others.

import { Unauthorized, askToken, fetched, streamed } from "./access.js";
import { ago, since, span } from "./elements.js";
import { closeEndpoint, openEndpoint, refreshEndpoint, tickEndpoint } from "./endpoint.js";
import { loadOverview, showOverview, tickOverview } from "./overview.js";
import { forget, took } from "./plots.js";
import { closeTopics, openTopics } from "./topics.js";

const $ = (id) => document.getElementById(id);
let staleSince = null;
let asking = false;
let node = "";
let view = null; // [name, argument]

// --- data ---

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
      const data = await load();
      showHead(data);
      showOverview(data);
      if (view?.[0] === "endpoint") await refreshEndpoint();
    } while (again);
  } catch (error) {
    if (error instanceof Unauthorized) return ask();
    showTrouble(`This page could not be updated: ${error.message}`);
  } finally {
    refreshing = false;
  }
}

// What shows clients or documents may be refused (403) where the broker is not asked over loopback: the rest is shown.
const PATHS = ["/api/endpoints/status", "/api/source", "/api/system/health", "/api/cluster/nodes", "/api/cluster/members"];
const GUARDED = ["/api/plan", "/api/endpoints/history?limit=30", "/api/bridges"];

async function load() {
  let refused = null;
  const guarded = (path) =>
    fetched(path).catch((error) => {
      if (error instanceof Unauthorized) throw error;
      refused = error.message;
      return null;
    });
  const [status, source, system, nodes, members, plan, history, bridges] = await Promise.all([...PATHS.map(fetched), ...GUARDED.map(guarded)]);
  return {
    endpoints: Object.values(status.endpoints), source, system, nodes, members, refused,
    diagnostics: plan?.diagnostics ?? [], history: history?.entries ?? null, bridges: bridges?.bridges ?? [],
  };
}

// --- head ---

const CHECKS = {
  Serving: "not serving",
  SourceReadable: "source unreadable",
  DocumentsAccepted: "document rejected",
  EndpointsListening: "endpoint down",
  EndpointsAsDeclared: "endpoint not as declared",
  NotSuspended: "reconciling suspended",
};

function showHead({ system, source, nodes, refused }) {
  node = nodes.nodes[0]?.name ?? "";
  $("node").textContent = `${node} · ${system.version}`;
  title();
  const failing = system.checks.filter((check) => !check.ok);
  const good = failing.length === 0;
  $("verdict").className = `verdict ${good ? "good" : "warn"}`;
  $("verdict").textContent = good
    ? "✓ All endpoints are as declared"
    : `! ${failing.map((check) => CHECKS[check.check] ?? check.check).join(", ")}`;
  if (source.trouble) showTrouble(`The ${source.kind} source cannot be read since ${ago(source.trouble.since)}: ${source.trouble.message}. The revision that was applied last keeps running.`);
  else showTrouble(refused ? `Clients, topics and documents are not shown: ${refused}` : "", "warn");
}

function showTrouble(text, kind = "bad") {
  $("trouble").className = `banner ${kind}`;
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

// --- views ---

function parsed() {
  const hash = location.hash;
  if (hash === "" || hash === "#" || hash === "#/") return ["overview", null];
  if (hash === "#/topics") return ["topics", null];
  const named = /^#\/endpoint\/(.+)$/.exec(hash);
  if (!named) return hash.startsWith("#/") ? ["overview", null] : null; // another hash is a place within the view
  try {
    return ["endpoint", decodeURIComponent(named[1])];
  } catch {
    return ["endpoint", named[1]];
  }
}

function navigate(event) {
  const next = parsed();
  if (!next || (view && next[0] === view[0] && next[1] === view[1])) return;
  view = next;
  for (const section of document.querySelectorAll("[data-view]")) section.hidden = section.id !== view[0];
  for (const entry of document.querySelectorAll("nav a[data-page]")) {
    if (entry.dataset.page === view[0]) entry.setAttribute("aria-current", "page");
    else entry.removeAttribute("aria-current");
  }
  closeEndpoint();
  closeTopics();
  if (view[0] === "endpoint") openEndpoint(view[1]);
  if (view[0] === "topics" && !asking) openTopics();
  title();
  if (event) {
    scrollTo(0, 0);
    $(view[0]).querySelector("h2[tabindex]").focus();
  }
}

function title() {
  const page = { overview: "", topics: "Topics – ", endpoint: `${view?.[1]} – ` }[view?.[0] ?? "overview"];
  document.title = `${page}Weir ${node}`;
}

// --- live ---

function ask() {
  if (asking) return;
  asking = true;
  $("verdict").textContent = "This broker requires a token";
  askToken(() => {
    asking = false;
    start();
    if (view?.[0] === "topics") openTopics();
    if (view?.[0] === "endpoint") openEndpoint(view[1]);
  });
}

async function follow() {
  const connection = $("connection");
  const opened = () => {
    staleSince = null;
    forget(); // the stream begins with the last five minutes
    connection.textContent = "● live";
  };
  try {
    await streamed("/api/events", opened, (kind, data) => {
      if (kind === "state") refresh();
      else if (kind === "traffic") {
        took(data);
        tickOverview(true);
        tickEndpoint(true);
      }
    });
  } catch (error) {
    if (error instanceof Unauthorized) return ask();
  }
  staleSince ??= Date.now();
  connection.textContent = "○ the broker does not answer; trying again";
  setTimeout(follow, 2000);
}

let ticks = 0;

function tick() {
  for (const time of document.querySelectorAll("time")) time.textContent = ago(time.dateTime);
  if (staleSince) $("connection").textContent = `○ no answer for ${span((Date.now() - staleSince) / 1000)}; the data shown may be old`;
  ticks += 1;
  if (staleSince || asking || document.visibilityState !== "visible") return;
  tickOverview(false, view?.[0] === "overview" && ticks % 10 === 0);
  if (view?.[0] === "endpoint" && ticks % 5 === 0) tickEndpoint(false);
}

function start() {
  refresh().then(() => asking || loadOverview());
  follow();
}

addEventListener("hashchange", navigate);
navigate();
start();
setInterval(tick, 1000);
