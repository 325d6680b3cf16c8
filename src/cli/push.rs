//! `weir push`

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{anyhow, bail};
use clap::error::ErrorKind;
use serde_json::{Value, json};

use super::etcd::EtcdArgs;
use super::plan::{Labels, given, has_selectors, planned, with_labels};
use super::print::{Format, print};
use super::validate::parse_label;
use super::{Exit, wrong_usage};
use crate::source::etcd::{
    Documents, EtcdRoot, Marker, Present, PushPlan, PushState, after_push, documents_of, plan_push, present, push,
};
use crate::source::{Commit, DirectoryReader};
use crate::state::NodeRecord;
use crate::state::wall_clock;
use weir_declare::config::{
    BuiltInDefaults, Declared, LastGood, NodeContext, Revision, Snapshot, canonical, diff_documents, load,
};
use weir_declare::reconcile::{Plan, render};

/// Put a directory's documents into etcd, all or nothing: brokers see the old set or the new one.
///
/// The plan is printed first: where documents have `nodes`, that of each broker there, by its labels. Exits with 0 once it is there (or nothing had to be written), with 1 if the directory is not
/// valid, the store cannot be written, or somebody else changed it meanwhile.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of declarations
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Delete what is there and not in DIR
    #[arg(long)]
    prune: bool,
    /// A label of the brokers to plan for, in place of those that are there; may be repeated
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Print the plan, write nothing
    #[arg(long)]
    dry_run: bool,
    /// `json`: `{"put": [...], "deleted": [...], "plan": {...}, "brokers": [...], "revision": ...}`; `plan` is of every
    /// endpoint, each of `brokers` has the `names` of those that hold the same, and their `plan`
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

/// Brokers that are named in a heading.
const SHOWN_MAX: usize = 10;

/// What is to be there.
struct Wanted {
    documents: Documents,
    commit: Option<Commit>,
    dirty: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    if !args.etcd.is_given() {
        let message = "where is the etcd? --etcd http://HOST:PORT says it, or WEIR_ETCD in the environment";
        return Err(wrong_usage("push", ErrorKind::MissingRequiredArgument, message));
    }
    let wanted = read(&args)?;
    let access = args.etcd.access()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let there = runtime.block_on(present(&access, &args.etcd.root()))?;
    let before = there.documents();
    let plan = plan_push(&wanted.documents, &before, args.prune);
    let after = after_push(&wanted.documents, &before, &plan);
    let will = runtime.block_on(consequences(&args, &there, &before, &after))?;
    let mut answer = match args.format {
        Format::Human => None,
        Format::Json => Some(to_json(&there, &plan, &will)),
    };
    if answer.is_none() {
        print(&shown(&there, &plan, &will))?;
    }
    if args.dry_run {
        answer.map_or(Ok(()), |answer| print(&format!("{answer:#}\n")))?;
        return Ok(Exit::Success);
    }
    let mut marker =
        Marker::new(PushState::Complete, plan.digest.clone(), plan.documents, there.revision(), wall_clock());
    marker.commit.clone_from(&wanted.commit);
    marker.dirty = wanted.dirty;
    let revision = runtime.block_on(push(&there, &plan, &marker))?;
    if let Some(answer) = &mut answer {
        (answer["revision"], answer["commit"]) = (json!(revision), json!(wanted.commit));
        print(&format!("{answer:#}\n"))?;
        return Ok(Exit::Success);
    }
    let of = wanted.commit.map(|commit| format!(" of commit {}", commit.id.get(..12).unwrap_or(&commit.id)));
    print(&format!("pushed{}: revision {revision}\n", of.unwrap_or_default()))?;
    Ok(Exit::Success)
}

/// Reads the directory; what is not valid is not pushed.
fn read(args: &Args) -> anyhow::Result<Wanted> {
    let reading = DirectoryReader::new(&args.directory).read(None)?;
    if let Some(why) = reading.unsettled {
        bail!("{}: {why}; push again when it is at rest", args.directory.display());
    }
    let documents = documents_of(&reading.snapshot.files).map_err(|unreadable| anyhow!(unreadable.join("\n")))?;
    judged(&reading.snapshot)?;
    let dirty = matches!(reading.snapshot.revision, Revision::Git { dirty: true, .. });
    Ok(Wanted { documents, commit: reading.commit, dirty })
}

fn judged(snapshot: &Snapshot) -> anyhow::Result<Declared> {
    let loaded = load(snapshot, &LastGood::default(), &nobody());
    if loaded.is_valid() {
        return Ok(loaded.declared);
    }
    let errors: Vec<String> =
        loaded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).map(ToString::to_string).collect();
    bail!("nothing is pushed: `weir validate` tells more\n{}", errors.join("\n"))
}

/// Which node it is for is not known, nor is where its status listens.
fn nobody() -> NodeContext {
    NodeContext { status_addr: None, ..NodeContext::default() }
}

/// The keys, then what brokers will do about them.
fn shown(there: &Present, plan: &PushPlan, will: &Consequences) -> String {
    let mut text = String::new();
    if there.is_half_pushed() {
        text.push_str("a push has begun and not ended here; this one takes its place\n");
    }
    for put in &plan.puts {
        text.push_str(&format!("{} key {}\n", if put.is_new { "+" } else { "~" }, put.key));
    }
    for key in &plan.deletes {
        text.push_str(&format!("- key {key}\n"));
    }
    for key in &plan.left {
        text.push_str(&format!("  key {key} is not in the directory and stays (--prune deletes it)\n"));
    }
    text.push_str(&format!(
        "{} key{} to write, {} to delete, {} as they are\n\n",
        plan.puts.len(),
        if plan.puts.len() == 1 { "" } else { "s" },
        plan.deletes.len(),
        plan.unchanged
    ));
    if let Some(why) = &will.unknown {
        text.push_str(&format!("the plan is of every endpoint, whatever its `nodes`: {why}\n\n"));
    }
    if will.brokers.is_empty() {
        text.push_str(&render::human(&will.of_all, &will.diff));
        return text;
    }
    for group in &will.brokers {
        text.push_str(&format!("{}:\n{}\n", group.heading(), render::human(&group.plan, "")));
    }
    text.push_str(&will.diff);
    text
}

/// The same for a machine; `revision` is what the push came to, `null` where nothing was pushed.
fn to_json(there: &Present, plan: &PushPlan, will: &Consequences) -> Value {
    let put = plan.puts.iter().map(|put| json!({"key": put.key, "new": put.is_new}));
    let brokers = will.brokers.iter().map(|group| {
        let names: Vec<&str> = group.brokers.iter().map(|(name, _)| name.as_str()).collect();
        json!({"names": names, "plan": render::json(&group.plan, "")})
    });
    json!({
        "put": put.collect::<Vec<_>>(),
        "deleted": plan.deletes,
        "left": plan.left,
        "unchanged": plan.unchanged,
        "documentsDigest": plan.digest,
        "replacesHalfPushed": there.is_half_pushed(),
        "plan": render::json(&will.of_all, &will.diff),
        "brokers": brokers.collect::<Vec<_>>(),
        "brokersUnknown": will.unknown,
        "revision": null,
        "commit": null,
    })
}

/// What comes of a push.
struct Consequences {
    /// Of no broker in particular: every endpoint counts. With `--node-label`, of a broker with these labels.
    of_all: Plan,
    /// By what they will do, where it depends on the broker.
    brokers: Vec<Group>,
    /// Why the brokers are not known, where it depends on them.
    unknown: Option<String>,
    /// Of the canonical forms.
    diff: String,
}

/// Brokers that will do the same.
struct Group {
    /// By name.
    brokers: Vec<(String, Labels)>,
    plan: Plan,
}

impl Group {
    /// `brokers n1 (zone=eu), n3 (zone=eu)`.
    fn heading(&self) -> String {
        let mut shown: Vec<String> =
            self.brokers.iter().take(SHOWN_MAX).map(|(name, labels)| with_labels(name, labels)).collect();
        if let more @ 1.. = self.brokers.len().saturating_sub(SHOWN_MAX) {
            shown.push(format!("and {more} more"));
        }
        format!("broker{} {}", if self.brokers.len() == 1 { "" } else { "s" }, shown.join(", "))
    }
}

/// What brokers will do about it.
async fn consequences(
    args: &Args,
    there: &Present,
    before: &Documents,
    after: &Documents,
) -> anyhow::Result<Consequences> {
    // What is there now may not be valid; what can be read of it is what brokers run by.
    let old = load(&there.snapshot(before), &LastGood::default(), &nobody()).declared;
    let new = judged(&there.snapshot(after))?;
    let form = |declared| canonical(declared, BuiltInDefaults::LeftOut);
    let mut will = Consequences {
        of_all: planned(&old, &new, given(&args.labels)),
        brokers: Vec::new(),
        unknown: None,
        diff: diff_documents(&form(&old), &form(&new)),
    };
    if args.labels.is_empty() && (has_selectors(&old) || has_selectors(&new)) {
        match brokers(there, &args.etcd.root()).await {
            Ok(brokers) => will.brokers = groups(brokers, |labels| planned(&old, &new, Some(labels.clone()))),
            Err(why) => will.unknown = Some(why),
        }
    }
    Ok(will)
}

/// Who is there, by name; or why that is not known.
async fn brokers(there: &Present, root: &EtcdRoot) -> Result<Vec<(String, Labels)>, String> {
    let records = there.brokers(root).await.map_err(|error| format!("the brokers are not known: {error}"))?;
    let mut brokers = Vec::new();
    for (key, bytes) in records {
        let record =
            NodeRecord::parse(&bytes).map_err(|why| format!("the record of broker {key} is not understood: {why}"));
        brokers.push(record.map(|record| (record.name, record.labels))?);
    }
    if brokers.is_empty() {
        return Err("no broker is there".to_owned());
    }
    brokers.sort();
    Ok(brokers)
}

/// Puts those together that do the same, in the order of their names.
fn groups(brokers: Vec<(String, Labels)>, plan: impl Fn(&Labels) -> Plan) -> Vec<Group> {
    let mut plans: BTreeMap<Labels, Plan> = BTreeMap::new();
    let mut groups: Vec<(String, Group)> = Vec::new();
    for (name, labels) in brokers {
        let plan = plans.entry(labels.clone()).or_insert_with(|| plan(&labels));
        let shown = render::human(plan, "");
        match groups.iter_mut().find(|(known, _)| *known == shown) {
            Some((_, group)) => group.brokers.push((name, labels)),
            None => groups.push((shown, Group { plan: plan.clone(), brokers: vec![(name, labels)] })),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}
