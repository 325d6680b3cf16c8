//! `weir push`

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{anyhow, bail};
use clap::error::ErrorKind;
use serde_json::{Value, json};

use super::etcd::EtcdArgs;
use super::plan::{Labels, given, has_selectors, planned, with_labels};
use super::print::{Format, print};
use super::progress::Progress;
use super::references::linked_directories;
use super::validate::parse_label;
use super::{Exit, wrong_usage};
use crate::source::etcd::{
    Documents, EtcdRoot, Marker, PushPlan, PushState, PushTarget, after_push, documents_of, plan_push, push,
    read_target,
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
/// The plan is printed first; where documents have `nodes`, one plan for each broker, by its labels. Exits with 0 once
/// the documents are written (or nothing had to be), with 1 if the directory is not valid, the store cannot be written,
/// or another writer changed it meanwhile.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of declarations
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Delete documents that are not in DIR
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

/// The documents to be pushed.
struct Wanted {
    documents: Documents,
    commit: Option<Commit>,
    dirty: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    if !args.etcd.is_given() {
        let message = "the etcd is missing: give --etcd http://HOST:PORT, or WEIR_ETCD in the environment";
        return Err(wrong_usage("push", ErrorKind::MissingRequiredArgument, message));
    }
    let wanted = read(&args)?;
    let access = args.etcd.access()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let target = runtime.block_on(read_target(&access, &args.etcd.root()))?;
    let before = target.documents();
    let plan = plan_push(&wanted.documents, &before, args.prune);
    let after = after_push(&wanted.documents, &before, &plan);
    let effects = runtime.block_on(effects_of(&args, &target, &before, &after))?;
    let mut answer = match args.format {
        Format::Human => None,
        Format::Json => Some(to_json(&target, &plan, &effects)),
    };
    if answer.is_none() {
        print(&shown(&target, &plan, &effects))?;
    }
    if args.dry_run {
        answer.map_or(Ok(()), |answer| print(&format!("{answer:#}\n")))?;
        return Ok(Exit::Success);
    }
    let mut marker =
        Marker::new(PushState::Complete, plan.digest.clone(), plan.documents, target.revision(), wall_clock());
    marker.commit.clone_from(&wanted.commit);
    marker.dirty = wanted.dirty;
    let what = format!("pushing {} keys", plan.puts.len() + plan.deletes.len());
    let revision = Progress::during(what, || runtime.block_on(push(&target, &plan, &marker)))?;
    if let Some(answer) = &mut answer {
        (answer["revision"], answer["commit"]) = (json!(revision), json!(wanted.commit));
        print(&format!("{answer:#}\n"))?;
        return Ok(Exit::Success);
    }
    let of = wanted.commit.map(|commit| format!(" of commit {}", commit.id.get(..12).unwrap_or(&commit.id)));
    print(&format!("pushed{}: revision {revision}\n", of.unwrap_or_default()))?;
    Ok(Exit::Success)
}

/// Reads the directory; an invalid one is not pushed.
fn read(args: &Args) -> anyhow::Result<Wanted> {
    let reading = DirectoryReader::new(&args.directory).with_linked(linked_directories()).read(None)?;
    if let Some(why) = reading.unsettled {
        bail!("{}: {why}; push again when it is at rest", args.directory.display());
    }
    let documents = documents_of(&reading.snapshot.files)?;
    validated(&reading.snapshot)?;
    let dirty = matches!(reading.snapshot.revision, Revision::Git { dirty: true, .. });
    Ok(Wanted { documents, commit: reading.commit, dirty })
}

fn validated(snapshot: &Snapshot) -> anyhow::Result<Declared> {
    let loaded = load(snapshot, &LastGood::default(), &no_node());
    if loaded.is_valid() {
        return Ok(loaded.declared);
    }
    let errors: Vec<String> =
        loaded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).map(ToString::to_string).collect();
    bail!("nothing is pushed: `weir validate` shows more\n{}", errors.join("\n"))
}

/// The context of a push: no particular node, and no status address.
fn no_node() -> NodeContext {
    NodeContext { status_addr: None, ..NodeContext::default() }
}

/// The keys, then the plans of the brokers.
fn shown(target: &PushTarget, plan: &PushPlan, effects: &PushEffects) -> String {
    let mut text = String::new();
    if target.is_push_in_progress() {
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
    if let Some(why) = &effects.unknown {
        text.push_str(&format!("the plan is of every endpoint, whatever its `nodes`: {why}\n\n"));
    }
    if effects.brokers.is_empty() {
        text.push_str(&render::human(&effects.of_all, &effects.diff));
        return text;
    }
    for group in &effects.brokers {
        text.push_str(&format!("{}:\n{}\n", group.heading(), render::human(&group.plan, "")));
    }
    text.push_str(&effects.diff);
    text
}

/// The same as JSON; `revision` is the one of the push, `null` where nothing was pushed.
fn to_json(target: &PushTarget, plan: &PushPlan, effects: &PushEffects) -> Value {
    let put = plan.puts.iter().map(|put| json!({"key": put.key, "new": put.is_new}));
    let brokers = effects.brokers.iter().map(|group| {
        let names: Vec<&str> = group.brokers.iter().map(|(name, _)| name.as_str()).collect();
        json!({"names": names, "plan": render::json(&group.plan, "")})
    });
    json!({
        "put": put.collect::<Vec<_>>(),
        "deleted": plan.deletes,
        "left": plan.left,
        "unchanged": plan.unchanged,
        "documentsDigest": plan.digest,
        "replacesHalfPushed": target.is_push_in_progress(),
        "plan": render::json(&effects.of_all, &effects.diff),
        "brokers": brokers.collect::<Vec<_>>(),
        "brokersUnknown": effects.unknown,
        "revision": null,
        "commit": null,
    })
}

/// The effects of a push.
struct PushEffects {
    /// Of no broker in particular: every endpoint counts. With `--node-label`, of a broker with these labels.
    of_all: Plan,
    /// Plans of brokers, where they depend on the broker.
    brokers: Vec<Group>,
    /// Why the brokers cannot be listed, where the plan depends on them.
    unknown: Option<String>,
    /// Of the canonical forms.
    diff: String,
}

/// Brokers with the same plan.
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

/// Computes the effects of a push on the brokers.
async fn effects_of(
    args: &Args,
    target: &PushTarget,
    before: &Documents,
    after: &Documents,
) -> anyhow::Result<PushEffects> {
    // The current documents may be invalid; brokers serve the valid ones among them.
    let old = load(&target.snapshot(before), &LastGood::default(), &no_node()).declared;
    let new = validated(&target.snapshot(after))?;
    let form = |declared| canonical(declared, BuiltInDefaults::LeftOut);
    let mut effects = PushEffects {
        of_all: planned(&old, &new, given(&args.labels)),
        brokers: Vec::new(),
        unknown: None,
        diff: diff_documents(&form(&old), &form(&new)),
    };
    if args.labels.is_empty() && (has_selectors(&old) || has_selectors(&new)) {
        match brokers(target, &args.etcd.root()).await {
            Ok(brokers) => effects.brokers = groups(brokers, |labels| planned(&old, &new, Some(labels.clone()))),
            Err(error) => effects.unknown = Some(error.to_string()),
        }
    }
    Ok(effects)
}

/// The brokers by name, or why they cannot be listed.
async fn brokers(target: &PushTarget, root: &EtcdRoot) -> anyhow::Result<Vec<(String, Labels)>> {
    let records = target.brokers(root).await.map_err(|error| anyhow!("the brokers are not known: {error}"))?;
    let mut brokers = Vec::new();
    for (key, bytes) in records {
        let record =
            NodeRecord::parse(&bytes).map_err(|error| anyhow!("the record of broker {key} cannot be read: {error}"));
        brokers.push(record.map(|record| (record.name, record.labels))?);
    }
    if brokers.is_empty() {
        bail!("no broker is there");
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
