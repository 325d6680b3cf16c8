//! `weir dev`

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, bail};

use super::Exit;
use crate::server::logging::{self, LogFilter, LogFormat};
use crate::server::{ServerHandle, ServerOptions, SourceOptions, process};
use crate::source::MemoryFile;

/// Run a broker for a try or a test: on this machine only, every client may use every topic, nothing is kept.
///
/// Prints one line to standard output, mqtt://HOST:PORT, as soon as that address accepts clients. The log, with the
/// address of the page, goes to standard error. Nothing is read or written: no documents, no data directory.
///
/// Exits with 0 after SIGINT or SIGTERM, with 1 if it could not start.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weir dev\n  weir dev --port 0 >url &                          # for a script or CI: a free port\n  \
    weir sub --url \"$(cat url)\" -t '#'\n\nFor a broker with documents and passwords: weir init"
)]
pub(super) struct Args {
    /// Port for MQTT; 0 takes a free one
    #[arg(long, short, value_name = "PORT", default_value_t = 1883)]
    port: u16,
    /// Address for MQTT
    #[arg(long, value_name = "ADDR", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Accept a --host that other machines reach, although every client is admitted without a password
    #[arg(long)]
    open_to_network: bool,
    /// `error`, `warn`, `info`, `debug`, `trace` or `off`
    #[arg(long, env = "WEIR_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: LogFilter,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let is_local = args.host.to_canonical().is_loopback();
    if !is_local && !args.open_to_network {
        bail!(
            "--host {}: other machines may reach it, and weir dev admits every client without a password; take --host \
             127.0.0.1, add --open-to-network, or write documents with weir init",
            args.host
        );
    }
    let address = SocketAddr::new(args.host, args.port);
    check_free(address)?;
    let log = logging::start(&args.log_level, LogFormat::Text)?;
    process::run(options(address), log, Some(Box::new(announce)))?;
    Ok(Exit::Success)
}

/// A broker retries where its port is in use; here nothing else could be meant than this port.
fn check_free(address: SocketAddr) -> anyhow::Result<()> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!("{address} is in use by another program; --port N takes another port, --port 0 a free one")
        }
        Err(error) => Err(error).with_context(|| format!("{address} cannot be bound")),
    }
}

fn announce(server: &ServerHandle) {
    let Some(address) = server.address(NAME) else { return };
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "mqtt://{address}").and_then(|()| out.flush()) {
        tracing::warn!(%error, url = %format_args!("mqtt://{address}"), "standard output write failed");
    }
}

/// The endpoint's name.
const NAME: &str = "dev";

fn options(address: SocketAddr) -> ServerOptions {
    let endpoint = serde_json::json!({"endpoint": {
        "name": NAME,
        "host": address.ip().to_string(),
        "port": address.port(),
        "enableAuth": false,
        "enableAcl": false,
    }});
    let document = MemoryFile { path: "dev.json".to_owned(), text: endpoint.to_string() };
    ServerOptions {
        source: SourceOptions::Memory(vec![document]),
        status_addr: Some((Ipv4Addr::LOCALHOST, 0).into()),
        ..ServerOptions::default()
    }
}
