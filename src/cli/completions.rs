//! `weir completions`

use clap::CommandFactory;
use clap_complete::Shell;

use super::print::print;
use super::{Cli, Exit};

/// Print a shell's completions for weir.
///
/// bash: weir completions bash > /etc/bash_completion.d/weir
///
/// Exits with 0.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weir completions bash > /etc/bash_completion.d/weir\n  weir completions fish > ~/.config/fish/completions/weir.fish"
)]
pub(super) struct Args {
    shell: Shell,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "weir", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(Exit::Success)
}
