//! Forwarding over a bridge: publishers at the measured broker, their subscribers at another one that it is linked to. The
//! other one is a Weir, whichever broker is measured.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::pairs::Load;
use super::{Outcome, Settings};
use crate::brokers::{Kind, Running, Spec, free_port};
use crate::config;
use crate::transport::Listener;
use crate::wire::{self, PublishTemplate, Version};

/// How long a link may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);
const PROBE: &str = "pairs/probe";

/// Those that have a bridge the bench knows to declare.
pub fn applies(spec: &Spec) -> bool {
    matches!(spec.kind, Kind::Weir { .. } | Kind::Mosquitto)
}

/// 50 pairs over a link of MQTT 3.1.1.
pub fn run(settings: &Settings, spec: &Spec, qos: u8) -> Result<Outcome> {
    let far = settings.start(&Spec::weir(Path::new(env!("CARGO_BIN_EXE_weir")), 1), Listener::Plain)?;
    let near = start(spec, settings, far.port, qos)?;
    wait_for_link(near.address(), far.address())?;
    // All pairs together stay within what either broker lets wait for one client, so that nothing has to be dropped.
    Load { ahead: Some(50), ..Load::new(qos, 64) }.measure(settings, &[&near], &[&far], &[near.pid()])
}

fn start(spec: &Spec, settings: &Settings, far: u16, qos: u8) -> Result<Running> {
    let dir = TempDir::with_prefix("weir-bench-").context("a directory for the broker")?;
    let port = free_port()?;
    let mut command = config::prepare(spec, Listener::Plain, port, dir.path(), &settings.certificates)?;
    let (path, old, new) = match spec.kind {
        Kind::Weir { .. } => (
            dir.path().join("endpoints.d/bench.yaml"),
            "  maxConnectionSize: 65535\n",
            format!(
                "  maxConnectionSize: 65535\n  enableBridge: true\n  bridges: [far]\n---\nbridge: {{name: far, address: \
                 [\"mqtt://127.0.0.1:{far}\"], protocolVersion: \"3.1.1\", out: [{{filter: \"pairs/#\", qos: {qos}}}]}}\n"
            ),
        ),
        Kind::Mosquitto => (
            dir.path().join("mosquitto.conf"),
            "allow_anonymous true\n",
            format!(
                "allow_anonymous true\nconnection far\naddress 127.0.0.1:{far}\nbridge_protocol_version mqttv311\n\
                 notifications false\ntopic pairs/# out {qos}\n"
            ),
        ),
        _ => bail!("no bridge of {} is known", spec.name),
    };
    let text = fs::read_to_string(&path).context("the configuration")?;
    ensure!(text.contains(old), "the configuration has no place for a bridge");
    fs::write(&path, text.replacen(old, &new, 1)).context("the configuration")?;
    spec.spawn(&mut command, port, dir)
}

/// Publishes here until it arrives there.
fn wait_for_link(near: SocketAddr, far: SocketAddr) -> Result<()> {
    let mut subscriber = client(far, "probe-sub")?;
    subscriber.write_all(&wire::subscribe(Version::V3_1_1, 1, &[PROBE], 0))?;
    subscriber.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut publisher = client(near, "probe-pub")?;
    let mut template = PublishTemplate::new(PROBE, 0, false, wire::STAMP_BYTES);
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        publisher.write_all(template.stamp(0, 0, 0, 0))?;
        // A time-out is one more round.
        if let Ok(count) = subscriber.read(&mut buffer) {
            received.extend_from_slice(&buffer[..count]);
        }
        let mut rest = received.as_slice();
        while let Some((frame, length)) = wire::split_frame(rest)? {
            if frame.kind() == wire::PUBLISH {
                return Ok(());
            }
            rest = &rest[length..];
        }
    }
    bail!("the link does not come up")
}

/// A client that is admitted.
pub fn client(address: SocketAddr, id: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&wire::connect(Version::V3_1_1, id))?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    ensure!(connack == [0x20, 2, 0, 0], "{id} was not admitted");
    Ok(stream)
}
