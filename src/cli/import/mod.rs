//! `weir import`: other brokers' configuration to declarations.

mod acl_conf;
mod draft;
mod fluxmq;
mod fluxmq_endpoint;
mod mosquitto;
mod mosquitto_acl;
mod mosquitto_bridge;
mod mosquitto_listener;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::Exit;
use super::print::{Format, print};

/// Turn another broker's configuration into declarations.
///
/// Prints documents, with comments where something wants a decision. What could not be carried over is listed on
/// standard error. What a broker keeps at run time (statistics, times, states) is no configuration, and is left out.
///
/// Exits with 0, with 2 where something could not be carried over, with 1 where nothing could.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// FluxMQ's endpoint export (JSON) or config.yaml, EMQ X's acl.conf, mosquitto.conf, or mosquitto's ACL file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Whose file it is; told by its content otherwise.
    #[arg(long, value_enum)]
    from: Option<Origin>,
    /// `json`: `{"documents": [...], "yaml": "...", "notCarriedOver": [...]}`
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

/// The brokers whose configuration is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Origin {
    /// Endpoint export or config.yaml.
    Fluxmq,
    /// acl.conf.
    Emqx,
    /// mosquitto.conf, or an ACL file.
    Mosquitto,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let shown = args.file.display().to_string();
    let text = std::fs::read_to_string(&args.file).with_context(|| shown.clone())?;
    let origin = match args.from {
        Some(origin) => origin,
        None => origin_of(&args.file, &text)?,
    };
    let mut draft = match origin {
        Origin::Fluxmq => fluxmq::import(&text).with_context(|| shown.clone())?,
        Origin::Emqx => acl_conf::import(&text).with_context(|| shown.clone())?,
        Origin::Mosquitto if mosquitto_acl::is_alone(&text) => mosquitto_acl::import_alone(&text),
        Origin::Mosquitto => mosquitto::import(&args.file, &text),
    };
    draft.leave_what_is_invalid();
    if draft.is_empty() {
        eprint!("{}", draft.left(&shown));
        bail!("{shown}: nothing in it could be carried over");
    }
    let left = draft.left(&shown);
    match args.format {
        Format::Human => {
            print(&draft.to_yaml(&shown))?;
            eprint!("{left}");
        }
        Format::Json => print(&format!("{:#}\n", draft.to_json(&shown)))?,
    }
    Ok(if left.is_empty() { Exit::Success } else { Exit::Reserved })
}

fn origin_of(file: &Path, text: &str) -> anyhow::Result<Origin> {
    let content = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with(['#', '%']));
    let content = content.unwrap_or_default();
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let is_term = ["{allow", "{deny", "{ allow", "{ deny"].iter().any(|start| content.starts_with(start));
    if is_term {
        return Ok(Origin::Emqx);
    }
    if content.starts_with(['{', '[']) || name.ends_with(".yaml") || name.ends_with(".yml") || name.ends_with(".json") {
        return Ok(Origin::Fluxmq);
    }
    // `key value`, and neither `key: value` nor `key = value`.
    let mut words = content.split_whitespace();
    let looks_like_conf = words.next().is_some_and(mosquitto::is_known) && words.next() != Some("=");
    if looks_like_conf || mosquitto_acl::is_alone(text) || name.contains("mosquitto") {
        return Ok(Origin::Mosquitto);
    }
    bail!("{}: whose configuration is this? Say it with --from fluxmq, emqx or mosquitto", file.display())
}
