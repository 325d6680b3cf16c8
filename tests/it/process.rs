//! The built broker as a process, with endpoints for the tests.

use std::collections::HashMap;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::ports;

/// How long a broker may take to listen.
const START_GUARD: Duration = Duration::from_secs(60);

/// The endpoints that every broker of the tests has: name, and fields beside port and host. `memory.rs` has the same.
const ENDPOINTS: &[(&str, &str)] = &[
    ("default", ""),
    ("small", "receiveMaximum: 2, messageMaxSize: 1024, topicAliasMaximum: 3"),
    (
        "limited",
        "keepAliveMaxS: 60, sessionExpiryMaxS: 100, maximumQos: 1, retainAvailable: false, topicAliasMaximum: 0",
    ),
    ("rules", "enableAcl: true"),
    ("websocket", "useWebsocket: true, path: /mqtt"),
    ("scram", "enableAuth: true, auth: scram"),
];

const AUTH: &str = "auth: {name: scram, chain: [{scram: {file: users.scram}}]}\n";

/// Scripts that share a broker put their topics one level down.
const ACL: &str = "acl: {name: default, noMatch: allow, rules: [{permission: deny, action: all, \
                   topics: [\"denied/#\", \"+/denied/#\"]}]}\n";

/// A running broker. It ends when this is dropped.
pub struct Broker {
    child: Child,
    directory: TempDir,
    endpoints: HashMap<String, SocketAddr>,
}

impl Broker {
    /// Starts a broker of `shards` shards and waits until it listens.
    pub fn start(shards: u16) -> Broker {
        // A port that was free may be taken before the broker binds it: then another is tried.
        for _ in 0..5 {
            if let Some(broker) = Broker::try_start(shards) {
                return broker;
            }
        }
        panic!("the broker does not start");
    }

    fn try_start(shards: u16) -> Option<Broker> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let declared = directory.path().join("endpoints.d");
        std::fs::create_dir(&declared).expect("a directory");
        let mut endpoints = HashMap::new();
        for (name, fields) in ENDPOINTS {
            let address = ports::free_address();
            let acl = if fields.contains("enableAcl") { "" } else { "enableAcl: false, " };
            let auth = if fields.contains("enableAuth") { "" } else { "enableAuth: false, " };
            let document = format!("endpoint: {{host: 127.0.0.1, port: {}, {auth}{acl}{fields}}}\n", address.port());
            std::fs::write(declared.join(format!("{name}.yaml")), document).expect("a document");
            endpoints.insert((*name).to_owned(), address);
        }
        std::fs::write(declared.join("acl.yaml"), ACL).expect("a document");
        std::fs::write(declared.join("auth.yaml"), AUTH).expect("a document");
        std::fs::write(declared.join("users.scram"), crate::scram::users()).expect("the users");
        let log = File::create(directory.path().join("log")).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["run", "--status-addr", "none", "--shards", &shards.to_string(), "--endpoints"])
            .arg(&declared)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the broker");
        let mut broker = Broker { child, directory, endpoints };
        broker.listens().then_some(broker)
    }

    fn listens(&mut self) -> bool {
        let deadline = Instant::now() + START_GUARD;
        let mut waiting: Vec<SocketAddr> = self.endpoints.values().copied().collect();
        while !waiting.is_empty() {
            waiting.retain(|address| TcpStream::connect(address).is_err());
            let log = self.log();
            if log.contains("in use") {
                return false;
            }
            let is_late = Instant::now() > deadline;
            assert!(self.is_alive() && !is_late, "the broker does not listen on {waiting:?}:\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Its endpoints by name.
    pub fn endpoints(&self) -> &HashMap<String, SocketAddr> {
        &self.endpoints
    }

    /// The address of an endpoint.
    pub fn address(&self, endpoint: &str) -> SocketAddr {
        self.endpoints[endpoint]
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Its resident memory in bytes.
    pub fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let kib: usize = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
        kib * 1024
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
