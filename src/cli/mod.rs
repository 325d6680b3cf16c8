//! The verbs of the command line, one file each.
//!
//! A verb has `Args` and `run(Args) -> anyhow::Result<Exit>`. An error is printed with its causes and exits with 1; wrong
//! usage exits with 64.

mod access;
mod acl;
mod broker;
mod completions;
mod diff;
mod durable;
mod environment;
mod etcd;
mod exit;
mod format;
mod import;
mod input;
mod log;
mod man;
mod passwd;
mod plan;
mod pressure;
mod print;
mod push;
mod render;
mod report;
mod run;
mod schema;
mod status;
mod systemd;
mod trace;
mod validate;
mod wait;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

pub use exit::Exit;

/// An MQTT broker whose listeners are declared in git or etcd.
#[derive(Debug, Parser)]
#[command(name = "weir", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::Args),
    Validate(validate::Args),
    Plan(plan::Args),
    Diff(diff::Args),
    Render(render::Args),
    Import(import::Args),
    Passwd(passwd::Args),
    Acl(acl::Args),
    Push(push::Args),
    Wait(wait::Args),
    Status(status::Args),
    Trace(trace::Args),
    Report(report::Args),
    Schema(schema::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs the verb that the command line names.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse_usage(&error),
    };
    let result = match cli.verb {
        Verb::Run(args) => run::run(args),
        Verb::Validate(args) => validate::run(args),
        Verb::Plan(args) => plan::run(args),
        Verb::Diff(args) => diff::run(args),
        Verb::Render(args) => render::run(args),
        Verb::Import(args) => import::run(args),
        Verb::Passwd(args) => passwd::run(args),
        Verb::Acl(args) => acl::run(args),
        Verb::Push(args) => push::run(args),
        Verb::Wait(args) => wait::run(args),
        Verb::Status(args) => status::run(args),
        Verb::Trace(args) => trace::run(args),
        Verb::Report(args) => report::run(args),
        Verb::Schema(args) => schema::run(args),
        Verb::Completions(args) => completions::run(args),
        Verb::Man(args) => man::run(args),
    };
    match result {
        Ok(exit) => exit.into(),
        // Whoever read our output has had enough of it: `weir render | head`.
        Err(error) if print::is_closed_pipe(&error) => Exit::Success.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::Failure.into()
        }
    }
}

fn refuse_usage(error: &clap::Error) -> ExitCode {
    let wanted = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // Nothing is left to tell it to where this fails.
    let _unwritable = error.print();
    if wanted { Exit::Success.into() } else { Exit::Usage.into() }
}
