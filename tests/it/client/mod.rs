//! `weir dev`, `init`, `pub`, `sub` and `bench`, as a user runs them.

mod bench;
mod dev;
mod docs;
mod init;
mod messages;
mod peers;
mod refusals;
mod sessions;

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Command, ExitStatus, Output, Stdio};

use rustix::process::Signal;

use crate::programs::run;
use crate::support::child::ChildGuard;
use crate::support::until;
use crate::support::weir::command;

/// `weir`, with words that white space separates.
fn weir(words: &str) -> Command {
    let mut command = command();
    command.args(words.split_whitespace()).env_remove("WEIR_URL");
    command
}

/// Runs `weir` to its end; standard output, of a run that succeeded.
fn good(words: &str) -> String {
    let output = run(&mut weir(words));
    assert!(output.status.success(), "weir {words}: {}", shown(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// `weir dev` on a free port.
struct Dev {
    child: ChildGuard,
    lines: BufReader<ChildStdout>,
    url: String,
}

impl Dev {
    fn start() -> Self {
        let mut child = ChildGuard::spawn(weir("dev --port 0").stdout(Stdio::piped()).stderr(Stdio::null()));
        let mut lines = BufReader::new(child.take_stdout());
        let mut url = String::new();
        lines.read_line(&mut url).unwrap();
        Self { child, lines, url: url.trim_end().to_owned() }
    }
}

/// A child's exit status, once it has ended.
fn ended(child: &mut ChildGuard) -> ExitStatus {
    let mut status = None;
    until("the process ends", String::new, || {
        status = child.exit_status();
        status.is_some()
    });
    status.unwrap()
}

/// `weir sub`, which is subscribed once the value exists. It ends by itself after 100 s.
struct Sub {
    child: ChildGuard,
    lines: BufReader<ChildStdout>,
}

impl Sub {
    /// A retained message of `ready/1` shows that it is subscribed.
    fn start(url: &str, words: &str) -> Self {
        good(&format!("pub --url {url} -t ready/1 -m ready -r -q 1"));
        let mut command = weir(&format!("sub --url {url} -W 100 -t ready/1 {words}"));
        let mut child = ChildGuard::spawn(command.stdout(Stdio::piped()).stderr(Stdio::null()));
        let mut sub = Self { lines: BufReader::new(child.take_stdout()), child };
        assert!(sub.line().contains("ready"));
        sub
    }

    /// The next line.
    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).unwrap();
        assert!(read > 0, "weir sub ended");
        line.trim_end_matches('\n').to_owned()
    }

    fn end(mut self, signal: Signal) -> ExitStatus {
        self.child.signal(signal);
        ended(&mut self.child)
    }
}
