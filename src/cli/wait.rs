//! `weir wait`

use std::time::{Duration, Instant};

use super::Exit;
use super::broker::{fetch, status_url};
use super::print::{Format, print};
use crate::fleet::{Goal, GoalStatus, RefusalFilter, SourceProgress, check_goal, check_nodes, is_commit_id};
use crate::state::NodeRecord;
use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};

/// The interval of polls.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Looks between two readings of the source that are asked for.
const READ_EVERY: u64 = 10;

/// Wait until a change is applied: for CI, after a push, a put or a commit.
///
/// Exits with 0 once it is applied, with 2 once it is applied with refusals, with 1 after the time-out: then the
/// brokers that have not applied it are printed with the reason.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weir wait --revision $(git rev-parse HEAD)    after a commit\n  weir wait --key tenant-a --cluster    after etcdctl put"
)]
#[command(group = clap::ArgGroup::new("goal").required(true).args(["revision", "digest", "key"]))]
pub(super) struct Args {
    /// Until this revision or a later one is applied: with etcd a revision number; with git a commit, or at least 7 digits of its
    /// beginning (a descendant counts as later, unless it rolled the commit back)
    #[arg(long, value_name = "R")]
    revision: Option<String>,
    /// Until the declaration has this digest, as `weir validate` prints it
    #[arg(long, value_name = "DIGEST")]
    digest: Option<String>,
    /// Until the present content of this key (or file) is applied; only its refusals count
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only this endpoint's refusals count
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// Every broker of the cluster, not only the one that is asked
    #[arg(long)]
    cluster: bool,
    /// The status address of the broker to ask
    #[arg(long, default_value = "http://127.0.0.1:8080", env = "WEIR_STATUS", value_name = "URL", value_parser = status_url)]
    status: String,
    /// How long to wait, seconds
    #[arg(long, value_name = "S", default_value_t = 60)]
    timeout_s: u64,
    /// `json`: `{"applied": ..., "nodes": [...], "refusals": [...], "waiting": [...]}`
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

/// The result of one poll.
struct ClusterSnapshot {
    nodes: Vec<NodeRecord>,
    progress: SourceProgress,
    /// Why not all brokers may be seen.
    error: Option<String>,
    /// The names of the broker's endpoints, where --endpoint is given.
    endpoints: Option<Vec<String>>,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let deadline = Instant::now() + Duration::from_secs(args.timeout_s);
    let filter = RefusalFilter { endpoint: args.endpoint.clone(), key: args.key.clone() };
    let mut goal = match (&args.revision, &args.digest) {
        (Some(revision), _) => Some(Goal::Revision(revision.clone())),
        (None, Some(digest)) => Some(Goal::Digest(digest.clone())),
        // Set by the first poll.
        (None, None) => None,
    };
    for polls in 0_u64.. {
        // A reading of the store shows a revision that changed nothing under the root.
        let fresh = args.key.is_some() || polls % READ_EVERY == READ_EVERY - 1;
        let snapshot = poll(&args, fresh);
        if let (Ok(snapshot), Some(goal)) = (&snapshot, &goal) {
            check_goal(goal, &snapshot.progress).map_err(|problem| anyhow!("--revision: {problem}"))?;
        }
        let status = snapshot.as_ref().ok().map(|snapshot| {
            // A reading that is under way may have begun before the change; the one after it has not.
            let goal = goal.get_or_insert(Goal::Reads(snapshot.progress.reads + 2));
            let status = check_nodes(&snapshot.nodes, &snapshot.progress, goal, &filter);
            match (&snapshot.error, status) {
                (Some(why), GoalStatus::Applied(_)) => GoalStatus::Waiting(vec![("cluster".to_owned(), why.clone())]),
                (_, status) => status,
            }
        });
        match (status, snapshot) {
            (Some(GoalStatus::Applied(refusals)), Ok(snapshot)) => return applied(&args, &snapshot, &refusals),
            (status, snapshot) if Instant::now() >= deadline => return not_in_time(&args, status, snapshot.err()),
            _ => std::thread::sleep(POLL_INTERVAL),
        }
    }
    Ok(Exit::Failure)
}

/// The path that answers about the source, and about the commit that is waited for.
fn source_path(args: &Args, fresh: bool) -> String {
    // A number may be a revision of etcd; the broker refuses what is neither that nor a commit.
    let commit = args.revision.as_deref().filter(|wanted| is_commit_id(wanted));
    match (fresh, commit) {
        (false, None) => "/api/source".to_owned(),
        (true, None) => "/api/source?fresh=true".to_owned(),
        (false, Some(commit)) => format!("/api/source?contains={commit}"),
        (true, Some(commit)) => format!("/api/source?fresh=true&contains={commit}"),
    }
}

fn poll(args: &Args, fresh: bool) -> anyhow::Result<ClusterSnapshot> {
    let source = source_path(args, fresh);
    let [source, nodes, status] = fetch(&args.status, [source.as_str(), "/api/cluster/nodes", "/api/cluster/status"])?;
    let mut records = Vec::new();
    for node in nodes["nodes"].as_array().into_iter().flatten() {
        let record = serde_json::from_value(node.clone()).context("/api/cluster/nodes is not understood")?;
        if args.cluster || node["this"] == true {
            records.push(record);
        }
    }
    let store = &source["store"];
    let applied = source["appliedRevision"].as_str().map(ToOwned::to_owned);
    let endpoints = match &args.endpoint {
        None => None,
        Some(_) => {
            let [endpoints] = fetch(&args.status, ["/api/endpoints/status?all=true"])?;
            let all = endpoints["endpoints"].as_object().into_iter().flat_map(|all| all.values());
            Some(all.filter_map(|each| each["name"].as_str().map(ToOwned::to_owned)).collect())
        }
    };
    Ok(ClusterSnapshot {
        nodes: records,
        progress: SourceProgress {
            is_numbered: source["kind"] == "etcd",
            reads: source["reads"].as_u64().unwrap_or_default(),
            read_revision: store["readRevision"].as_i64(),
            documents: store["attemptedDocuments"].as_str().map(ToOwned::to_owned),
            containing: applied.clone().filter(|_| source["contains"] == true && source["rolledBack"] != true),
            rolled_back_in: applied.filter(|_| source["rolledBack"] == true),
        },
        error: status["trouble"].as_str().filter(|_| args.cluster).map(ToOwned::to_owned),
        endpoints,
    })
}

fn applied(args: &Args, snapshot: &ClusterSnapshot, refusals: &[(String, String)]) -> anyhow::Result<Exit> {
    if let (Some(name), Some(known)) = (&args.endpoint, &snapshot.endpoints)
        && !known.contains(name)
    {
        bail!("applied, but no endpoint is named {name:?}");
    }
    let exit = if refusals.is_empty() { Exit::Success } else { Exit::Reserved };
    if args.format == Format::Json {
        let nodes = snapshot.nodes.iter().map(|node| json!({"node": node.name, "revision": node.applied_revision}));
        let nodes: Vec<Value> = nodes.collect();
        let answer = json!({"applied": true, "nodes": nodes, "refusals": by_node(refusals), "waiting": []});
        print(&format!("{answer:#}\n"))?;
        return Ok(exit);
    }
    let mut text = String::new();
    for node in &snapshot.nodes {
        let revision = node.applied_revision.as_deref().unwrap_or("-");
        text.push_str(&format!("{}: applied, revision {revision}\n", node.name));
    }
    for (node, refusal) in refusals {
        text.push_str(&format!("{node}: refused: {refusal}\n"));
    }
    print(&text)?;
    Ok(exit)
}

fn by_node(found: &[(String, String)]) -> Vec<Value> {
    found.iter().map(|(node, why)| json!({"node": node, "why": why})).collect()
}

fn not_in_time(args: &Args, status: Option<GoalStatus>, error: Option<anyhow::Error>) -> anyhow::Result<Exit> {
    let waiting = match (status, error) {
        (Some(GoalStatus::Waiting(waiting)), _) => waiting,
        (_, Some(error)) => vec![("the broker".to_owned(), format!("{error:#}"))],
        _ => vec![("the broker".to_owned(), "no answer".to_owned())],
    };
    if args.format == Format::Json {
        let answer = json!({"applied": false, "nodes": [], "refusals": [], "waiting": by_node(&waiting)});
        print(&format!("{answer:#}\n"))?;
    }
    let lines: Vec<String> = waiting.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    bail!("not applied within {} s\n{}", args.timeout_s, lines.join("\n"))
}
