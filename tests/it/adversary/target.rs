//! The broker under attack.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::probe;
use crate::net::floods::rsa_identity;
use crate::net::tls::Authority;
use crate::support::child::resident_bytes;
use crate::support::ports;
use crate::support::weir::Weir;

/// Name and fields of each endpoint. The bounds that an operator has to choose are chosen here.
const ENDPOINTS: &[(&str, &str)] = &[
    ("probe", "auth: anybody"),
    ("storm", "auth: anybody, maxConnectionSize: 19000, serverOptions: {backlog: 4096}"),
    ("slow", "auth: anybody, connectTimeoutMs: 5000"),
    ("tls", "auth: anybody, connectTimeoutMs: 5000, sslConfig: {certFile: server.crt, keyFile: server.key}"),
    ("rsa", "auth: anybody, sslConfig: {certFile: rsa.crt, keyFile: rsa.key}"),
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

pub struct Target {
    weir: Weir,
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
        let server = Authority::new().issue("server", &["localhost"], 1);
        let (rsa_certificate, rsa_key) =
            rsa_identity(2048).unwrap_or_else(|| (server.chain_pem.clone(), server.key_pem.clone()));
        let mut documents = AUTHS.to_owned();
        let (endpoint_documents, endpoints) = ports::endpoint_documents(ENDPOINTS);
        documents.push_str(&endpoint_documents);
        let hash = weirmq::auth::PasswordHash::create(b"secret").unwrap();
        let program = std::env::var_os(PROGRAM).into_iter();
        // What the broker takes by itself on a machine with 1 GiB.
        let weir = Weir::new().with_shards(2).with_arguments(&["--memory", "768MiB"]);
        let weir = program.fold(weir, Weir::with_program);
        let weir = if most > 0 { weir.with_descriptor_limit(most) } else { weir };
        let mut weir = weir.with_files(&[
            ("documents.yaml", &documents),
            ("server.crt", &server.chain_pem),
            ("server.key", &server.key_pem),
            ("rsa.crt", &rsa_certificate),
            ("rsa.key", &rsa_key),
            ("users", &format!("alice:{hash}\n")),
        ]);
        weir.run_until_accepting(&endpoints.values().copied().collect::<Vec<_>>());
        let (peak, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let target = Target { weir, endpoints, peak, ended };
        target.watch();
        target
    }

    pub fn address(&self, endpoint: &str) -> SocketAddr {
        self.endpoints[endpoint]
    }

    pub fn resident_bytes(&self) -> usize {
        self.weir.resident_bytes()
    }

    pub fn until_resident_below(&self, bytes: usize) {
        self.weir.until(&format!("less than {bytes} bytes are resident"), || self.resident_bytes() <= bytes);
    }

    fn watch(&self) {
        let (pid, peak, ended) = (self.weir.id(), Arc::clone(&self.peak), Arc::clone(&self.ended));
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
            self.weir.until(&format!("{endpoint} admits a new client"), || {
                probe::connect(self.address(endpoint), "late").is_some()
            });
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}
