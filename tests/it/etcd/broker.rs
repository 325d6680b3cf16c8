//! A broker that follows etcd.

use std::fs;
use std::net::{IpAddr, TcpStream};
use std::ops::{Deref, DerefMut};

use crate::support::weir::Weir;

/// A broker with data and a status server.
pub struct Broker {
    weir: Weir,
    pub name: String,
    /// Of its own, so that brokers on one machine have the same ports.
    pub host: IpAddr,
}

impl Broker {
    /// A broker called `n<number>` on 127.0.0.`number + 1`, with more arguments.
    pub fn start(number: u8, etcd: &str, more: &[&str]) -> Self {
        let (name, host) = (format!("n{number}"), IpAddr::from([127, 0, 0, number + 1]));
        let mut weir = Weir::new().with_etcd(etcd).with_data().with_status().with_shards(1);
        if !more.contains(&"--node-name") {
            weir = weir.with_arguments(&["--node-name", &name]);
        }
        // No periodic pass: every change must arrive by the watch.
        weir = weir.with_arguments(&["--host", &host.to_string(), "--resync-s", "3600"]).with_arguments(more);
        let mut broker = Self { weir, name, host };
        broker.run();
        broker
    }

    /// Three brokers with data directories.
    pub fn three(etcd: &str) -> Vec<Self> {
        (1..=3).map(|number| Self::start(number, etcd, &[])).collect()
    }

    /// Starts it, as it was started before.
    pub fn run(&mut self) {
        self.weir.run();
        self.until("the status answers", || !self.get("/livez").is_null());
    }

    /// Whether it has kept an endpoint for a start without a store; at once, or within half a second of the write before.
    pub fn has_kept(&self, name: &str) -> bool {
        let kept = fs::read_to_string(self.data().join("last-known-good.json"));
        kept.is_ok_and(|kept| kept.contains(&format!("\"{name}\"")))
    }

    /// Whether it has kept that deletions are held.
    pub fn has_kept_held(&self) -> bool {
        let kept = fs::read_to_string(self.data().join("last-known-good.json"));
        kept.is_ok_and(|kept| kept.contains("\"cause\":\"deletion\""))
    }

    /// Whether it accepts connections at a port.
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

    /// The kind of the source's error.
    pub fn source_error(&self) -> Option<String> {
        self.get("/api/source")["trouble"]["kind"].as_str().map(ToOwned::to_owned)
    }

    /// How often the source was in this kind of error.
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
}

impl Deref for Broker {
    type Target = Weir;

    fn deref(&self) -> &Weir {
        &self.weir
    }
}

impl DerefMut for Broker {
    fn deref_mut(&mut self) -> &mut Weir {
        &mut self.weir
    }
}
