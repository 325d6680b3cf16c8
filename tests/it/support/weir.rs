//! The built broker as a process.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::child::{self, ChildGuard};
use super::{GUARD, ports, until};

/// Lines of the log that a failed test prints.
const LAST_LINES: usize = 15;

/// The path of the built program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_weir");

/// `weir run` with a temporary directory: documents in `endpoints.d`, data in `data`, standard output and error in `log`.
/// The process and the directory end with the value.
pub struct Weir {
    /// First, so that the process ends before its directory.
    child: Option<ChildGuard>,
    directory: TempDir,
    program: OsString,
    source: [OsString; 2],
    status: Option<SocketAddr>,
    has_data: bool,
    shards: Option<u16>,
    arguments: Vec<String>,
    environment: Vec<(OsString, Option<OsString>)>,
    descriptor_limit: Option<u32>,
}

/// A command that runs `weir`, for its verbs.
pub fn command() -> Command {
    Command::new(PROGRAM)
}

/// What to run.
impl Weir {
    /// Follows `endpoints.d`, without data directory and status server. Nothing runs yet.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let documents = directory.path().join("endpoints.d");
        fs::create_dir(&documents).unwrap();
        Self {
            child: None,
            directory,
            program: PROGRAM.into(),
            source: ["--endpoints".into(), documents.into()],
            status: None,
            has_data: false,
            shards: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            descriptor_limit: None,
        }
    }

    /// Follows etcd instead of the directory.
    #[cfg(feature = "etcd")]
    pub fn with_etcd(mut self, urls: &str) -> Self {
        self.source = ["--etcd".into(), urls.into()];
        self
    }

    /// Keeps its data in the directory `data`.
    pub fn with_data(mut self) -> Self {
        self.has_data = true;
        self
    }

    /// Runs the status server on a free port, the same one after a restart.
    pub fn with_status(mut self) -> Self {
        self.status = Some(ports::free_address());
        self
    }

    pub fn with_shards(mut self, shards: u16) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Adds arguments.
    pub fn with_arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Replaces the arguments of [`Weir::with_arguments`] from the next start on.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    }

    /// Sets a variable of its environment.
    pub fn with_variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), Some(value.as_ref().to_owned())));
        self
    }

    /// Removes a variable of its environment.
    pub fn without_variable(mut self, name: &str) -> Self {
        self.environment.push((name.into(), None));
        self
    }

    /// Runs another build of the broker.
    pub fn with_program(mut self, program: OsString) -> Self {
        self.program = program;
        self
    }

    /// Limits its file descriptors.
    pub fn with_descriptor_limit(mut self, limit: u32) -> Self {
        self.descriptor_limit = Some(limit);
        self
    }

    /// Puts a file into `endpoints.d`.
    pub fn with_file(self, name: &str, content: &str) -> Self {
        self.write(name, content);
        self
    }

    pub fn with_files(self, files: &[(&str, &str)]) -> Self {
        files.iter().fold(self, |weir, (name, content)| weir.with_file(name, content))
    }

    fn command(&self) -> Command {
        let mut command = match self.descriptor_limit {
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")]).arg(&self.program);
                shell
            }
            None => Command::new(&self.program),
        };
        let status = self.status.map_or_else(|| "none".to_owned(), |address| address.to_string());
        command.args(["run", "--status-addr", &status]).args(&self.source).args(&self.arguments);
        if self.has_data {
            command.arg("--data-dir").arg(self.data());
        }
        if let Some(shards) = self.shards {
            command.args(["--shards", &shards.to_string()]);
        }
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }
}

/// The process.
impl Weir {
    /// Starts the process and does not wait. Its log continues after that of an earlier run.
    pub fn run(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(ChildGuard::spawn(&mut command));
    }

    /// Starts the process and waits until all `addresses` accept connections.
    pub fn run_until_accepting(&mut self, addresses: &[SocketAddr]) {
        self.run();
        self.until_running("the broker accepts connections", |_| {
            addresses.iter().all(|address| TcpStream::connect(address).is_ok())
        });
    }

    /// Waits until something holds of a broker that must not end meanwhile.
    pub fn until_running(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let log = self.log_path();
        until(
            what,
            || read_log(&log),
            || {
                assert!(!self.has_ended(), "the broker ended\n{}", self.log());
                condition(self)
            },
        );
    }

    /// kill -9, where it runs.
    pub fn kill(&mut self) {
        self.child = None;
    }

    pub fn signal(&self, signal: Signal) {
        self.child().signal(signal);
    }

    /// SIGTERM, and waits for the end of the process.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let (log, mut status) = (self.log_path(), None);
        let child = self.child.as_mut().expect("the broker was started");
        until(
            "the broker ends",
            || read_log(&log),
            || {
                status = child.exit_status();
                status.is_some()
            },
        );
        status.unwrap()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.exit_status().is_some())
    }

    fn child(&self) -> &ChildGuard {
        self.child.as_ref().expect("the broker runs")
    }

    pub fn id(&self) -> u32 {
        self.child().id()
    }

    pub fn resident_bytes(&self) -> usize {
        child::resident_bytes(self.id()).unwrap_or_else(|| panic!("the broker has ended:\n{}", self.log()))
    }
}

/// Its directory and its status.
impl Weir {
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn endpoints(&self) -> PathBuf {
        self.directory().join("endpoints.d")
    }

    pub fn data(&self) -> PathBuf {
        self.directory().join("data")
    }

    pub fn log_path(&self) -> PathBuf {
        self.directory().join("log")
    }

    pub fn log(&self) -> String {
        read_log(&self.log_path())
    }

    /// Replaces a file of `endpoints.d` atomically, as editors and git do.
    pub fn write(&self, name: &str, content: &str) {
        let new = self.directory().join("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, self.endpoints().join(name)).unwrap();
    }

    pub fn until(&self, what: &str, condition: impl FnMut() -> bool) {
        until(what, || self.log(), condition);
    }

    /// The address of the status server.
    pub fn status(&self) -> SocketAddr {
        self.status.expect("the broker has a status server")
    }

    pub fn status_url(&self) -> String {
        format!("http://{}", self.status())
    }

    /// The whole answer to a GET; empty without an answer.
    pub fn http(&self, path: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(self.status()) else { return String::new() };
        stream.set_read_timeout(Some(GUARD)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.status());
        let mut answer = String::new();
        // A broker that is still starting closes early: the caller asks again.
        if stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer)).is_err() {
            answer.clear();
        }
        answer
    }

    /// The `data` of an answer; a body that is not JSON as it is; null without an answer.
    pub fn get(&self, path: &str) -> Value {
        let answer = self.http(path);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        match serde_json::from_str::<Value>(body) {
            Ok(mut answer) => answer["data"].take(),
            Err(_) if body.is_empty() => Value::Null,
            Err(_) => Value::String(body.to_owned()),
        }
    }
}

fn read_log(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

impl Drop for Weir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            eprintln!("the last lines of the broker's log:\n{}", last.join("\n"));
        }
    }
}
