//! `weir cluster`

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::Exit;
use super::broker::{self, fetch};
use super::print::{self, Format, print};

/// Show the nodes of a cluster
///
/// Nodes that were started with `weir run --cluster` are one broker. Each of them answers for all.
///
/// Exits with 0 where the node is ready and no node has a problem, with 1 where not (or the broker does not answer).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: ClusterVerb,
}

#[derive(Debug, clap::Subcommand)]
enum ClusterVerb {
    /// Show the nodes, the links between them, and the nodes with a problem
    ///
    /// Exits with 0 where the node is ready and no node has a problem, with 1 where not (or the broker does not answer).
    #[command(after_help = "Examples:\n  weir cluster status\n  weir cluster status --status 127.0.0.1:18081\n  \
        weir cluster status --format json | jq '.suspects'")]
    Status {
        /// The broker's status address.
        #[arg(long, default_value = "http://127.0.0.1:8080", env = "WEIR_STATUS", value_name = "URL", value_parser = broker::status_url)]
        status: String,
        #[arg(long, value_enum, default_value_t = Format::Human)]
        format: Format,
    },
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let ClusterVerb::Status { status, format } = args.verb;
    let [answer] = fetch(&status, ["/api/cluster/members"])?;
    let document = document_problems(&answer["document"]);
    let cluster = &answer["cluster"];
    let sound =
        cluster["ready"] == Value::Bool(true) && list(&cluster["suspects"]).next().is_none() && document.is_empty();
    let text = match format {
        Format::Json => format!("{cluster:#}\n"),
        Format::Human if cluster.is_null() => {
            format!(
                "{document}this broker is alone: `weir run --cluster nats://HOST:4222` makes it a node of a cluster\n"
            )
        }
        Format::Human => human(cluster, &document),
    };
    print(&text)?;
    Ok(if sound { Exit::Success } else { Exit::Failure })
}

/// What is not as the document `cluster` declares, a line each.
fn document_problems(document: &Value) -> String {
    let conditions = list(&document["conditions"]).filter(|condition| condition["status"] != "True");
    conditions
        .map(|condition| {
            let (kind, reason) = (word(&condition["type"]), word(&condition["reason"]));
            format!("! document cluster: not {kind} ({reason}): {}\n", word(&condition["message"]))
        })
        .collect()
}

fn human(cluster: &Value, document: &str) -> String {
    let mut text = String::new();
    let servers = &cluster["engine"]["servers"];
    let server = |connection: &str| servers[connection].as_str().map_or("not connected".to_owned(), printable);
    let _infallible = writeln!(
        text,
        "{} is {}{}, {}; nats-servers: {} (links), {} (streams)",
        word(&cluster["node"]),
        if cluster["in"] == Value::Bool(true) { "in" } else { "out" },
        if cluster["ready"] == Value::Bool(true) { ", ready" } else { ", not ready" },
        revision(cluster).map_or("nothing applied".to_owned(), |revision| format!("revision {revision}")),
        server("links"),
        server("streams"),
    );
    if let Some(reason) = cluster["notReady"].as_str() {
        let _infallible = writeln!(text, "! not ready: {}", printable(reason));
    }
    text.push_str(document);
    let removed: Vec<String> = list(&cluster["removed"]).map(word).collect();
    if !removed.is_empty() {
        let _infallible = writeln!(text, "removed nodes: {}", removed.join(", "));
    }
    for suspect in list(&cluster["suspects"]) {
        let _infallible = writeln!(text, "! {}: {}", word(&suspect["node"]), word(&suspect["reason"]));
    }
    for node in list(&cluster["peers"]).chain([cluster]) {
        if let Some(reason) = node["notConverged"].as_str() {
            let _infallible = writeln!(text, "not converged: {}: {}", word(&node["node"]), printable(reason));
        }
    }
    let log = &cluster["log"];
    let _infallible = writeln!(
        text,
        "retained log: applied to {}, {} entries wait, {} bytes not stored",
        number(&log["applied"]),
        number(&log["waiting"]),
        number(&log["unstoredBytes"]),
    );
    text.push_str(&slots(&cluster["slots"]));
    let rows: Vec<Vec<String>> = list(&cluster["peers"]).map(row).collect();
    if rows.is_empty() {
        text.push_str("no other node is known\n");
    } else {
        let head =
            ["PEER", "STATE", "VERSION", "REVISION", "CLIENTS", "HEARTBEAT", "UNACKED", "SENT", "RESENDS", "GAPS"];
        text.push_str(&table(&head, &rows));
    }
    text
}

/// How many slots each node has, a line for each durability, and an empty line behind them.
fn slots(all: &Value) -> String {
    let mut text = String::new();
    for durability in ["memory", "disk"] {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut moving: BTreeMap<String, usize> = BTreeMap::new();
        let mut unserved = 0;
        for slot in list(all).filter(|slot| slot["durability"] == durability) {
            *counts.entry(slot["node"].as_str().map_or("no node".to_owned(), printable)).or_default() += 1;
            unserved += usize::from(slot["served"] == Value::Bool(false));
            if let Some(node) = slot["movesTo"].as_str() {
                *moving.entry(printable(node)).or_default() += 1;
            }
        }
        if counts.is_empty() || (counts.len() == 1 && counts.contains_key("no node")) {
            continue;
        }
        let counts: Vec<String> = counts.into_iter().map(|(node, count)| format!("{node} {count}")).collect();
        let unserved = if unserved > 0 { format!("; {unserved} not served now") } else { String::new() };
        let moving: String = moving.iter().map(|(node, count)| format!("; {count} move to {node}")).collect();
        let counts = counts.join(", ");
        let _infallible = writeln!(text, "sessions ({durability}), slots by node: {counts}{unserved}{moving}");
    }
    text.push('\n');
    text
}

/// What a node has applied: of a commit or a digest, the first digits.
fn revision(node: &Value) -> Option<String> {
    let revision = node["revision"].as_str()?;
    Some(printable(revision).chars().take(12).collect())
}

fn row(peer: &Value) -> Vec<String> {
    let silent = peer["silentMs"].as_u64().unwrap_or_default();
    let mut row = vec![
        word(&peer["node"]),
        word(&peer["state"]),
        word(&peer["version"]),
        revision(peer).unwrap_or_else(|| "-".to_owned()),
        number(&peer["clients"]),
        format!("{}.{} s ago", silent / 1000, silent % 1000 / 100),
    ];
    let link = &peer["link"];
    let columns = ["unacknowledgedBytes", "bytesSent", "resends", "gaps"];
    row.extend(columns.map(|column| if link.is_null() { "-".to_owned() } else { number(&link[column]) }));
    row
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let mut widths = vec![0; head.len()];
    for row in std::iter::once(&head).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn number(value: &Value) -> String {
    value.as_u64().unwrap_or_default().to_string()
}

fn word(value: &Value) -> String {
    value.as_str().map(printable).unwrap_or_default()
}

/// One line: names of others must neither control the terminal nor begin lines of their own.
fn printable(text: &str) -> String {
    print::printable(text).replace('\n', "\\n").replace('\t', "\\t")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_that_is_out_is_shown_with_the_reason_and_its_peers() {
        let cluster = json!({"node": "n1", "in": false, "ready": false, "notReady": "the node is out",
            "revision": "0badc0ffee00aa",
            "engine": {"servers": {"links": "s1", "streams": null}},
            "suspects": [{"node": "n2", "reason": "no heartbeat for 1700 ms"}],
            "log": {"applied": 7, "waiting": 0, "unstoredBytes": 12},
            "slots": [{"slot": 0, "durability": "memory", "node": "n1", "served": false, "movesTo": "n2"},
                {"slot": 1, "durability": "memory", "node": "n2", "served": true},
                {"slot": 2, "durability": "memory", "node": "n2", "served": true},
                {"slot": 3, "durability": "disk", "node": null, "served": false}],
            "peers": [
                {"node": "n2", "state": "in", "version": "1.0.0", "clients": 3, "silentMs": 1700,
                    "revision": "7", "notConverged": "it has applied revision 7, the newest is 9",
                    "link": {"unacknowledgedBytes": 64, "bytesSent": 1234, "resends": 1, "gaps": 0}},
                {"node": "n\u{1b}3", "state": "left", "version": "1.0.0", "clients": 0, "silentMs": 60_000, "link": null}]});
        let expected = "n1 is out, not ready, revision 0badc0ffee00; nats-servers: s1 (links), not connected (streams)\n\
            ! not ready: the node is out\n! n2: no heartbeat for 1700 ms\n\
            not converged: n2: it has applied revision 7, the newest is 9\n\
            retained log: applied to 7, 0 entries wait, 12 bytes not stored\n\
            sessions (memory), slots by node: n1 1, n2 2; 1 not served now; 1 move to n2\n\n\
            PEER      STATE  VERSION  REVISION  CLIENTS  HEARTBEAT   UNACKED  SENT  RESENDS  GAPS\n\
            n2        in     1.0.0    7         3        1.7 s ago   64       1234  1        0\n\
            n\\u001b3  left   1.0.0    -         0        60.0 s ago  -        -     -        -\n";
        assert_eq!(human(&cluster, ""), expected);
    }
}
