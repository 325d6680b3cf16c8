//! `weir import`

use std::path::PathBuf;

use super::Exit;

/// Turn another broker's configuration into declarations.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// FluxMQ's endpoint export (JSON) or config.yaml, EMQ X's acl.conf, or mosquitto.conf.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    anyhow::bail!("{}: no format is known yet", args.file.display())
}
