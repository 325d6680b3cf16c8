//! `weir run` on a directory of its own, and its status.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::ports;
use crate::wire::Version;

/// How long something that must happen may take on a slow machine.
const GUARD: Duration = Duration::from_secs(90);

/// An endpoint at 127.0.0.1, open to all, with more `fields`.
pub fn endpoint(name: &str, port: u16, fields: &str) -> String {
    format!("endpoint: {{name: {name}, host: 127.0.0.1, port: {port}, enableAuth: false, enableAcl: false{fields}}}\n")
}

pub fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A client that was let in.
pub fn client(port: u16, id: &str) -> Client {
    Client::connect(at(port), Version::V5, id)
}

/// Waits until something holds.
pub fn until(what: &str, log: impl Fn() -> String, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < GUARD, "not in time: {what}\n{}", log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One condition of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub holds: bool,
    pub reason: String,
    pub message: String,
}

/// The broker, its declarations and its data; all ends with the value.
pub struct Broker {
    place: TempDir,
    status: SocketAddr,
    child: Child,
}

impl Broker {
    pub fn start(documents: &[(&str, &str)]) -> Self {
        Self::start_with(documents, &[])
    }

    pub fn start_with(documents: &[(&str, &str)], arguments: &[&str]) -> Self {
        Self::start_prepared(documents, |_| {}, arguments)
    }

    /// `prepare` does what else is to be done to the directory before the start.
    pub fn start_prepared(documents: &[(&str, &str)], prepare: impl FnOnce(&Path), arguments: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("endpoints.d")).unwrap();
        for (name, text) in documents {
            fs::write(place.path().join("endpoints.d").join(name), text).unwrap();
        }
        prepare(&place.path().join("endpoints.d"));
        let (status, child) = spawn(place.path(), arguments);
        let broker = Self { place, status, child };
        broker.until("it answers", || TcpStream::connect(broker.status).is_ok());
        broker
    }

    /// Ends as with a power cut, then starts anew on what is there.
    pub fn restart(&mut self, arguments: &[&str]) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.status, self.child) = spawn(self.place.path(), arguments);
        self.until("it answers", || TcpStream::connect(self.status).is_ok());
    }

    pub fn status(&self) -> SocketAddr {
        self.status
    }

    pub fn root(&self) -> PathBuf {
        self.place.path().join("endpoints.d")
    }

    /// Puts a file in the place of another at once, as editors do.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.place.path().join("new"), text).unwrap();
        fs::rename(self.place.path().join("new"), self.root().join(name)).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.root().join(name)).unwrap();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap()
    }

    pub fn until(&self, what: &str, holds: impl FnMut() -> bool) {
        until(what, || self.log(), holds);
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        let log = self.place.path().join("log");
        until(
            "it ends",
            || fs::read_to_string(&log).unwrap(),
            || {
                status = self.child.try_wait().unwrap();
                status.is_some()
            },
        );
        status.unwrap()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// `data` of an answer of the HTTP API.
    pub fn get(&self, path: &str) -> Value {
        let answer = self.http(path);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str::<Value>(body).map_or(Value::Null, |mut whole| whole["data"].take())
    }

    /// A whole answer.
    pub fn http(&self, path: &str) -> String {
        let mut answer = String::new();
        let request = format!("GET {path} HTTP/1.1\r\nhost: weir\r\nconnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(self.status).unwrap();
        stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer)).unwrap();
        answer
    }

    pub fn condition(&self, endpoint: &str, kind: &str) -> Option<Told> {
        let status = self.get(&format!("/api/endpoints/status?name={endpoint}"));
        let found = status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)?;
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        Some(Told { holds: found["status"] == "True", reason: text("reason"), message: text("message") })
    }

    /// Waits until a condition holds, or not, for a reason.
    pub fn until_told(&self, endpoint: &str, kind: &str, holds: bool, reason: &str) -> Told {
        let mut last = None;
        until(
            &format!("{endpoint} {kind} {holds} {reason}"),
            || format!("{}\n{:?}", self.log(), self.condition(endpoint, kind)),
            || {
                last = self.condition(endpoint, kind);
                last.as_ref().is_some_and(|told| told.holds == holds && told.reason == reason)
            },
        );
        last.unwrap()
    }

    pub fn until_listening(&self, endpoint: &str) {
        self.until_told(endpoint, "Programmed", true, "AsDeclared");
    }

    /// The revision that is live.
    pub fn applied(&self) -> String {
        self.get("/api/source")["appliedRevision"].as_str().unwrap_or_default().to_owned()
    }

    /// Writes a file and waits until a revision that has it is live.
    pub fn apply(&self, name: &str, text: &str) {
        let before = self.applied();
        self.write(name, text);
        self.until("it is applied", || self.applied() != before);
    }

    /// Connected clients of an endpoint.
    pub fn connected(&self, endpoint: &str) -> u64 {
        self.get(&format!("/api/endpoints/status?name={endpoint}"))["connections"]["current"].as_u64().unwrap_or(0)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(place: &Path, arguments: &[&str]) -> (SocketAddr, Child) {
    let status = ports::free_address();
    let log = File::options().create(true).append(true).open(place.join("log")).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["run", "--status-addr", &status.to_string(), "--endpoints"])
        .arg(place.join("endpoints.d"))
        .arg("--data-dir")
        .arg(place.join("data"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    (status, child)
}
