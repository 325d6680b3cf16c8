//! A broker that follows etcd, as a process.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::until;
use crate::support::ports;

/// A broker. It ends when this is dropped.
pub struct Broker {
    pub name: String,
    /// Of its own, so that brokers on one machine have the same ports.
    pub host: IpAddr,
    pub status: SocketAddr,
    directory: TempDir,
    args: Vec<String>,
    child: Option<Child>,
}

impl Broker {
    /// A broker called `n<number>` on 127.0.0.`number + 1`, with more arguments.
    pub fn start(number: u8, etcd: &str, more: &[&str]) -> Self {
        let host = IpAddr::from([127, 0, 0, number + 1]);
        let mut broker = Self {
            name: format!("n{number}"),
            host,
            status: ports::free_address(),
            directory: tempfile::tempdir().unwrap(),
            args: Vec::new(),
            child: None,
        };
        broker.args = ["--etcd", etcd, "--host", &host.to_string(), "--shards", "1"].map(ToOwned::to_owned).to_vec();
        if !more.contains(&"--node-name") {
            broker.args.extend(["--node-name", &broker.name].map(ToOwned::to_owned));
        }
        // The watch has to tell: nothing is to be healed by looking now and then.
        broker.args.extend(["--resync-s", "3600"].map(ToOwned::to_owned));
        broker.args.extend(more.iter().map(|argument| (*argument).to_owned()));
        broker.run();
        broker
    }

    /// Three brokers with data directories.
    pub fn three(etcd: &str) -> Vec<Self> {
        (1..=3).map(|number| Self::start(number, etcd, &[])).collect()
    }

    /// Starts it, as it was started before.
    pub fn run(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["run", "--status-addr", &self.status.to_string(), "--data-dir"])
            .arg(self.directory.path().join("data"))
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        until("the status answers", || !self.get("/livez").is_null());
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.child.take().unwrap().wait().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.id()).unwrap()).unwrap(), signal).unwrap();
    }

    fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Whether it has kept an endpoint for a start without a store; at once, or within half a second of the write before.
    pub fn has_kept(&self, name: &str) -> bool {
        let kept = fs::read_to_string(self.directory.path().join("data/last-known-good.json"));
        kept.is_ok_and(|kept| kept.contains(&format!("\"{name}\"")))
    }

    /// Whether it has kept that deletions are held.
    pub fn has_kept_held(&self) -> bool {
        let kept = fs::read_to_string(self.directory.path().join("data/last-known-good.json"));
        kept.is_ok_and(|kept| kept.contains("\"cause\":\"deletion\""))
    }

    pub fn status_url(&self) -> String {
        format!("http://{}", self.status)
    }

    /// The answer's `data`; a text that is no JSON as it is; null without an answer.
    pub fn get(&self, path: &str) -> Value {
        let Ok(mut stream) = TcpStream::connect(self.status) else { return Value::Null };
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.status);
        let mut answer = String::new();
        if stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer)).is_err() {
            return Value::Null;
        }
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        match serde_json::from_str::<Value>(body) {
            Ok(mut answer) => answer["data"].take(),
            Err(_) if body.is_empty() => Value::Null,
            Err(_) => Value::String(body.to_owned()),
        }
    }

    /// Whether somebody accepts at a port of its.
    pub fn listens(&self, port: u16) -> bool {
        TcpStream::connect((self.host, port)).is_ok()
    }

    pub fn digest(&self) -> String {
        self.get("/api/source")["declarationDigest"].as_str().unwrap_or_default().to_owned()
    }

    /// A condition of an endpoint: its status, reason and message.
    pub fn condition(&self, endpoint: &str, kind: &str) -> (String, String, String) {
        let answer = self.get(&format!("/api/endpoints/get?name={endpoint}"));
        let conditions = answer["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default();
        let word = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        (word("status"), word("reason"), word("message"))
    }

    /// The kind of trouble that the source is in.
    pub fn trouble(&self) -> Option<String> {
        self.get("/api/source")["trouble"]["kind"].as_str().map(ToOwned::to_owned)
    }

    /// How often the source was in this kind of trouble.
    pub fn incidents(&self, kind: &str) -> u64 {
        self.get("/api/source")["incidents"][kind].as_u64().unwrap_or_default()
    }

    /// Names of the brokers that it knows, its own first.
    pub fn nodes(&self) -> Vec<String> {
        let nodes = self.get("/api/cluster/nodes");
        let nodes = nodes["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().filter_map(|node| node["name"].as_str().map(ToOwned::to_owned)).collect()
    }

    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id())).unwrap().count()
    }

    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.id())).unwrap().count()
    }

    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let last: Vec<&str> = log.lines().rev().take(15).collect();
            eprintln!("{} said last:\n{}", self.name, last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        self.kill();
    }
}
