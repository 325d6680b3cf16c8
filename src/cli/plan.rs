//! `weir plan`

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::ValueEnum;
use clap::error::ErrorKind;
use serde_json::{Value, json};

use super::input::{read_all, read_operand};
use super::print::{has_color, print_styled, printable};
use super::render::valid_for;
use super::validate::{StatusAddr, parse_label, parse_status_addr};
use super::{Exit, broker, diff, wrong_usage};
use weir_declare::config::{
    BindAddress, BuiltInDefaults, Declared, DocumentIdentity, Held, HeldCause, Kind, LastGood, Loaded, Name, canonical,
    diff_documents, masked,
};
use weir_declare::reconcile::{
    ChangeCauses, EffectiveEndpoint, FileDigests, LiveEndpoint, LiveState, NodeSettings, Plan, effective_bridges,
    grouped_diff, plan_guarded,
    render::{self, HumanPlan},
};

/// Show what a change of declarations would do: to which endpoint, how, and to how many clients.
///
/// Exits with 0; with --detailed-exitcode with 2 if there are changes. With --max-disconnects, with 1 if more clients would
/// be disconnected.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weir plan endpoints.d --against http://127.0.0.1:8080\n  \
    weir plan endpoints.d --against git:HEAD~1 --format markdown    for a pull request\n  \
    weir plan endpoints.d --against git:HEAD~1 --node-label zone=eu    for brokers with that label\n  \
    weir plan endpoints.d --against http://127.0.0.1:8080 --max-disconnects 100")]
pub(super) struct Args {
    /// The new declarations: a directory, a file, or - for standard input
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The current declarations: a path, git:REVISION (of the same directory), git:REVISION:PATH, or a broker's
    /// HOST:PORT or URL
    #[arg(long, value_name = "WHAT")]
    against: String,
    #[arg(long, value_enum, default_value_t = PlanFormat::Human)]
    format: PlanFormat,
    /// Leave out the diff of the documents
    #[arg(long)]
    no_diff: bool,
    /// Exit with 2 if there are changes
    #[arg(long)]
    detailed_exitcode: bool,
    /// Fail where more clients than this would be disconnected (known only against a live broker)
    #[arg(long, value_name = "N")]
    max_disconnects: Option<u64>,
    /// Address that endpoints without a `host` bind [default: the broker's, or 0.0.0.0]
    #[arg(long, value_name = "ADDR")]
    host: Option<IpAddr>,
    /// A label of the broker that the plan is for (not with a broker's URL): endpoints for other `nodes` are left out; may be
    /// repeated [default: all endpoints]
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// The address of the broker's HTTP API, or `none`: no endpoint can use its port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = parse_status_addr)]
    status_addr: StatusAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PlanFormat {
    /// A paragraph for each endpoint, the diff, the summary
    Human,
    /// `"format": "weir/plan/v1"`
    Json,
    /// For a pull request's comment
    Markdown,
}

/// The current declarations, of files or of a broker.
struct PlanBase {
    declared: Declared,
    /// Where its documents are written.
    documents: LastGood,
    broker: Option<BrokerFacts>,
    /// Deletions that a broker holds already.
    held: BTreeMap<DocumentIdentity, Held>,
}

/// Facts about a queried broker.
struct BrokerFacts {
    name: String,
    labels: Labels,
    /// The addresses of its endpoints, and the numbers of their clients, on all nodes of its cluster.
    listening: BTreeMap<String, Listening>,
    /// The nodes whose clients are counted: of its cluster, those that are in. Empty: it is in none.
    nodes: Vec<String>,
    /// The clients of each node of its cluster, and the slots with which that was founded.
    clients: BTreeMap<Arc<str>, u64>,
    founded_slots: Option<u16>,
}

/// A node's labels.
pub(super) type Labels = BTreeMap<String, String>;

struct Listening {
    address: String,
    connections: u32,
}

pub(super) fn run(mut args: Args) -> anyhow::Result<Exit> {
    args.against = broker::operand(&args.against);
    if broker::is_url(&args.against) && !args.labels.is_empty() {
        let message = "--node-label is for plans against files: the broker that is asked has its own labels";
        return Err(wrong_usage("plan", ErrorKind::ArgumentConflict, message));
    }
    // A broker that answers has its status where it answers.
    let status_addr = broker::address(&args.against).or(args.status_addr.0);
    let loaded = valid_for(&read_all(std::slice::from_ref(&args.path))?, status_addr)?;
    // A broker shows its declaration masked.
    let wanted = if broker::is_url(&args.against) { masked(&loaded.declared) } else { loaded.declared };
    let present = if broker::is_url(&args.against) {
        fetch_base(&args.against)?
    } else {
        let beside = (args.path != Path::new("-")).then_some(args.path.as_path());
        let Loaded { declared, last_good, .. } = valid_for(&read_operand(&args.against, beside)?, None)?;
        PlanBase { declared, documents: last_good, broker: None, held: BTreeMap::new() }
    };
    let default_host = args.host.or_else(|| present.default_host()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let labels = present.broker.as_ref().map(|broker| broker.labels.clone()).or_else(|| given(&args.labels));
    let node = NodeSettings { default_host, labels };
    let mut live = live(&present.declared, present.broker.as_ref().map(|broker| &broker.listening), &node);
    if let Some(broker) = &present.broker {
        (live.cluster.clients, live.cluster.founded_slots) = (broker.clients.clone(), broker.founded_slots);
    }
    let plan = plan_guarded(&present.declared, &wanted, &present.held, &live, &node);
    let form = |declared| canonical(declared, BuiltInDefaults::LeftOut);
    let causes = ChangeCauses::find(&plan, &present.documents, &loaded.last_good);
    let diff = match args.format {
        _ if args.no_diff => String::new(),
        PlanFormat::Json => diff_documents(&form(&present.declared), &form(&wanted)),
        PlanFormat::Human | PlanFormat::Markdown => {
            grouped_diff(&plan, &causes, &form(&present.declared), &form(&wanted))
        }
    };
    let nodes = present.broker.as_ref().map(|broker| &broker.nodes[..]).unwrap_or_default();
    let of = present.broker.as_ref().filter(|_| has_selectors(&wanted) || has_selectors(&present.declared));
    print_styled(&match args.format {
        PlanFormat::Human => {
            let heading = of.map(|of| format!("broker {}:\n", with_labels(&of.name, &of.labels))).unwrap_or_default();
            let heading = format!("{heading}{}", counted(nodes, args.format));
            format!("{}{}", printable(&heading), shown(&render::human(&plan, &causes, &diff)))
        }
        PlanFormat::Markdown => {
            let counted = counted(nodes, args.format);
            printable(&format!("{counted}{}", render::markdown(&plan, &causes, &diff))).into_owned()
        }
        PlanFormat::Json => {
            let mut json = render::json(&plan, &causes, &diff);
            if let Some(broker) = &present.broker {
                json["broker"] = json!({"name": broker.name, "labels": broker.labels, "nodes": broker.nodes});
            }
            printable(&format!("{json:#}\n")).into_owned()
        }
    })?;
    exit_code(&args, &plan)
}

/// The text of a plan: in colour where standard output is a terminal.
pub(super) fn shown(plan: &HumanPlan) -> String {
    let clean = |text: &str| printable(text).into_owned();
    let plan = HumanPlan {
        actions: clean(&plan.actions),
        diff: clean(&plan.diff),
        lock_outs: clean(&plan.lock_outs),
        summary: clean(&plan.summary),
    };
    if has_color() { colored(&plan).to_string() } else { plan.to_string() }
}

/// As terraform colours a plan: green for what is new, red for what ends, yellow for what changes.
fn colored(plan: &HumanPlan) -> HumanPlan {
    let paint = |line: &str, style: &str| format!("\u{1b}[{style}m{line}\u{1b}[0m\n");
    let action = |line: &str| match line.get(..4).unwrap_or_default() {
        "  + " => paint(line, "32"),
        "  - " | "  ! " => paint(line, "31"),
        "-/+ " => paint(line, "35"),
        "  ~ " => paint(line, "33"),
        _ => format!("{line}\n"),
    };
    HumanPlan {
        actions: plan.actions.lines().map(action).collect(),
        diff: diff::colored(&plan.diff),
        lock_outs: plan.lock_outs.lines().map(|line| paint(line, "1;31")).collect(),
        summary: plan.summary.lines().map(|line| paint(line, "1")).collect(),
    }
}

/// The plan of a broker with `labels`, without asking one. `None`: every endpoint counts.
#[cfg(feature = "etcd")]
pub(super) fn planned(old: &Declared, new: &Declared, labels: Option<Labels>) -> Plan {
    let node = NodeSettings { default_host: IpAddr::V4(Ipv4Addr::UNSPECIFIED), labels };
    plan_guarded(old, new, &BTreeMap::new(), &live(old, None, &node), &node)
}

/// The labels on a command line; `None` where there are none.
pub(super) fn given(labels: &[(String, String)]) -> Option<Labels> {
    (!labels.is_empty()).then(|| labels.iter().cloned().collect())
}

/// Whether it depends on a broker's labels which endpoints it holds.
pub(super) fn has_selectors(declared: &Declared) -> bool {
    declared.endpoints.values().any(|endpoint| !endpoint.nodes.is_empty())
}

/// `n1 (rack=7, zone=eu)`.
pub(super) fn with_labels(name: &str, labels: &Labels) -> String {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let labels = if labels.is_empty() { "no labels".to_owned() } else { labels.join(", ") };
    format!("{name} ({labels})")
}

fn exit_code(args: &Args, plan: &Plan) -> anyhow::Result<Exit> {
    // Actions that wait for a confirmation disconnect clients too, once they are confirmed.
    let disconnects: u64 = plan.actions.iter().map(|action| u64::from(action.disconnects.at_most())).sum();
    let disconnects = disconnects + plan.cluster.as_ref().map_or(0, |action| action.disconnects);
    if let Some(limit) = args.max_disconnects
        && disconnects > limit
    {
        bail!("{disconnects} clients would be disconnected, --max-disconnects allows {limit}");
    }
    let nothing = plan.is_empty();
    Ok(if args.detailed_exitcode && !nothing { Exit::Reserved } else { Exit::Success })
}

impl PlanBase {
    /// A broker's own `--host`, as its endpoints without a `host` show it.
    fn default_host(&self) -> Option<IpAddr> {
        let listening = &self.broker.as_ref()?.listening;
        let hostless = self.declared.endpoints.values().filter(|endpoint| {
            let addresses =
                [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST].map(|ip| endpoint.listen.bind_address(IpAddr::V4(ip)));
            matches!(&addresses, [a, b] if a != b)
        });
        let mut addresses = hostless.filter_map(|endpoint| listening.get(endpoint.name.as_str()));
        addresses.find_map(|listening| listening.address.parse::<SocketAddr>().ok()).map(|address| address.ip())
    }
}

/// The live state of `node` under `declared`; of a broker, the endpoints that it reports as listening.
fn live(declared: &Declared, listening: Option<&BTreeMap<String, Listening>>, node: &NodeSettings) -> LiveState {
    let bans = Arc::new(declared.bans.clone());
    let mut live = LiveState::default();
    for (name, endpoint) in declared.endpoints.iter().filter(|(_, endpoint)| endpoint.enabled) {
        let known = match listening {
            None if !node.holds(endpoint) => continue,
            None => None,
            Some(listening) => match listening.get(name.as_str()) {
                Some(known) => Some(known),
                None => continue,
            },
        };
        let address = endpoint.listen.bind_address(node.default_host);
        let address = known.and_then(|known| known.address.parse().ok()).map_or(address, BindAddress::Tcp);
        let running = LiveEndpoint {
            effective: EffectiveEndpoint::resolve(endpoint, declared, &bans, &FileDigests::new()),
            address,
            listening: true,
            connections: known.map(|known| known.connections),
        };
        live.endpoints.insert(name.clone(), running);
    }
    live.bridges = effective_bridges(declared, node, &FileDigests::new());
    live.events = declared.events.clone();
    live.cluster.spec = declared.cluster.clone();
    live
}

/// Queries a broker's declaration, labels, addresses and numbers of clients.
fn fetch_base(base: &str) -> anyhow::Result<PlanBase> {
    let paths = [broker::EXPORT, "/api/endpoints/status", "/api/cluster/nodes", "/api/cluster/members"];
    let [documents, status, nodes, members] = broker::fetch(base, paths)?;
    let snapshot = broker::snapshot(base, &documents)?;
    let mut nodes = nodes["nodes"].as_array().into_iter().flatten();
    let this = nodes
        .find(|node| node["this"] == true)
        .with_context(|| format!("{base}/api/cluster/nodes: not weir's answer"))?;
    let labels = serde_json::from_value(this["labels"].clone());
    let labels = labels.with_context(|| format!("{base}/api/cluster/nodes: the labels are not understood"))?;
    let name = this["name"].as_str().unwrap_or_default().to_owned();
    let cluster = &members["cluster"];
    let founded_slots = cluster["slotsPerClass"].as_u64().and_then(|slots| u16::try_from(slots).ok());
    let broker = BrokerFacts {
        name,
        labels,
        listening: listening(&status, cluster),
        nodes: counted_nodes(cluster),
        clients: clients_by_node(cluster),
        founded_slots,
    };
    let Loaded { declared, last_good, .. } = valid_for(&snapshot, None)?;
    Ok(PlanBase { declared, documents: last_good, broker: Some(broker), held: held(&status) })
}

/// The held deletions among a broker's conditions.
fn held(status: &Value) -> BTreeMap<DocumentIdentity, Held> {
    let endpoints = status.get("endpoints").and_then(Value::as_object);
    let of = |endpoint: &Value| {
        let name: Name = serde_json::from_value(endpoint.get("name")?.clone()).ok()?;
        let conditions = endpoint.get("conditions")?.as_array()?;
        let held = conditions.iter().find(|condition| condition["reason"] == "DeletionHeld")?;
        let why = held.get("message")?.as_str()?.to_owned();
        Some((DocumentIdentity::new(Kind::Endpoint, name), Held { cause: HeldCause::Deletion, why }))
    };
    endpoints.into_iter().flat_map(|endpoints| endpoints.values()).filter_map(of).collect()
}

/// The other nodes that are in a broker's cluster.
fn live_peers(cluster: &Value) -> impl Iterator<Item = &Value> {
    let peers = cluster["peers"].as_array().into_iter().flatten();
    peers.filter(|peer| matches!(peer["state"].as_str(), Some("in" | "evacuating" | "leaving")))
}

/// The names of the nodes that are in a broker's cluster, that broker first.
fn counted_nodes(cluster: &Value) -> Vec<String> {
    let nodes = [cluster].into_iter().chain(live_peers(cluster));
    nodes.filter_map(|node| node["node"].as_str().map(str::to_owned)).collect()
}

/// How many clients an endpoint has at most on another node. One that does not list the endpoint has no room for all, or has told
/// nothing.
fn clients_at_most(peer: &Value, endpoint: &str) -> u64 {
    let unlisted = if peer["endpoints"].is_object() { &peer["unlistedClients"] } else { &peer["clients"] };
    peer["endpoints"][endpoint].as_u64().or(unlisted.as_u64()).unwrap_or_default()
}

/// Of whose clients a plan speaks; empty: of one broker's.
fn counted(nodes: &[String], format: PlanFormat) -> String {
    if nodes.len() < 2 {
        return String::new();
    }
    let (number, names) = (nodes.len(), nodes.join(", "));
    match format {
        PlanFormat::Markdown => format!("Clients are counted on {number} nodes: {}.\n\n", names.replace('|', "\\|")),
        PlanFormat::Human | PlanFormat::Json => format!("clients of {number} nodes: {names}\n"),
    }
}

/// The clients of each node that is in a broker's cluster, that broker included.
fn clients_by_node(cluster: &Value) -> BTreeMap<Arc<str>, u64> {
    let live = live_peers(cluster);
    let clients = |node: &Value| Some((Arc::from(node["node"].as_str()?), node["clients"].as_u64()?));
    live.chain([cluster]).filter_map(clients).collect()
}

/// The endpoints that listen on a broker, with their clients on all nodes of its cluster.
fn listening(status: &Value, cluster: &Value) -> BTreeMap<String, Listening> {
    let endpoints = status.get("endpoints").and_then(Value::as_object);
    let of = |endpoint: &Value| {
        let name: Name = serde_json::from_value(endpoint.get("name")?.clone()).ok()?;
        let address = endpoint.get("address")?.as_str()?.to_owned();
        let connections = endpoint.pointer("/connections/current")?.as_u64()?;
        let live = endpoint.get("state")?.as_str()? == "listening";
        let elsewhere: u64 = live_peers(cluster).map(|peer| clients_at_most(peer, name.as_str())).sum();
        let connections = u32::try_from(connections.saturating_add(elsewhere)).unwrap_or(u32::MAX);
        live.then(|| (name.to_string(), Listening { address, connections }))
    };
    endpoints.into_iter().flat_map(|endpoints| endpoints.values()).filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster of three: n2 lists its endpoints, n3 has told nothing, n4 is out.
    fn cluster() -> Value {
        json!({"node": "n1", "clients": 2, "peers": [
            {"node": "n2", "state": "in", "clients": 9, "endpoints": {"mqtt": 5}, "unlistedClients": 4},
            {"node": "n3", "state": "leaving", "clients": 7, "endpoints": null, "unlistedClients": 0},
            {"node": "n4", "state": "out", "clients": 100, "endpoints": {"mqtt": 100}, "unlistedClients": 0}]})
    }

    #[test]
    fn clients_of_an_endpoint_are_counted_on_all_nodes_that_are_in_and_at_most_where_they_are_not_listed() {
        let endpoint = |name: &str| json!({"name": name, "address": "127.0.0.1:1883", "state": "listening", "connections": {"current": 2}});
        let status = json!({"endpoints": {"1": endpoint("mqtt"), "2": endpoint("other")}});
        let clients = |cluster: &Value, name: &str| listening(&status, cluster)[name].connections;
        assert_eq!(clients(&cluster(), "mqtt"), 2 + 5 + 7);
        assert_eq!(clients(&cluster(), "other"), 2 + 4 + 7);
        assert_eq!(clients(&Value::Null, "mqtt"), 2, "a broker that is in no cluster");
    }

    #[test]
    fn a_plan_says_of_how_many_nodes_it_counts_the_clients() {
        let nodes = counted_nodes(&cluster());
        assert_eq!(counted(&nodes, PlanFormat::Human), "clients of 3 nodes: n1, n2, n3\n");
        assert_eq!(counted(&nodes, PlanFormat::Markdown), "Clients are counted on 3 nodes: n1, n2, n3.\n\n");
        assert_eq!(counted(&counted_nodes(&Value::Null), PlanFormat::Human), "");
    }
}
