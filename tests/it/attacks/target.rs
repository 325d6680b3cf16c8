//! The broker under attack: default declarations, one shard, 1 GiB of memory.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::http_service::HttpService;
use super::probe::{PASSWORD, USER};
use crate::support::child::resident_bytes;
use crate::support::ports;
use crate::support::weir::{PROGRAM, Weir, command};

/// Memory that the broker can get: its limit of writable private memory. The address space (RLIMIT_AS) would be the wrong
/// measure: an idle broker has 570 MiB of it and uses 20, since the allocator reserves 64 MiB for each thread's arena.
const MEMORY_BYTES: usize = 1 << 30;
/// Names the broker to attack, where it is not the one that was built with the tests.
const BROKER: &str = "WEIR_ATTACK_BROKER";
/// Time between two measurements of the resident memory.
const WATCH_EVERY: Duration = Duration::from_millis(20);

/// Endpoints by name, and their fields besides host and port. Nothing here limits anything.
const ENDPOINTS: &[(&str, &str)] = &[
    ("probe", "auth: people"),
    ("open", "auth: anonymous"),
    ("people", "auth: people"),
    ("http", "auth: http"),
    ("tls", "auth: anonymous, sslConfig: {certFile: server.crt, keyFile: server.key}"),
];

/// A running broker. It ends with the value.
pub struct Target {
    weir: Weir,
    endpoints: HashMap<&'static str, SocketAddr>,
    _service: HttpService,
    peak: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Target {
    /// Starts the broker; with the ban of flapping clients, which has no default, in its default form.
    pub fn start() -> Target {
        let service = HttpService::start();
        let mut documents = format!(
            "auth: {{name: anonymous, chain: [{{anonymous: {{}}}}]}}\n---\n\
             auth: {{name: people, chain: [{{passwordFile: {{file: users}}}}]}}\n---\n\
             auth: {{name: http, chain: [{{http: {{url: 'http://{}/'}}}}]}}\n---\n\
             ban: {{name: flapping, flapping: {{}}}}\n",
            service.address()
        );
        let (endpoint_documents, endpoints) = ports::endpoint_documents(ENDPOINTS);
        documents.push_str(&endpoint_documents);
        // One shard: attackers and probes share an event loop, as on a machine with one core.
        let weir = Weir::new().with_status().with_shards(1);
        let program = write_limiting_program(weir.directory());
        let mut weir = weir.with_program(program.into());
        write_passwords(&weir.endpoints().join("users"));
        write_rsa_certificate(&weir.endpoints());
        weir.write("documents.yaml", &documents);
        weir.run_until_accepting(&endpoints.values().copied().collect::<Vec<_>>());
        let target = Target { weir, endpoints, _service: service, peak: Arc::default(), ended: Arc::default() };
        target.watch();
        target
    }

    pub fn address(&self, endpoint: &str) -> SocketAddr {
        self.endpoints[endpoint]
    }

    pub fn status(&self) -> SocketAddr {
        self.weir.status()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.weir.id()
    }

    /// `None`: the broker has ended.
    pub fn resident_bytes(&self) -> Option<usize> {
        resident_bytes(self.weir.id())
    }

    /// The most that was resident since the last call.
    pub fn take_peak_bytes(&self) -> usize {
        self.peak.swap(0, Ordering::Relaxed)
    }

    pub fn has_ended(&mut self) -> bool {
        self.weir.has_ended()
    }

    fn watch(&self) {
        let (id, peak, ended) = (self.weir.id(), Arc::clone(&self.peak), Arc::clone(&self.ended));
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                peak.fetch_max(resident_bytes(id).unwrap_or_default(), Ordering::Relaxed);
                std::thread::sleep(WATCH_EVERY);
            }
        });
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// A program that limits its memory and becomes the broker, which sees the limit from its start on.
fn write_limiting_program(directory: &Path) -> PathBuf {
    let broker = std::env::var(BROKER).unwrap_or_else(|_| PROGRAM.to_owned());
    let file = directory.join("limited-weir");
    fs::write(&file, format!("#!/bin/sh\nulimit -d {}\nexec '{broker}' \"$@\"\n", MEMORY_BYTES >> 10)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    file
}

/// A password file with Argon2id hashes, as an operator makes it.
fn write_passwords(file: &Path) {
    for user in [USER, "alice", "bob"] {
        let mut passwd = command();
        passwd.arg("passwd").arg(file).arg(user).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = passwd.spawn().unwrap();
        writeln!(child.stdin.take().unwrap(), "{PASSWORD}").unwrap();
        assert!(child.wait().unwrap().success(), "weir passwd");
    }
}

/// A certificate with an RSA key of 2,048 bits.
fn write_rsa_certificate(directory: &Path) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-nodes", "-subj", "/CN=localhost", "-newkey", "rsa:2048"]);
    openssl.arg("-keyout").arg(directory.join("server.key")).arg("-out").arg(directory.join("server.crt"));
    let output = openssl.output().expect("openssl is installed (tests/run does that)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
