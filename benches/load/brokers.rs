//! The brokers on the bench: how each is found, configured alike, started and stopped.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::config;
use crate::rows::NGINX_STREAM;
use crate::tls::Certificates;
use crate::transport::Listener;

/// A kind of broker: decides configuration and command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Weir {
        shards: u16,
    },
    Mosquitto,
    Rumqttd,
    Rmqttd,
    /// Proxies, beside which changes of listeners are measured.
    Nginx,
    Haproxy,
    /// NATS's own MQTT; in the rows of a cluster alone.
    Nats,
    /// A command line with `{port}` (and `{dir}`, an empty directory) in it; plain TCP only.
    Template(String),
}

/// A broker that can be started.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: String,
    pub kind: Kind,
    pub program: PathBuf,
}

/// Where `tests/setup` puts nats-server, beside the peers.
const NATS_FOLDER: &str = "test-tools/nats/bin";
/// How long a broker may take to answer after its start.
const START_PATIENCE: Duration = Duration::from_secs(20);

impl Spec {
    /// Weir itself.
    pub fn weir(program: &Path, shards: u16) -> Spec {
        let name = if shards == 1 { "weir".to_owned() } else { format!("weir-{shards}-shards") };
        Spec { name, kind: Kind::Weir { shards }, program: program.to_owned() }
    }

    /// A peer by its name, where it is installed: on the path, in the system's directories or in `installed`.
    pub fn peer(name: &str, installed: &Path) -> Option<Spec> {
        let kind = match name {
            "mosquitto" => Kind::Mosquitto,
            "rumqttd" => Kind::Rumqttd,
            "rmqttd" => Kind::Rmqttd,
            "nginx" if Path::new(NGINX_STREAM).is_file() => Kind::Nginx,
            "haproxy" => Kind::Haproxy,
            "nats-server" => Kind::Nats,
            _ => return None,
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = vec![installed.join("bin"), installed.with_file_name(NATS_FOLDER)];
        folders.extend(std::env::split_paths(&path));
        folders.push(PathBuf::from("/usr/sbin"));
        let program = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file())?;
        Some(Spec { name: name.to_owned(), kind, program })
    }

    /// Whether the bench knows how to make it listen so.
    pub fn supports(&self, listener: Listener) -> bool {
        match self.kind {
            Kind::Weir { .. } | Kind::Mosquitto => true,
            Kind::Rumqttd | Kind::Rmqttd | Kind::Template(_) => listener == Listener::Plain,
            Kind::Nginx | Kind::Haproxy | Kind::Nats => false,
        }
    }

    /// Its version as it reports it, or "unknown".
    pub fn version(&self) -> String {
        let flag = match self.kind {
            Kind::Template(_) => return "unknown".to_owned(),
            Kind::Mosquitto => "-h",
            Kind::Nginx | Kind::Haproxy => "-v",
            _ => "--version",
        };
        let Ok(output) = Command::new(&self.program).arg(flag).stdin(Stdio::null()).output() else {
            return "unknown".to_owned();
        };
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
        text.split([' ', '/', '-', '\n', 'v']).find(is_version).unwrap_or("unknown").to_owned()
    }

    /// Starts it with one listener and waits until that accepts.
    pub fn start(&self, listener: Listener, certificates: &Certificates) -> Result<Running> {
        let dir = TempDir::with_prefix("weir-bench-").context("a directory for the broker")?;
        let port = free_port()?;
        let mut command = config::prepare(self, listener, port, dir.path(), certificates)?;
        self.spawn(&mut command, port, dir)
    }

    /// Starts a prepared command and waits until `port` accepts.
    pub fn spawn(&self, command: &mut Command, port: u16, dir: TempDir) -> Result<Running> {
        let log = dir.path().join("log");
        let output = File::create(&log).context("the broker's log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let mut running = Running { child, port, dir };
        running.wait_until_it_accepts().with_context(|| format!("{} does not answer", self.name))?;
        Ok(running)
    }
}

/// A started broker; killed when dropped.
pub struct Running {
    child: Child,
    pub port: u16,
    dir: TempDir,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// Kills it; what it kept is in the directory.
    pub fn kill(mut self) -> Result<TempDir> {
        self.child.kill().context("SIGKILL")?;
        self.child.wait().context("its end")?;
        Ok(std::mem::replace(&mut self.dir, TempDir::new()?))
    }

    /// The end of what it wrote, for an error.
    pub fn log_tail(&self) -> String {
        let text = fs::read(self.dir.path().join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    fn wait_until_it_accepts(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}; its last words:\n{}", self.log_tail());
            }
            if TcpStream::connect_timeout(&self.address(), Duration::from_millis(200)).is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("nothing accepts on port {}; its last words:\n{}", self.port, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill, and wait() reports it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `127.0.0.1:port`.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A port without a listener now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(loopback(0)).and_then(|listener| listener.local_addr()).context("a free port")?.port())
}
