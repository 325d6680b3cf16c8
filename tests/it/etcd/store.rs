//! An etcd server as a process.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{until, words};
use crate::support::child::ChildGuard;
use crate::support::ports;

/// One etcd server. It ends when this is dropped.
pub struct Etcd {
    /// First, so that the process ends before its directory.
    child: Option<ChildGuard>,
    directory: TempDir,
    name: String,
    client: u16,
    peer: u16,
    /// Of all members; of a single server, its own.
    cluster: String,
    extra: Vec<String>,
    /// Counts the data directories: a wiped store has another.
    generation: u32,
}

impl Etcd {
    /// A server by itself, which answers.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server by itself, with more arguments.
    pub fn start_with(extra: &[&str]) -> Self {
        let mut etcd = Self::member("default", ports::free(), ports::free(), None);
        etcd.extra = extra.iter().map(|argument| (*argument).to_owned()).collect();
        etcd.run();
        etcd
    }

    /// Three servers of one cluster, which answer. Patient about each other: a machine that does much else is no dead leader.
    pub fn three() -> Vec<Self> {
        let peers: Vec<u16> = (0..3).map(|_| ports::free()).collect();
        let cluster: Vec<String> =
            peers.iter().enumerate().map(|(at, port)| format!("m{at}=http://127.0.0.1:{port}")).collect();
        let cluster = cluster.join(",");
        let mut servers: Vec<Self> = peers
            .iter()
            .enumerate()
            .map(|(at, peer)| Self::member(&format!("m{at}"), ports::free(), *peer, Some(cluster.clone())))
            .collect();
        for server in &mut servers {
            server.extra = ["--heartbeat-interval", "200", "--election-timeout", "3000"].map(Into::into).to_vec();
            server.spawn();
        }
        for server in &servers {
            server.wait_for();
        }
        servers
    }

    fn member(name: &str, client: u16, peer: u16, cluster: Option<String>) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            name: name.to_owned(),
            client,
            peer,
            cluster: cluster.unwrap_or_else(|| format!("{name}=http://127.0.0.1:{peer}")),
            extra: Vec::new(),
            generation: 0,
            child: None,
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join(format!("data-{}", self.generation))
    }

    /// Starts it where it was, and waits until it answers.
    pub fn run(&mut self) {
        self.spawn();
        self.wait_for();
    }

    fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.directory.path().join("log")).unwrap();
        let tls = self.extra.iter().any(|argument| argument == "--cert-file");
        let url = if tls { self.url().replace("http://", "https://") } else { self.url() };
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let mut command = Command::new("etcd");
        command
            .args(["--name", &self.name, "--data-dir"])
            .arg(self.data())
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.cluster])
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.child = Some(ChildGuard::spawn(&mut command));
    }

    fn wait_for(&self) {
        until("etcd listens", || std::net::TcpStream::connect(("127.0.0.1", self.client)).is_ok());
        if !self.extra.iter().any(|argument| argument == "--cert-file") {
            until("etcd answers", || self.try_ctl(&["get", "anything"], None).status.success());
        }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child = None;
    }

    fn signal(&self, signal: Signal) {
        self.child.as_ref().unwrap().signal(signal);
    }

    /// It is there, and does nothing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Another, empty store at the same address. `etcd --initial-cluster-token` tells it from the one before where asked.
    pub fn wipe(&mut self) {
        self.kill();
        fs::remove_dir_all(self.data()).unwrap();
        self.generation += 1;
        self.run();
    }

    /// Saves a backup.
    pub fn save(&self, to: &Path) {
        self.ctl(&["snapshot", "save", &to.display().to_string()]);
    }

    /// The store as it was when it was saved, at the same address.
    pub fn restore(&mut self, from: &Path) {
        self.kill();
        fs::remove_dir_all(self.data()).unwrap();
        self.generation += 1;
        let data = self.data().display().to_string();
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let from = from.display().to_string();
        let args = ["snapshot", "restore", &from, "--name", &self.name, "--data-dir", &data];
        let cluster = ["--initial-cluster", &self.cluster, "--initial-advertise-peer-urls", &peer];
        let output = self.try_ctl(&[&args[..], &cluster[..]].concat(), None);
        assert!(output.status.success(), "{}", words(&output));
        self.run();
    }

    /// Runs etcdctl.
    pub fn try_ctl(&self, args: &[&str], input: Option<&str>) -> Output {
        ctl(&[&["--endpoints", &self.url()], args].concat(), input)
    }

    /// Runs etcdctl, which must work.
    pub fn ctl(&self, args: &[&str]) -> String {
        let output = self.try_ctl(args, None);
        assert!(output.status.success(), "etcdctl {args:?}: {}", words(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `etcdctl put`, from standard input as the README has it; the revision.
    pub fn put(&self, key: &str, value: &str) -> i64 {
        let output = self.try_ctl(&["put", key, "-w", "json"], Some(value));
        assert!(output.status.success(), "put {key}: {}", words(&output));
        revision(&output)
    }

    /// `etcdctl del`; the revision.
    pub fn delete(&self, key: &str) -> i64 {
        revision(&self.try_ctl(&["del", key, "-w", "json"], None))
    }

    /// The store's revision.
    pub fn revision(&self) -> i64 {
        revision(&self.try_ctl(&["get", "anything", "-w", "json"], None))
    }
}

fn revision(output: &Output) -> i64 {
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    answer["header"]["revision"].as_i64().unwrap_or_else(|| panic!("{}", words(output)))
}

/// Runs etcdctl with these arguments alone.
pub fn ctl(args: &[&str], input: Option<&str>) -> Output {
    let mut child = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--command-timeout", "60s", "--dial-timeout", "30s"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // One that reads nothing may have ended before.
    let _ = stdin.write_all(input.unwrap_or_default().as_bytes());
    drop(stdin);
    child.wait_with_output().unwrap()
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if self.child.is_some() && std::thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            eprintln!("etcd {} said last:\n{}", self.name, last.join("\n"));
        }
        self.kill();
    }
}
