//! `weir status`

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Exit;
use super::broker::{self, fetch};
use super::print::{self, Format, print};

/// Show the declared, live and refused endpoints of a running broker.
///
/// Exits with 0 where everything declared is live, with 1 where something is not (or the broker does not answer).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weir status\n  weir status --format json | jq '.plan.pending'\n  \
    weir status --probe live    for a container's health check")]
pub(super) struct Args {
    /// The broker's status address.
    #[arg(long, default_value = "http://127.0.0.1:8080", env = "WEIR_STATUS", value_name = "URL", value_parser = broker::status_url)]
    status: String,
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// Check only whether it is alive, or ready for clients: for health checks of containers
    #[arg(long, value_enum, conflicts_with = "format")]
    probe: Option<Probe>,
    /// Show the endpoints that `nodes` gives to other brokers, too
    #[arg(long, conflicts_with = "probe")]
    all: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Probe {
    /// The process and each of its shards answer.
    Live,
    /// A declaration is applied, and the broker does not stop.
    Ready,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    if let Some(probe) = args.probe {
        let path = match probe {
            Probe::Live => "/livez",
            Probe::Ready => "/readyz",
        };
        let (good, text) = broker::text(&args.status, path)?;
        print(&text)?;
        return Ok(if good { Exit::Success } else { Exit::Failure });
    }
    let endpoints = if args.all { "/api/endpoints/status?all=true" } else { "/api/endpoints/status" };
    let paths = ["/api/system/health", "/api/source", endpoints, "/api/plan", "/api/bridges"];
    let [health, source, endpoints, plan, bridges] = fetch(&args.status, paths)?;
    let sound = health["health"] == "healthy";
    let text = match args.format {
        Format::Json => {
            let all = json!({"health": health, "source": source, "endpoints": endpoints["endpoints"], "plan": plan,
                "bridges": bridges["bridges"]});
            format!("{all:#}\n")
        }
        Format::Human => human(&health, &source, &endpoints, &plan, &bridges),
    };
    print(&text)?;
    Ok(if sound { Exit::Success } else { Exit::Failure })
}

fn human(health: &Value, source: &Value, endpoints: &Value, plan: &Value, bridges: &Value) -> String {
    let mut text = String::new();
    let _infallible = writeln!(
        text,
        "{} {} from {} {}, up {}",
        word(&health["phase"]),
        revision(source),
        word(&source["kind"]),
        word(&source["location"]),
        duration(health["uptimeS"].as_u64().unwrap_or_default()),
    );
    for check in list(&health["checks"]).filter(|check| check["ok"] == json!(false)) {
        let _infallible = writeln!(text, "! {}: {}", word(&check["check"]), word(&check["message"]));
    }
    text.push('\n');
    let rows: Vec<[String; 5]> =
        endpoints["endpoints"].as_object().into_iter().flat_map(serde_json::Map::values).map(row).collect();
    text.push_str(&table(["ENDPOINT", "ADDRESS", "HEALTH", "CLIENTS", "DECLARED IN"], &rows));
    let listed = |endpoint: &Value| endpoint["state"] == "notSelected";
    let hidden = endpoints["notSelected"].as_u64().unwrap_or_default();
    if hidden > 0 && !endpoints["endpoints"].as_object().into_iter().flat_map(serde_json::Map::values).any(listed) {
        let _infallible = writeln!(text, "({hidden} for other brokers, by `nodes`: --all shows them)");
    }
    for bridge in list(&bridges["bridges"]) {
        let _infallible = writeln!(text, "bridge {}: {}", word(&bridge["name"]), link(bridge));
    }
    for pending in list(&plan["pending"]) {
        let _infallible = write!(text, "\n{}: {}\n", word(&pending["endpoint"]), word(&pending["state"]));
        if let Some(what) = pending["pending"].as_str() {
            let _infallible = writeln!(text, "  waits: {}", printable(what));
        }
        for error in list(&pending["trouble"]) {
            let _infallible = writeln!(text, "  {}: {}", word(&error["reason"]), word(&error["message"]));
        }
        for field in list(&pending["differences"]) {
            let (declared, live) = (printable(&field["declared"].to_string()), printable(&field["live"].to_string()));
            let _infallible = writeln!(text, "  {}: declared {declared}, live {live}", word(&field["field"]));
        }
    }
    text
}

/// What a bridge's link does, or which node runs it.
fn link(bridge: &Value) -> String {
    let connected = list(&bridge["conditions"]).find(|condition| condition["type"] == "Connected");
    connected.map_or_else(String::new, |condition| match word(&condition["message"]) {
        message if message.is_empty() => word(&condition["reason"]),
        message => message,
    })
}

/// What is served.
fn revision(source: &Value) -> String {
    let good = &source["lastKnownGood"];
    match (source["appliedRevision"].as_str(), good["revision"].as_str()) {
        (Some(revision), _) => printable(revision),
        (None, Some(revision)) => {
            format!("the last known good ({}, saved {})", printable(revision), word(&good["savedAt"]))
        }
        (None, None) => "nothing yet".to_owned(),
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> String {
    value.as_str().map(printable).unwrap_or_default()
}

/// One line: names and messages of others must neither control the terminal nor begin lines of their own.
fn printable(text: &str) -> String {
    print::printable(text).replace('\n', "\\n").replace('\t', "\\t")
}

fn row(endpoint: &Value) -> [String; 5] {
    let connections = &endpoint["connections"];
    let current = connections["current"].as_u64().unwrap_or_default();
    let clients = match connections["max"].as_u64() {
        Some(max) => format!("{current}/{max}"),
        None => current.to_string(),
    };
    let health = match endpoint["state"].as_str() {
        Some(state @ ("draining" | "refused" | "removed")) => state.to_owned(),
        Some("notSelected") => "not selected".to_owned(),
        _ => word(&endpoint["health"]),
    };
    let file = word(&endpoint["origin"]["file"]);
    let origin = if file.is_empty() { "-".to_owned() } else { format!("{file}:{}", endpoint["origin"]["line"]) };
    let address = word(&endpoint["address"]);
    let address = if address.is_empty() { "-".to_owned() } else { address };
    [word(&endpoint["name"]), address, health, clients, origin]
}

fn table(head: [&str; 5], rows: &[[String; 5]]) -> String {
    let mut widths = head.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&head.map(str::to_owned)).chain(rows) {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_degraded_broker_is_shown_with_its_errors() {
        let health = json!({"health": "degraded", "phase": "serving", "uptimeS": 7_261,
            "checks": [{"check": "EndpointsListening", "ok": false, "message": "ws"}, {"check": "Serving", "ok": true}]});
        let source = json!({"kind": "git", "location": "/etc/weir", "appliedRevision": "0badc0ffee00"});
        let status = |name: &str, max: Value| {
            json!({"name": name, "address": "0.0.0.0:1883", "health": "healthy", "state": "listening",
                "connections": {"current": 3, "max": max}, "origin": {"file": "a.yaml", "line": 2}})
        };
        let endpoints =
            json!({"endpoints": {"1": status("mqtt", json!(10)), "2": status("w\u{1b}[31ms", Value::Null)}});
        let plan = json!({"pending": [{"endpoint": "ws", "state": "down", "pending": "bind",
            "trouble": [{"reason": "AddressInUse", "message": "by 4711"}],
            "differences": [{"field": "host", "declared": "::", "live": null}]}]});
        let bridge = |name: &str, reason: &str, message: &str| json!({"name": name, "conditions": [{"type": "Connected", "reason": reason, "message": message}]});
        let bridges = json!({"bridges": [
            bridge("cloud", "RunsElsewhere", "node n2 runs it"), bridge("site", "Connecting", "")]});
        let shown = human(&health, &source, &endpoints, &plan, &bridges);
        let expected = "serving 0badc0ffee00 from git /etc/weir, up 2 h 1 min\n! EndpointsListening: ws\n\n\
            ENDPOINT      ADDRESS       HEALTH   CLIENTS  DECLARED IN\n\
            mqtt          0.0.0.0:1883  healthy  3/10     a.yaml:2\n\
            w\\u001b[31ms  0.0.0.0:1883  healthy  3        a.yaml:2\n\
            bridge cloud: node n2 runs it\nbridge site: Connecting\n\
            \nws: down\n  waits: bind\n  AddressInUse: by 4711\n  host: declared \"::\", live null\n";
        assert_eq!(shown, expected);
    }
}
