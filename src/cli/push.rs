//! `weir push`

use std::path::PathBuf;

use anyhow::{anyhow, bail};
use clap::error::ErrorKind;
use serde_json::{Value, json};

use super::etcd::EtcdArgs;
use super::plan::planned;
use super::print::{Format, print};
use super::{Exit, wrong_usage};
use crate::apply::wall_clock;
use crate::config::{Declared, NodeContext, Previous, Revision, Snapshot, load};
use crate::reconcile::{Plan, render};
use crate::source::etcd::{
    Documents, Marker, Present, PushPlan, PushState, after_push, documents_of, plan_push, present, push,
};
use crate::source::{Commit, DirectoryReader};

/// Put a directory's documents into etcd, all or nothing: brokers see the old set or the new one.
///
/// The plan is printed first. Exits with 0 once it is there (or nothing had to be written), with 1 if the directory is not
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
    /// Print the plan, write nothing
    #[arg(long)]
    dry_run: bool,
    /// `json`: `{"put": [...], "deleted": [...], "plan": {...}, "revision": ...}`
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

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
    let mut answer = match args.format {
        Format::Human => None,
        Format::Json => Some(to_json(&there, &plan, &before, &after)?),
    };
    if answer.is_none() {
        print(&shown(&there, &plan, &before, &after)?)?;
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
    let loaded = load(snapshot, &Previous::default(), &nobody());
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
fn shown(there: &Present, plan: &PushPlan, before: &Documents, after: &Documents) -> anyhow::Result<String> {
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
    let (made, diff) = consequences(there, before, after)?;
    text.push_str(&render::human(&made, &diff));
    Ok(text)
}

/// The same for a machine; `revision` is what the push came to, `null` where nothing was pushed.
fn to_json(there: &Present, plan: &PushPlan, before: &Documents, after: &Documents) -> anyhow::Result<Value> {
    let put = plan.puts.iter().map(|put| json!({"key": put.key, "new": put.is_new}));
    let (made, diff) = consequences(there, before, after)?;
    Ok(json!({
        "put": put.collect::<Vec<_>>(),
        "deleted": plan.deletes,
        "left": plan.left,
        "unchanged": plan.unchanged,
        "documentsDigest": plan.digest,
        "replacesHalfPushed": there.is_half_pushed(),
        "plan": render::json(&made, &diff),
        "revision": null,
        "commit": null,
    }))
}

/// What brokers will do about it, and the diff of the canonical forms.
fn consequences(there: &Present, before: &Documents, after: &Documents) -> anyhow::Result<(Plan, String)> {
    // What is there now may not be valid; what can be read of it is what brokers run by.
    let old = load(&there.snapshot(before), &Previous::default(), &nobody()).declared;
    let new = judged(&there.snapshot(after))?;
    Ok(planned(&old, &new))
}
