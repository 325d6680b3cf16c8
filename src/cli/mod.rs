//! The verbs of the command line, one file each.
//!
//! A verb has `Args` and `run(Args) -> anyhow::Result<Exit>`. An error is printed with its causes and exits with 1;
//! wrong usage exits with 64.

mod access;
mod acl;
mod bench;
mod broker;
mod client;
#[cfg(feature = "cluster")]
mod cluster;
mod completions;
mod dev;
mod diff;
mod environment;
#[cfg(feature = "etcd")]
mod etcd;
mod exit;
mod fmt;
mod format;
mod import;
mod init;
mod input;
mod interrupt;
mod man;
mod man_documents;
mod members;
mod passwd;
mod plan;
mod print;
mod progress;
mod publish;
#[cfg(feature = "etcd")]
mod push;
mod references;
mod render;
mod report;
mod run;
mod schema;
mod status;
mod store;
mod subscribe;
mod trace;
mod validate;
mod wait;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

pub use exit::Exit;

/// An MQTT broker whose listeners are declared in git or etcd.
///
/// The broker's listeners follow the declarations in a directory (or a git ref) without a restart, and a change
/// disconnects only the clients that it concerns. No command changes the declarations of a running broker.
#[derive(Debug, Parser)]
#[command(name = "weir", version, max_term_width = 100, disable_help_subcommand = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
First steps:
  weir dev                                         a broker for a try: on this machine, without passwords
  weir sub -t '#' -v                               prints what is published; weir pub -t a -m hello publishes
  weir init                                        endpoints.d to start from, with a user and an access list
  weir run --endpoints endpoints.d                 a broker with those endpoints
  weir validate DIR                                all errors at once, before a commit
  weir plan DIR --against http://127.0.0.1:8080    the effect of a change, with the number of clients
  weir status                                      declared, live and refused endpoints

Exit codes: 0 success; 1 a negative answer, or a failure; 2 with reservations (see each verb's help); 64 wrong usage.
Verbs query the broker at WEIR_STATUS (http://127.0.0.1:8080), with the credentials WEIR_STATUS_TOKEN (file:PATH or
env:NAME), WEIR_STATUS_CA, WEIR_STATUS_CERT and WEIR_STATUS_KEY.";

#[derive(Debug, Subcommand)]
enum Verb {
    Run(Box<run::Args>),
    Dev(Box<dev::Args>),
    Init(init::Args),
    Pub(Box<publish::Args>),
    Sub(Box<subscribe::Args>),
    Bench(Box<bench::Args>),
    Validate(validate::Args),
    Plan(plan::Args),
    Diff(diff::Args),
    Fmt(fmt::Args),
    Render(render::Args),
    Import(import::Args),
    Passwd(passwd::Args),
    Acl(acl::Args),
    #[cfg(feature = "etcd")]
    Push(push::Args),
    Wait(wait::Args),
    Status(status::Args),
    Cluster(members::Args),
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
        Verb::Dev(args) => dev::run(*args),
        Verb::Init(args) => init::run(args),
        Verb::Pub(args) => publish::run(*args),
        Verb::Sub(args) => subscribe::run(*args),
        Verb::Bench(args) => bench::run(*args),
        Verb::Validate(args) => validate::run(args),
        Verb::Plan(args) => plan::run(args),
        Verb::Diff(args) => diff::run(args),
        Verb::Fmt(args) => fmt::run(args),
        Verb::Render(args) => render::run(args),
        Verb::Import(args) => import::run(args),
        Verb::Passwd(args) => passwd::run(args),
        Verb::Acl(args) => acl::run(args),
        #[cfg(feature = "etcd")]
        Verb::Push(args) => push::run(args),
        Verb::Wait(args) => wait::run(args),
        Verb::Status(args) => status::run(args),
        Verb::Cluster(args) => members::run(args),
        Verb::Trace(args) => trace::run(args),
        Verb::Report(args) => report::run(args),
        Verb::Store(args) => store::run(args),
        Verb::Schema(args) => schema::run(args),
        Verb::Completions(args) => completions::run(args),
        Verb::Man(args) => man::run(args),
    };
    match result {
        Ok(exit) => exit.into(),
        // The reader has closed the pipe: `weir render | head`.
        Err(error) if print::is_closed_pipe(&error) => Exit::Success.into(),
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(usage) => refuse_usage(&usage),
            Err(error) => {
                eprintln!("error: {}", print::printable(&format!("{error:#}")));
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
    // There is no other place to report a failure to.
    let _unwritable = error.print();
    if wanted { Exit::Success.into() } else { Exit::Usage.into() }
}
