//! Three nodes on loopback that are one broker: three of Weir with three nats-servers, or three nats-servers with MQTT.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::brokers::{Kind, Running, Spec, free_port};
use crate::config;
use crate::rows::{Settings, client};
use crate::transport::Listener;

/// How many nodes, and how many nats-servers.
pub const NODES: usize = 3;
/// How long a cluster may take until a node admits clients.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a node does right after it has come in is not measured.
const SETTLE: Duration = Duration::from_secs(3);

/// A cluster that runs. The nodes end before their nats-servers.
pub struct Cluster<'a> {
    pub nodes: Vec<Running>,
    servers: Vec<Running>,
    urls: String,
    settings: &'a Settings,
    spec: &'a Spec,
}

/// Where one of the servers listens.
#[derive(Clone, Copy)]
struct Ports {
    clients: u16,
    routes: u16,
    mqtt: u16,
}

impl<'a> Cluster<'a> {
    /// Starts it, and waits until every node admits clients.
    pub fn start(settings: &'a Settings, spec: &'a Spec) -> Result<Self> {
        let with_mqtt = spec.kind == Kind::Nats;
        let server = if with_mqtt { spec.clone() } else { nats_server()? };
        let ports: Vec<Ports> = (0..NODES)
            .map(|_| Ok(Ports { clients: free_port()?, routes: free_port()?, mqtt: free_port()? }))
            .collect::<Result<_>>()?;
        let servers = (0..NODES).map(|at| start_server(&server, &ports, at, with_mqtt)).collect::<Result<Vec<_>>>()?;
        let urls: Vec<String> = ports.iter().map(|each| format!("nats://127.0.0.1:{}", each.clients)).collect();
        let mut cluster = Self { nodes: Vec::new(), servers, urls: urls.join(","), settings, spec };
        if with_mqtt {
            cluster.nodes = std::mem::take(&mut cluster.servers);
        } else {
            cluster.nodes = (0..NODES).map(|at| cluster.start_node(at)).collect::<Result<_>>()?;
        }
        cluster.nodes.iter().try_for_each(until_it_admits)?;
        std::thread::sleep(SETTLE);
        Ok(cluster)
    }

    /// Starts one node more, and waits until it admits clients.
    pub fn join(&self) -> Result<Running> {
        let node = self.start_node(self.nodes.len())?;
        until_it_admits(&node)?;
        Ok(node)
    }

    fn start_node(&self, at: usize) -> Result<Running> {
        let dir = TempDir::with_prefix("weir-bench-").context("a directory for the node")?;
        let port = free_port()?;
        let mut command = config::prepare(self.spec, Listener::Plain, port, dir.path(), &self.settings.certificates)?;
        command.args(["--cluster", &self.urls, "--cluster-name", "bench", "--node-name", &format!("node{at}")]);
        self.spec.spawn(&mut command, port, dir)
    }

    /// All processes of it.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().chain(&self.servers).map(Running::pid).collect()
    }

    /// Each node, and each node's neighbour.
    pub fn neighbours(&self) -> (Vec<&Running>, Vec<&Running>) {
        let far = (0..self.nodes.len()).map(|at| &self.nodes[(at + 1) % self.nodes.len()]).collect();
        (self.nodes.iter().collect(), far)
    }
}

/// nats-server for the nodes of Weir.
fn nats_server() -> Result<Spec> {
    let installed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/peers");
    Spec::peer("nats-server", &installed).context("nats-server is not installed: tests/setup does it")
}

fn start_server(spec: &Spec, all: &[Ports], at: usize, with_mqtt: bool) -> Result<Running> {
    let dir = TempDir::with_prefix("weir-bench-").context("a directory for nats-server")?;
    let ports = all[at];
    let routes: Vec<String> = all.iter().map(|each| format!("\"nats://127.0.0.1:{}\"", each.routes)).collect();
    let mqtt = if with_mqtt { format!("mqtt {{ listen: \"127.0.0.1:{}\" }}\n", ports.mqtt) } else { String::new() };
    let text = format!(
        "server_name: n{at}\nlisten: \"127.0.0.1:{}\"\njetstream {{ store_dir: \"{}\" }}\n\
         cluster {{ name: bench, listen: \"127.0.0.1:{}\", routes: [{}] }}\n{mqtt}",
        ports.clients,
        dir.path().join("store").display(),
        ports.routes,
        routes.join(", ")
    );
    let path = dir.path().join("nats.conf");
    fs::write(&path, text).context("nats.conf")?;
    let mut command = Command::new(&spec.program);
    command.arg("-c").arg(path);
    spec.spawn(&mut command, if with_mqtt { ports.mqtt } else { ports.clients }, dir)
}

/// A node that has not come in yet refuses clients.
fn until_it_admits(node: &Running) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = client(node.address(), "probe") {
        if Instant::now() > deadline {
            bail!("a node admits no clients ({error:#}); its last words:\n{}", node.log_tail());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
