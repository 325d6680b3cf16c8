// The page of the MQTT client: it connects to the WebSocket of one endpoint, with credentials that the user enters.

import { Unauthorized, askToken, fetched } from "./access.js";
import { badge, bytes, el, empty, hex, own, table, visible } from "./elements.js";
import { Connection } from "./mqtt.js";

const $ = (id) => document.getElementById(id);
const SHOWN_MAX = 200; // messages
const TEXT_MAX = 4096; // bytes of a payload that are shown
const asked = new URLSearchParams(location.search);
let connection = null;
let endpoint = null;
let blocked = false; // the security policy of this page does not permit the address

// --- which endpoint ---

async function start() {
  try {
    const list = Object.values((await fetched("/api/endpoints/list")).endpoints).filter((each) => each.useWebsocket && each.port && each.state === "listening");
    const name = asked.get("name");
    endpoint = list.find((each) => each.name === name) ?? null;
    if (endpoint && asked.get("port") === String(endpoint.port) && (asked.get("tls") === "true") === Boolean(endpoint.sslConfig)) await offer();
    else choose(list, name);
  } catch (error) {
    if (error instanceof Unauthorized) return askToken(start);
    $("choice").replaceChildren(el("p", { class: "banner bad", role: "alert" }, error.message));
  }
}

const address = (each) => `/client?${new URLSearchParams({ name: each.name, port: each.port, tls: String(Boolean(each.sslConfig)) })}`;

const EXAMPLE = "endpoint:\n  name: web\n  host: 127.0.0.1\n  port: 8083\n  useWebsocket: true\n";

function choose(list, name) {
  const known = list.find((each) => each.name === name);
  // The port or TLS has changed since the link was made.
  if (known) return location.replace(address(known));
  const missing = name && el("p", { class: "banner warn" }, "The endpoint ", own(name), " does not listen with useWebsocket: true. Choose another one, or change its document.");
  $("choice").replaceChildren(
    ...[missing].filter(Boolean),
    list.length === 0
      ? empty("No endpoint listens for MQTT over WebSocket, which browsers need. Declare one, for example:", EXAMPLE)
      : el("section", {}, el("h2", {}, "Choose an endpoint"), el("ul", { class: "plain" }, ...list.map((each) => el("li", {}, el("a", { href: address(each) }, own(each.name)), " ", el("code", {}, each.address))))));
}

// --- advice before the connection ---

const isLoopback = (host) => host === "localhost" || host.startsWith("127.") || host === "[::1]";
const quoted = (text) => JSON.stringify(text);

// What will prevent a connection, and what to declare or open instead. Browsers do not tell pages why one failed.
function advice(origin) {
  const where = origin?.file ? ` (${origin.file}:${origin.line})` : "";
  const origins = endpoint.websocket?.origins ?? [];
  if (origins.length > 0 && !origins.includes("*") && !origins.some((each) => each.toLowerCase() === location.origin.toLowerCase()))
    return `websocket.origins of this endpoint does not contain ${location.origin}, the origin of this page, so the broker refuses its WebSocket. Declare${where}: websocket: {origins: [${[...origins, location.origin].map(quoted).join(", ")}]}`;
  if (location.hostname.startsWith("["))
    return `The security policy of a page cannot name an IPv6 address, so the browser will block the WebSocket. Open this page by a host name or an IPv4 address.`;
  if (location.protocol === "https:" && !endpoint.sslConfig)
    return `This page was loaded with TLS, and browsers do not let it open a WebSocket without TLS. Declare sslConfig for the endpoint${where}.`;
  if (endpoint.proxyProtocol)
    return "The endpoint expects the PROXY protocol, which the load balancer in front of it sends and a browser does not.";
  const bound = endpoint.address.replace(/:\d+$/, "");
  if (isLoopback(bound) && !isLoopback(location.hostname))
    return `The endpoint listens on ${bound} only. Open this page on the machine of the broker, or declare another host${where}.`;
  if (!isLoopback(bound) && isLoopback(location.hostname) && !["0.0.0.0", "[::]"].includes(bound))
    return `The endpoint listens on ${bound}, and this page was opened by ${location.hostname}. Open the page by ${bound} or a name of it, if the connection fails.`;
  return "";
}

async function offer() {
  const tls = Boolean(endpoint.sslConfig);
  const { origin } = await fetched(`/api/endpoints/get?name=${encodeURIComponent(endpoint.name)}`);
  $("endpoint-link").replaceChildren(own(endpoint.name));
  $("endpoint-link").href = `/#/endpoint/${encodeURIComponent(endpoint.name)}`;
  endpoint.url = `${tls ? "wss" : "ws"}://${location.hostname}:${endpoint.port}${endpoint.path ?? "/mqtt"}`;
  $("url").textContent = endpoint.url;
  const versions = (endpoint.protocolVersions ?? []).map(String);
  if (versions.length > 0 && !versions.includes("5")) $("version").value = "4";
  $("client-id").value = `weir-page-${hex(crypto.getRandomValues(new Uint8Array(4))).replaceAll(" ", "")}`;
  const text = advice(origin);
  $("advice").textContent = text;
  $("advice").hidden = !text;
  document.title = `${visible(endpoint.name)} – MQTT client – Weir`;
  $("client").hidden = false;
}

document.addEventListener("securitypolicyviolation", (event) => {
  if (event.effectiveDirective !== "connect-src") return;
  blocked = true;
  connection?.finish("unreachable");
});

// Why no WebSocket opened, as far as the page can know.
function unreachable() {
  if (blocked) return `The browser blocked ${endpoint.url}, which the security policy of this page does not permit. Open the page by a host name or an IPv4 address, and reload it if the endpoint has changed.`;
  const certificate = endpoint.sslConfig ? ` If the browser does not trust its certificate, open https://${location.hostname}:${endpoint.port}/ to see why.` : "";
  if (!$("advice").hidden) return `No WebSocket opened at ${endpoint.url}: see above.${certificate}`;
  return `No WebSocket opened at ${endpoint.url}. Check that this machine reaches the port and that the endpoint accepts the origin ${location.origin} (websocket.origins).${certificate}`;
}

// --- the connection ---

function showError(text) {
  $("error").textContent = visible(text);
  $("error").hidden = !text;
}

function showState(connected, text) {
  $("state").replaceChildren(badge(connected ? "good" : "off", `${connected ? "✓" : "–"} ${text}`));
  $("session").hidden = !connected;
  if (connected) $("received").hidden = false;
  $("connect-button").hidden = connected;
  $("disconnect-button").hidden = !connected;
  for (const field of ["client-id", "username", "password", "version"]) $(field).disabled = connected;
}

async function connect() {
  showError("");
  blocked = false;
  connection?.end();
  $("state").textContent = "Connecting…";
  const options = { version: Number($("version").value), clientId: $("client-id").value, username: $("username").value, password: $("password").value };
  if (options.version === 4 && options.password && !options.username) return refuse("MQTT 3.1.1 has no password without a user name. Enter a user name, or use MQTT 5.0.");
  let made;
  const closed = (why) => {
    if (connection !== made) return;
    connection = null;
    forgetSubscriptions();
    showState(false, "Not connected");
    if (why === "unreachable") showError(unreachable());
    else if (why !== null) showError(`Not connected: ${why}`);
  };
  try {
    made = new Connection(endpoint.url, options, { message: receive, closed });
  } catch (error) {
    return refuse(`${endpoint.url}: ${error.message}`);
  }
  connection = made;
  try {
    const { clientId } = await made.ready;
    if (clientId) $("client-id").value = clientId;
    showState(true, `Connected as ${visible(clientId ?? options.clientId)}`);
    $("filter").focus();
  } catch {
    // `closed` has shown the reason.
  }
}

function refuse(text) {
  showState(false, "Not connected");
  showError(text);
}

$("connect").addEventListener("submit", (event) => {
  event.preventDefault();
  connect();
});
$("disconnect-button").addEventListener("click", () => {
  connection?.end();
  $("connect-button").focus();
});
addEventListener("pagehide", () => connection?.end());

// --- subscriptions ---

const subscriptions = new Map(); // filter -> list item

function forgetSubscriptions() {
  subscriptions.clear();
  $("subscriptions").replaceChildren();
}

$("subscribe").addEventListener("submit", async (event) => {
  event.preventDefault();
  const filter = $("filter").value;
  const qos = Number($("subscribe-qos").value);
  const note = $("subscribe-note");
  try {
    const [granted] = await connection.subscribe(filter, qos);
    note.textContent = "";
    subscriptions.get(filter)?.remove();
    const remove = el("button", { type: "button" }, "Unsubscribe");
    const item = el("li", {}, own(filter), ` QoS ${granted ?? qos} `, remove);
    remove.addEventListener("click", () => unsubscribe(filter, item));
    subscriptions.set(filter, item);
    $("subscriptions").append(item);
  } catch (error) {
    note.replaceChildren("The subscription to ", own(filter), ` failed: ${visible(error.message)}`);
  }
});

async function unsubscribe(filter, item) {
  try {
    await connection?.unsubscribe(filter);
    subscriptions.delete(filter);
    item.remove();
    $("filter").focus();
  } catch (error) {
    $("subscribe-note").replaceChildren("The subscription to ", own(filter), ` was not removed: ${visible(error.message)}`);
  }
}

// --- publishing ---

$("publish").addEventListener("submit", async (event) => {
  event.preventDefault();
  const topic = $("topic").value;
  const qos = Number($("publish-qos").value);
  const note = $("publish-note");
  try {
    const [code] = await connection.publish(topic, new TextEncoder().encode($("payload").value), qos, $("retain").checked);
    const known = { 0: "acknowledged", 0x10: "acknowledged; no client subscribes to it" };
    note.replaceChildren("Published to ", own(topic), `: ${qos === 0 ? "sent; QoS 0 is not acknowledged" : (known[code ?? 0] ?? "acknowledged")}`);
  } catch (error) {
    note.replaceChildren("The message to ", own(topic), ` was not published: ${visible(error.message)}`);
  }
});

// --- messages ---

const list = table("Messages received", ["Time", "Topic", "Payload", "QoS"], []);
let received = 0;

function receive({ topic, payload, qos, retain }) {
  received += 1;
  const shown = payload.subarray(0, TEXT_MAX);
  const text = asText(shown, payload.length > TEXT_MAX);
  const row = el("tr", {},
    el("td", { class: "nowrap" }, new Date().toLocaleTimeString()),
    el("th", { scope: "row" }, own(topic)),
    el("td", {}, el("code", { class: "own" }, text ?? hex(shown)), (text === null || payload.length > TEXT_MAX) && el("small", { class: "quiet" }, ` ${bytes(payload.length)}${text === null ? ", shown as hexadecimal" : ""}`)),
    el("td", { class: "nowrap" }, String(qos), retain && " ", retain && badge("off", "retained")));
  const rows = list.querySelector("tbody");
  rows.prepend(row);
  if (rows.childElementCount > SHOWN_MAX) rows.lastElementChild.remove();
  if (!list.isConnected) $("messages").replaceChildren(list);
  $("received-note").textContent = `${received} received${received > SHOWN_MAX ? `, the last ${SHOWN_MAX} are shown` : ""}`;
}

// The payload as text, null where it is not UTF-8; a cut may have divided its last character.
function asText(payload, cut) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(payload, { stream: cut });
  } catch {
    return null;
  }
}

$("clear").addEventListener("click", () => {
  received = 0;
  list.querySelector("tbody").replaceChildren();
  list.remove();
  $("received-note").textContent = "None yet.";
});

start();
