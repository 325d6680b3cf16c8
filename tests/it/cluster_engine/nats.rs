//! nats-server as a process, one or a cluster of three.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::programs;
use crate::support::child::ChildGuard;
use crate::support::{ports, until};

pub fn program() -> PathBuf {
    programs::tools().join("nats/bin/nats-server")
}

/// Whether nats-server is there. Where it is not, the test fails, unless nothing may be installed.
pub fn is_there() -> bool {
    programs::is_there(&program())
}

/// One nats-server. It ends when this is dropped.
pub struct Nats {
    /// First, so that the process ends before its directory.
    child: Option<ChildGuard>,
    directory: TempDir,
    pub name: String,
    pub port: u16,
    route: u16,
    configuration: String,
}

impl Nats {
    /// A server by itself with JetStream.
    pub fn start() -> Self {
        Self::start_with("jetstream { store_dir: STORE }\n")
    }

    /// A server by itself, with this configuration. `STORE` stands for a directory of its own.
    pub fn start_with(configuration: &str) -> Self {
        let mut server = Self::new("n0");
        server.configuration = configuration.to_owned();
        server.run();
        server
    }

    /// Three servers of one cluster with JetStream.
    pub fn three() -> Vec<Self> {
        let mut servers: Vec<Self> = (0..3).map(|at| Self::new(&format!("n{at}"))).collect();
        let routes: Vec<String> = servers.iter().map(|each| format!("\"nats://127.0.0.1:{}\"", each.route)).collect();
        for server in &mut servers {
            server.configuration = format!(
                "jetstream {{ store_dir: STORE }}\ncluster {{ name: test, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
                server.route,
                routes.join(", ")
            );
            server.spawn();
        }
        servers.iter().for_each(Self::wait);
        servers
    }

    fn new(name: &str) -> Self {
        Self {
            child: None,
            directory: tempfile::tempdir().unwrap(),
            name: name.to_owned(),
            port: ports::free(),
            route: ports::free(),
            configuration: String::new(),
        }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Starts the process on its old ports and waits until it listens.
    pub fn run(&mut self) {
        self.spawn();
        self.wait();
    }

    fn spawn(&mut self) {
        let store = format!("\"{}\"", self.directory.path().join("store").display());
        let mut text = format!("server_name: {}\nlisten: \"127.0.0.1:{}\"\n", self.name, self.port);
        write!(text, "{}", self.configuration.replace("STORE", &store)).unwrap();
        let path = self.directory.path().join("nats.conf");
        fs::write(&path, text).unwrap();
        let log = File::options().create(true).append(true).open(self.directory.path().join("log")).unwrap();
        let mut command = Command::new(program());
        command.arg("-c").arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(ChildGuard::spawn(&mut command));
    }

    fn wait(&self) {
        until(
            &format!("{} listens", self.name),
            || fs::read_to_string(self.directory.path().join("log")).unwrap_or_default(),
            || TcpStream::connect(("127.0.0.1", self.port)).is_ok(),
        );
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child = None;
    }

    /// `kill -9`, and its files are gone.
    pub fn wipe(&mut self) {
        self.kill();
        fs::remove_dir_all(self.directory.path().join("store")).unwrap();
    }

    pub fn stop(&self) {
        self.child.as_ref().unwrap().signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.child.as_ref().unwrap().signal(Signal::CONT);
    }
}
