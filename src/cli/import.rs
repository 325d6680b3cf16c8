//! `weir import`: reads other brokers' configuration and prints declarations. `weir_declare::import` does the rest.

use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, bail};
use weir_declare::import::{self, Broker};

use super::Exit;
use super::print::{Format, print};
use super::progress::Progress;

/// Turn another broker's configuration into declarations.
///
/// Prints documents, with comments where a decision is needed, and lists on standard error the settings that could not
/// be imported. Run-time state of the broker (statistics, times, states) is not configuration, and is left out.
///
/// Exits with 0; with 2 if some settings could not be imported; with 1 if nothing could.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// FluxMQ's endpoint export (JSON) or config.yaml, EMQ X's acl.conf, mosquitto.conf, or mosquitto's ACL file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The broker of the file; by default, its content decides.
    #[arg(long, value_enum)]
    from: Option<ImportedBroker>,
    /// `json`: `{"documents": [...], "yaml": "...", "notCarriedOver": [...]}`
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

/// The brokers whose configuration can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ImportedBroker {
    /// Endpoint export or config.yaml.
    Fluxmq,
    /// acl.conf.
    Emqx,
    /// mosquitto.conf, or an ACL file.
    Mosquitto,
}

impl From<ImportedBroker> for Broker {
    fn from(origin: ImportedBroker) -> Self {
        match origin {
            ImportedBroker::Fluxmq => Self::Fluxmq,
            ImportedBroker::Emqx => Self::Emqx,
            ImportedBroker::Mosquitto => Self::Mosquitto,
        }
    }
}

/// The files of this machine.
struct DiskFiles;

impl import::ImportFiles for DiskFiles {
    fn read(&self, path: &Path) -> io::Result<String> {
        fs::read_to_string(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path())).collect())
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let shown = args.file.display().to_string();
    let text = fs::read_to_string(&args.file).with_context(|| shown.clone())?;
    let broker = match args.from {
        Some(origin) => origin.into(),
        None => import::detect(&args.file, &text).with_context(|| {
            format!(
                "{shown}: the broker that this configuration is for is not clear; give --from fluxmq, emqx or mosquitto"
            )
        })?,
    };
    let work = || import::import(broker, &args.file, &text, &DiskFiles);
    let draft = Progress::during(format!("importing {shown}"), work).with_context(|| shown.clone())?;
    let omissions = draft.omissions(&shown);
    if draft.is_empty() {
        eprint!("{omissions}");
        bail!("{shown}: nothing in it could be imported");
    }
    match args.format {
        Format::Human => {
            print(&draft.to_yaml(&shown))?;
            eprint!("{omissions}");
        }
        Format::Json => print(&format!("{:#}\n", draft.to_json(&shown)))?,
    }
    Ok(if omissions.is_empty() { Exit::Success } else { Exit::Reserved })
}
