//! `weir man`

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use super::print::print;
use super::{Cli, Exit};

/// Print the manual page, or write one for each verb into a directory.
///
/// weir man | man -l -
///
/// Exits with 0, or with 1 where the directory cannot be written.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write weir.1, weir-validate.1, ... into this directory.
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    match args.out_dir {
        Some(directory) => {
            std::fs::create_dir_all(&directory)
                .with_context(|| format!("{}: cannot create the directory", directory.display()))?;
            clap_mangen::generate_to(Cli::command(), &directory)
                .with_context(|| format!("{}: cannot write the pages", directory.display()))?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            print(&String::from_utf8(page)?)?;
        }
    }
    Ok(Exit::Success)
}
