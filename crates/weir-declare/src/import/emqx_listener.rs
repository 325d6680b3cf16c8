//! A listener of EMQX.

use serde_json::json;

use super::draft::{Draft, DraftDocument};
use super::emqx_auth::{Authenticated, Authorized, import_authentication};
use super::emqx_mqtt::{self, Zone};
use super::settings::{Limit, Settings};
use crate::config::Kind;

/// Settings without a counterpart, and what to use instead.
const NO_COUNTERPART: &[(&str, &str)] = &[
    ("acceptors", "the first shard accepts for all"),
    ("active_n", "reading pauses where a receiver does not keep up"),
    ("allow_origin_absence", "clients without an Origin header are admitted"),
    ("buffer", "buffers grow with need"),
    ("bytes_burst", "a rate allows a second's worth at once"),
    ("check_origins", "origins are checked where check_origin_enable is true"),
    ("ciphers", "rustls offers secure suites only"),
    ("client_renegotiation", "TLS 1.2 renegotiation is not offered"),
    ("compress", "WebSocket messages are not compressed"),
    ("deflate_opts", "WebSocket messages are not compressed"),
    ("depth", "certificate chains have a fixed bound"),
    ("dhfile", "key exchange is by elliptic curves"),
    ("enable_crl_check", "name a file in `sslConfig.crlFile`"),
    ("fail_if_no_subprotocol", "a handshake without the subprotocol mqtt is refused [MQTT-6.0.0-3]"),
    ("gc_after_handshake", "Weir has no garbage collector"),
    ("handshake_timeout", "see `connectTimeoutMs`"),
    ("hibernate_after", "an idle connection costs no thread"),
    ("high_watermark", "a receiver that does not keep up slows its publishers"),
    ("honor_cipher_order", "rustls decides"),
    ("idle_timeout", "see `connectTimeoutMs` and the client's keep-alive"),
    ("limiter", "rates are fields: `maxPublishPerSecond`, `maxPublishBytesPerSecond`, `maxConnectionPerSecond`"),
    ("log_level", "see `logLevel`"),
    ("max_conn_burst", "a rate allows a second's worth at once"),
    ("max_frame_size", "see `messageMaxSize`"),
    ("messages_burst", "a rate allows a second's worth at once"),
    ("mqtt_piggyback", "a WebSocket message may hold several packets"),
    ("ocsp", "OCSP is not asked; name a file in `sslConfig.crlFile`"),
    ("parse_unit", "packets are parsed in one way"),
    ("partial_chain", "a chain must lead to an authority of `caFile`"),
    ("password", "keys are not encrypted: write one with `openssl pkey`"),
    ("proxy_address_header", "use the PROXY protocol: `proxyProtocol`"),
    ("proxy_port_header", "use the PROXY protocol: `proxyProtocol`"),
    ("proxy_protocol_timeout", "see `connectTimeoutMs`"),
    ("reuse_sessions", "sessions are resumed by tickets"),
    ("secure_renegotiate", "TLS 1.2 renegotiation is not offered"),
    ("send_timeout", "see `childOptions.userTimeoutMs`"),
    ("send_timeout_close", "see `childOptions.userTimeoutMs`"),
    ("supported_subprotocols", "the subprotocol is mqtt"),
    ("tcp_backend", "there is one"),
    ("user_lookup_fun", "pre-shared keys are not offered"),
    ("validate_utf8", "text is always checked"),
    ("verify_peer_ext_key_usage", "certificates of clients must allow it, where they say so"),
];

/// Where packages of EMQX keep `${EMQX_ETC_DIR}`.
const ETC_DIR: (&str, &str) = ("${EMQX_ETC_DIR}", "/etc/emqx");

fn scheme(websocket: bool, encrypted: bool) -> &'static str {
    match (websocket, encrypted) {
        (false, false) => "mqtt",
        (false, true) => "mqtts",
        (true, false) => "ws",
        (true, true) => "wss",
    }
}

/// A listener that EMQX starts where the file has none of its kind.
pub(super) fn import_default_listeners(
    (transport, websocket, encrypted, port): (&str, bool, bool, u64),
    authenticated: Authenticated,
    authorized: Authorized,
    draft: &mut Draft,
) {
    if encrypted {
        let why = format!(
            "EMQX's default listener on port {port} has the certificate that EMQX ships; declare an endpoint with your own"
        );
        return draft.omit(None, format!("listeners.{transport}.default"), why);
    }
    let name = draft.unique_name(&format!("{}-{port}", scheme(websocket, encrypted)));
    let mut document = DraftDocument::new(Kind::Endpoint, &name);
    document
        .add_decision(format!("listeners.{transport}.default is not in the file: EMQX starts it; remove it if unused"));
    document.set("port", port);
    if websocket {
        document.set("useWebsocket", true);
    }
    authenticated.apply(&mut document);
    authorized.apply(&mut document);
    draft.add(document);
}

/// Imports a listener as an endpoint.
pub(super) fn import_listener(
    mut listener: Settings,
    (websocket, encrypted): (bool, bool),
    zones: &[Zone],
    (authenticated, authorized): (Authenticated, Authorized),
    draft: &mut Draft,
) {
    let bind_line = listener.line_of("bind");
    let bind = listener.text("bind").unwrap_or_default();
    let Some((host, port)) = parse_bind(&bind) else {
        listener.refuse(
            bind_line,
            "bind",
            format!("{bind:?} is neither a port nor address:port; the listener is left out"),
        );
        for key in listener.keys() {
            listener.omit(&key, "its listener is left out");
        }
        return listener.finish(&[], draft);
    };
    let name = draft.unique_name(&format!("{}-{port}", scheme(websocket, encrypted)));
    let mut document = DraftDocument::new(Kind::Endpoint, &name);
    document.add_note(listener.path_of(""));
    document.set("port", port);
    if let Some(host) = host {
        document.set("host", host);
    }
    if listener.flag("enable").or(listener.flag("enabled")) == Some(false) {
        document.set("enabled", false);
    }
    if websocket {
        import_websocket(&mut listener, &mut document, draft);
    }
    if encrypted {
        import_tls(&mut listener, &mut document, draft);
    }
    import_options(&mut listener, &mut document, draft);
    import_limits(&mut listener, &mut document);
    import_zone(&mut listener, zones, &mut document);
    import_access(&mut listener, &name, (authenticated, authorized), &mut document, draft);
    listener.finish(NO_COUNTERPART, draft);
    draft.add(document);
}

/// `1883`, `:1883`, `0.0.0.0:1883`, `[::1]:1883`. No host: all of IPv4.
fn parse_bind(bind: &str) -> Option<(Option<String>, u64)> {
    let (host, port) = bind.rsplit_once(':').unwrap_or(("", bind));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = match host {
        "" | "0.0.0.0" => None,
        "localhost" => Some("127.0.0.1".to_owned()),
        host => Some(host.to_owned()),
    };
    Some((host, port.parse().ok()?))
}

fn import_websocket(listener: &mut Settings, document: &mut DraftDocument, draft: &mut Draft) {
    document.set("useWebsocket", true);
    let mut websocket = listener.section("websocket");
    if let Some(path) = websocket.text("mqtt_path") {
        document.set("path", path);
    }
    if websocket.flag("check_origin_enable") == Some(true) {
        document.set("websocket.origins", websocket.texts("check_origins"));
    }
    websocket.finish(NO_COUNTERPART, draft);
}

fn import_tls(listener: &mut Settings, document: &mut DraftDocument, draft: &mut Draft) {
    let mut tls = listener.section("ssl_options");
    let verifies = tls.text("verify").is_some_and(|verify| verify == "verify_peer");
    let required = tls.flag("fail_if_no_peer_cert") == Some(true);
    if !verifies {
        tls.omit("cacertfile", "with verify_none, EMQX asks clients for no certificate");
    }
    for (theirs, ours) in [("certfile", "certFile"), ("keyfile", "keyFile"), ("cacertfile", "caFile")] {
        let Some(file) = tls.text(theirs) else { continue };
        if file.contains(ETC_DIR.0) {
            document.add_note(format!("{theirs}: {} is taken for {}", ETC_DIR.0, ETC_DIR.1));
        }
        document.set(&format!("sslConfig.{ours}"), file.replace(ETC_DIR.0, ETC_DIR.1));
    }
    if verifies {
        document.set("sslConfig.clientAuth", if required { "required" } else { "optional" });
    }
    let versions = tls.texts("versions");
    if !versions.is_empty() && versions.iter().all(|version| version == "tlsv1.3") {
        document.set("sslConfig.minVersion", "1.3");
    }
    if let Some(old) = versions.iter().find(|version| !["tlsv1.3", "tlsv1.2"].contains(&version.as_str())) {
        tls.refuse(None, "versions", format!("{old}: the oldest version is TLS 1.2"));
    }
    if document.fields.get("sslConfig").is_none_or(|tls| tls.get("certFile").is_none()) {
        document.set("enabled", false);
        document.add_decision("enabled: false, because ssl_options names no certificate: add certFile and keyFile");
    }
    tls.finish(NO_COUNTERPART, draft);
}

fn import_options(listener: &mut Settings, document: &mut DraftDocument, draft: &mut Draft) {
    let mut options = listener.section("tcp_options");
    if let Some(Limit::Of(backlog)) = options.number("backlog") {
        document.set("serverOptions.backlog", backlog);
    }
    for (theirs, ours) in [("recbuf", "receiveBuffer"), ("sndbuf", "sendBuffer")] {
        if let Some(Limit::Of(bytes)) = options.bytes(theirs) {
            document.set(&format!("childOptions.{ours}"), bytes);
        }
    }
    if let Some(flag) = options.flag("nodelay") {
        document.set("childOptions.noDelay", flag);
    }
    // Always set.
    if options.flag("reuseaddr") == Some(false) {
        options.refuse(None, "reuseaddr", "it is always set on the listening socket");
    }
    let line = options.line_of("keepalive");
    if let Some(keep_alive) = options.text("keepalive").filter(|text| text != "none") {
        let numbers: Option<Vec<u64>> = keep_alive.split(',').map(|part| part.trim().parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[idle, interval, count]) => {
                document.set("childOptions.keepAlive", true);
                document.set("childOptions.keepAliveIdleS", idle);
                document.set("childOptions.keepAliveIntervalS", interval);
                document.set("childOptions.keepAliveCount", count);
            }
            _ => options.refuse(line, "keepalive", "neither none nor idle,interval,probes"),
        }
    }
    options.finish(NO_COUNTERPART, draft);
    if listener.flag("proxy_protocol") == Some(true) {
        document.set("proxyProtocol.trustedSources", json!(["127.0.0.1/32"]));
        document.add_decision("list your proxies in trustedSources; EMQX trusts every address");
    }
}

fn import_limits(listener: &mut Settings, document: &mut DraftDocument) {
    if let Some(Limit::Of(most)) = listener.number("max_connections") {
        document.set("maxConnectionSize", most);
    }
    for (theirs, ours) in [
        ("max_conn_rate", "maxConnectionPerSecond"),
        ("messages_rate", "maxPublishPerSecond"),
        ("bytes_rate", "maxPublishBytesPerSecond"),
    ] {
        if let Some(Limit::Of(rate)) = listener.rate(theirs) {
            document.set(ours, rate);
        }
    }
    let line = listener.line_of("mountpoint");
    match listener.text("mountpoint") {
        Some(mountpoint) if mountpoint.contains("${") => {
            listener.refuse(line, "mountpoint", "a mountpoint is the same for all clients of an endpoint");
            document.set("enabled", false);
            document.add_decision(
                "enabled: false, because a mountpoint for each client is not offered: without it, they would share topics",
            );
        }
        Some(mountpoint) => {
            document.set("mountpoint", mountpoint);
            document.add_decision(
                "mountpoint: for EMQX a prefix that other listeners see; for Weir topics, client ids and sessions of its own",
            );
        }
        None => {}
    }
}

/// The zone's limits, in the place of those for all listeners.
fn import_zone(listener: &mut Settings, zones: &[Zone], document: &mut DraftDocument) {
    let Some(name) = listener.text("zone") else { return };
    if let Some(zone) = zones.iter().find(|zone| zone.name == name && !zone.limits.is_empty()) {
        document.add_note(format!("limits of zone {name}"));
        emqx_mqtt::apply(&zone.limits, "", document);
    }
}

fn import_access(
    listener: &mut Settings,
    endpoint: &str,
    (authenticated, authorized): (Authenticated, Authorized),
    document: &mut DraftDocument,
    draft: &mut Draft,
) {
    let name = format!("{endpoint}-auth");
    let own = import_authentication(listener, &name, draft);
    let line = listener.line_of("enable_authn");
    match listener.text("enable_authn").as_deref() {
        Some("false") => document.set("enableAuth", false),
        Some("quick_deny_anonymous") => {
            listener.refuse(line, "enable_authn", "clients without credentials are refused by the chain");
            authenticated.apply(document);
        }
        _ if own == Authenticated::ByChain => document.set("auth", name),
        _ if own == Authenticated::Unknown => own.apply(document),
        _ => authenticated.apply(document),
    }
    authorized.apply(document);
    let line = listener.line_of("access_rules");
    let rules = listener.texts("access_rules");
    if rules.iter().any(|rule| rule != "allow all") {
        listener.refuse(
            line,
            "access_rules",
            "addresses are conditions of `acl` rules and `ban` documents, not of listeners",
        );
        document.set("enabled", false);
        document.add_decision("enabled: false, because access_rules limited the addresses of clients");
    }
}
