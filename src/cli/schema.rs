//! `weir schema`

use super::Exit;
use super::print::print;

/// Print the JSON Schema of the documents.
///
/// For editors: save it, and begin each document with the line
/// `# yaml-language-server: $schema=endpoint.schema.json`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_: Args) -> anyhow::Result<Exit> {
    print(crate::config::SCHEMA)?;
    Ok(Exit::Success)
}
