//! The broker under attack.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::probe;
use crate::net::tls::Authority;
use crate::support::ports;

/// Name and fields of each endpoint. The bounds that an operator has to choose are chosen here.
const ENDPOINTS: &[(&str, &str)] = &[
    ("probe", "auth: anybody"),
    ("storm", "auth: anybody, maxConnectionSize: 19000, serverOptions: {backlog: 4096}"),
    ("slow", "auth: anybody, connectTimeoutMs: 5000"),
    ("tls", "auth: anybody, connectTimeoutMs: 5000, sslConfig: {certFile: server.crt, keyFile: server.key}"),
    ("websocket", "auth: anybody, connectTimeoutMs: 5000, useWebsocket: true, path: /mqtt"),
    ("readers", "auth: anybody, maxInflight: 20, maxQueuedMessages: 100"),
    ("guarded", "auth: guarded"),
    ("passwords", "auth: people"),
];

const AUTHS: &str = "auth: {name: anybody, chain: [{anonymous: {}}]}\n---\n\
    auth: {name: guarded, chain: [{passwordFile: {file: users}}]}\n---\n\
    auth: {name: people, chain: [{passwordFile: {file: users}}], rateLimit: {maxFailures: 1000000, windowS: 60}}\n";

/// Names the broker to attack, where it is not the one that was built with the tests: a release build.
const PROGRAM: &str = "WEIR_ADVERSARY_BROKER";

/// How long something that must happen may take on a slow machine.
const GUARD: Duration = Duration::from_secs(60);

pub struct Target {
    place: tempfile::TempDir,
    process: Child,
    endpoints: HashMap<&'static str, SocketAddr>,
    peak: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Target {
    pub fn start() -> Target {
        Self::with_descriptors(0)
    }

    /// With at most so many file descriptors; 0: as many as the system gives.
    pub fn with_descriptors(most: u32) -> Target {
        let place = tempfile::tempdir().unwrap();
        let server = Authority::new().issue("server", &["localhost"], 1);
        let mut documents = AUTHS.to_owned();
        let mut endpoints = HashMap::new();
        for (name, fields) in ENDPOINTS {
            let address = ports::free_address();
            let port = address.port();
            documents.push_str(&format!(
                "---\nendpoint: {{name: {name}, host: 127.0.0.1, port: {port}, enableAcl: false, {fields}}}\n"
            ));
            endpoints.insert(*name, address);
        }
        let hash = weirmq::auth::PasswordHash::create(b"secret").unwrap();
        for (name, content) in [
            ("documents.yaml", documents),
            ("server.crt", server.chain_pem.clone()),
            ("server.key", server.key_pem.clone()),
            ("users", format!("alice:{hash}\n")),
        ] {
            std::fs::write(place.path().join(name), content).unwrap();
        }
        let log = std::fs::File::create(place.path().join("log")).unwrap();
        let limit = if most > 0 { format!("ulimit -n {most}; ") } else { String::new() };
        let process = Command::new("sh")
            .args(["-c", &format!("{limit}exec \"$0\" \"$@\"")])
            .arg(std::env::var_os(PROGRAM).unwrap_or_else(|| env!("CARGO_BIN_EXE_weir").into()))
            .args(["run", "--status-addr", "none", "--shards", "2", "--endpoints"])
            .arg(place.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let (peak, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let target = Target { place, process, endpoints, peak, ended };
        let deadline = Instant::now() + GUARD;
        while target.endpoints.values().any(|address| TcpStream::connect(address).is_err()) {
            assert!(Instant::now() < deadline, "it does not listen:\n{}", target.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        target.watch();
        target
    }

    pub fn address(&self, endpoint: &str) -> SocketAddr {
        self.endpoints[endpoint]
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    pub fn resident_bytes(&self) -> usize {
        resident_bytes(self.process.id()).unwrap_or_else(|| panic!("the broker has ended:\n{}", self.log()))
    }

    pub fn until_resident_below(&self, bytes: usize) {
        let deadline = Instant::now() + GUARD;
        while self.resident_bytes() > bytes {
            let resident = self.resident_bytes();
            assert!(Instant::now() < deadline, "{resident} bytes stay resident:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn watch(&self) {
        let (pid, peak, ended) = (self.process.id(), Arc::clone(&self.peak), Arc::clone(&self.ended));
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                peak.fetch_max(resident_bytes(pid).unwrap_or_default(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    }

    pub fn forget_peak(&self) {
        self.peak.store(0, Ordering::Relaxed);
    }

    pub fn peak_bytes(&self) -> usize {
        self.peak.load(Ordering::Relaxed).max(self.resident_bytes())
    }

    /// Every endpoint without TLS, WebSocket and passwords lets a new client in.
    pub fn serves_everywhere(&self) {
        for endpoint in ["probe", "storm", "slow", "readers"] {
            let deadline = Instant::now() + GUARD;
            while probe::connect(self.address(endpoint), "late").is_none() {
                assert!(Instant::now() < deadline, "{endpoint} lets nobody in any more:\n{}", self.log());
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // It may have ended by itself, which the tests find out.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn resident_bytes(pid: u32) -> Option<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kib| kib * 1024)
}
