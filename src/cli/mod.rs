//! The verbs of the command line, one file each.
//!
//! A verb has `Args` and `run(Args) -> anyhow::Result<Exit>`. An error is printed with its causes and exits with 1; wrong
//! usage exits with 64.

mod access;
mod acl;
mod broker;
mod completions;
mod data_dir;
mod diff;
mod durable;
mod environment;
#[cfg(feature = "etcd")]
mod etcd;
mod exit;
mod format;
mod import;
mod input;
mod log;
mod man;
mod otlp;
mod passwd;
mod plan;
mod pressure;
mod print;
#[cfg(feature = "etcd")]
mod push;
mod render;
mod report;
mod run;
mod schema;
mod status;
mod store;
mod systemd;
mod trace;
mod validate;
mod wait;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

pub use exit::Exit;

/// An MQTT broker whose listeners are declared in git or etcd.
///
/// What stands in a directory (or a git ref) is what the broker listens on: it follows changes by itself, without a
/// restart, and disconnects nobody who need not be. Nothing is changed by command; every verb but `run` only reads.
#[derive(Debug, Parser)]
#[command(name = "weir", version, max_term_width = 100, disable_help_subcommand = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
First steps:
  weir run --endpoints examples/endpoints.d        a broker with those endpoints
  weir validate DIR                                all errors at once, before a commit
  weir plan DIR --against http://127.0.0.1:8080    what a change would do, and to how many clients
  weir status                                      what is declared, what runs, what is refused

Exit codes: 0 good; 1 a negative answer, or a failure; 2 with reservations (each verb's help says which); 64 wrong usage.
Brokers are asked at WEIR_STATUS (http://127.0.0.1:8080); WEIR_STATUS_TOKEN (file:PATH or env:NAME), WEIR_STATUS_CA,
WEIR_STATUS_CERT and WEIR_STATUS_KEY let in where one is guarded.";

#[derive(Debug, Subcommand)]
enum Verb {
    Run(Box<run::Args>),
    Validate(validate::Args),
    Plan(plan::Args),
    Diff(diff::Args),
    Render(render::Args),
    Import(import::Args),
    Passwd(passwd::Args),
    Acl(acl::Args),
    #[cfg(feature = "etcd")]
    Push(push::Args),
    Wait(wait::Args),
    Status(status::Args),
    Trace(trace::Args),
    Report(report::Args),
    Store(store::Args),
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
        Verb::Run(args) => run::run(*args),
        Verb::Validate(args) => validate::run(args),
        Verb::Plan(args) => plan::run(args),
        Verb::Diff(args) => diff::run(args),
        Verb::Render(args) => render::run(args),
        Verb::Import(args) => import::run(args),
        Verb::Passwd(args) => passwd::run(args),
        Verb::Acl(args) => acl::run(args),
        #[cfg(feature = "etcd")]
        Verb::Push(args) => push::run(args),
        Verb::Wait(args) => wait::run(args),
        Verb::Status(args) => status::run(args),
        Verb::Trace(args) => trace::run(args),
        Verb::Report(args) => report::run(args),
        Verb::Store(args) => store::run(args),
        Verb::Schema(args) => schema::run(args),
        Verb::Completions(args) => completions::run(args),
        Verb::Man(args) => man::run(args),
    };
    match result {
        Ok(exit) => exit.into(),
        // Whoever read our output has had enough of it: `weir render | head`.
        Err(error) if print::is_closed_pipe(&error) => Exit::Success.into(),
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(usage) => refuse_usage(&usage),
            Err(error) => {
                eprintln!("error: {error:#}");
                Exit::Failure.into()
            }
        },
    }
}

/// Wrong usage of a verb that its parser alone cannot see: printed with the verb's usage, and 64.
fn wrong_usage(verb: &str, kind: ErrorKind, message: &str) -> anyhow::Error {
    let mut cli = Cli::command();
    cli.build();
    match cli.find_subcommand_mut(verb) {
        Some(verb) => verb.error(kind, message).into(),
        None => cli.error(kind, message).into(),
    }
}

fn refuse_usage(error: &clap::Error) -> ExitCode {
    let wanted = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // Nothing is left to tell it to where this fails.
    let _unwritable = error.print();
    if wanted { Exit::Success.into() } else { Exit::Usage.into() }
}
