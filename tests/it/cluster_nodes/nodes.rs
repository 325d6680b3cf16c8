//! Brokers of one cluster as processes.

use std::net::{SocketAddr, TcpStream};

use crate::cluster_engine::nats::Nats;
use crate::support::client::{Client, connect};
use crate::support::weir::Weir;
use crate::support::{GUARD, ports};
use crate::wire::{Packet, Version};

/// Endpoints of each node: one of the shared namespace, and one with a mountpoint of its own.
const NODE_ENDPOINTS: [(&str, &str); 2] = [("default", ""), ("apart", "mountpoint: apart/, ")];

/// Elections of the engine take some seconds: the clients of a test stay connected.
const CLUSTER_DOCUMENT: &str = "cluster: {isolation: {disconnectAfterS: 60}}\n";

/// A broker of a cluster.
pub struct Node {
    pub weir: Weir,
    pub name: String,
    /// Its address for clients of the shared namespace, the same one after a restart.
    pub address: SocketAddr,
    /// Its address for clients with a mountpoint.
    pub apart: SocketAddr,
}

impl Node {
    /// A broker that uses these servers. It does not run yet.
    pub fn new(name: &str, servers: &[Nats]) -> Self {
        Self::with_durability(name, servers, "memory")
    }

    /// As [`Node::new`], with a data directory: sessions and messages are on disk.
    pub fn durable(name: &str, servers: &[Nats]) -> Self {
        let node = Self::with_durability(name, servers, "disk");
        Self { weir: node.weir.with_data(), ..node }
    }

    fn with_durability(name: &str, servers: &[Nats], durability: &str) -> Self {
        let urls: Vec<String> = servers.iter().map(Nats::url).collect();
        let replicas = servers.len().to_string();
        let mut addresses = Vec::new();
        let mut documents = String::new();
        for (endpoint, fields) in NODE_ENDPOINTS {
            let address = ports::free_address();
            documents.push_str(&format!(
                "---\nendpoint: {{name: {endpoint}, host: 127.0.0.1, port: {}, enableAuth: false, enableAcl: false, \
                 {fields}durability: {durability}, messageMaxSize: 16777216}}\n",
                address.port()
            ));
            addresses.push(address);
        }
        let weir = Weir::new()
            .with_status()
            .with_file("endpoints.yaml", &documents)
            .with_file("cluster.yaml", CLUSTER_DOCUMENT)
            .with_arguments(&[
                "--node-name",
                name,
                "--cluster",
                &urls.join(","),
                "--cluster-name",
                "test",
                "--cluster-replicas",
                &replicas,
            ]);
        Self { weir, name: name.to_owned(), address: addresses[0], apart: addresses[1] }
    }

    /// Starts the process and waits until it serves clients.
    pub fn start(&mut self) {
        self.weir.run();
        self.until_serving();
    }

    /// Waits until a client is admitted.
    pub fn until_serving(&mut self) {
        let address = self.address;
        self.weir.until_running("the node serves clients", |_| connect_code(address) == Some(0));
    }

    /// Waits until the log has a line with all of these words.
    pub fn until_logged(&self, words: &[&str]) {
        self.weir.until(&format!("{} logs {words:?}", self.name), || self.has_logged(words));
    }

    /// Whether the log has a line with all of these words.
    pub fn has_logged(&self, words: &[&str]) -> bool {
        self.logged(words) > 0
    }

    /// How many lines of the log have all of these words.
    pub fn logged(&self, words: &[&str]) -> usize {
        self.weir.log().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// A client that was admitted.
    pub fn client(&self, version: Version, id: &str) -> Client {
        // A client id has one connection in the whole cluster.
        Client::connect(self.address, version, &format!("{id}-{}", self.address.port()))
    }
}

/// The reason code of CONNACK; `None`: there is no answer.
pub fn connect_code(address: SocketAddr) -> Option<u8> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(GUARD)).ok()?;
    let mut client = Client::over(stream, Version::V5);
    client.send(&connect(Version::V5, "probe", Vec::new()));
    match client.receive()? {
        Packet::ConnAck { code, .. } => Some(code),
        _ => None,
    }
}

/// A cluster. Its brokers end before its servers.
pub struct Nodes {
    pub nodes: Vec<Node>,
    pub servers: Vec<Nats>,
}

impl Nodes {
    /// So many brokers, named n1 and so on, and one nats-server.
    pub fn start(count: usize) -> Self {
        Self::start_on(vec![Nats::start()], count)
    }

    /// So many brokers on these servers.
    pub fn start_on(servers: Vec<Nats>, count: usize) -> Self {
        let nodes = (1..=count).map(|number| Node::new(&format!("n{number}"), &servers)).collect();
        Self::start_nodes(servers, nodes)
    }

    /// These brokers on these servers.
    pub fn start_nodes(servers: Vec<Nats>, mut nodes: Vec<Node>) -> Self {
        nodes.iter_mut().for_each(|node| node.weir.run());
        nodes.iter_mut().for_each(Node::until_serving);
        Self { nodes, servers }
    }
}
