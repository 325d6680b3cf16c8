//! Connections to the remote broker.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::wire::{ByteStream, Wire, WireRead};
use super::{BridgeAddress, BridgeSettings};
use weir_bridge::{BridgeFailure, BridgeLink, BridgeSpec, FailureCause};

/// Timeout of name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("connect failed: {0}")]
    Connect(std::io::Error),
    #[error("connect timed out after {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut,
    #[error("TLS handshake failed: {0}")]
    Tls(std::io::Error),
    #[error("{0:?} is not a valid TLS server name")]
    ServerName(String),
    #[error("TLS is not configured for this bridge")]
    NoTls,
}

/// Opens a connection to a broker.
///
/// # Errors
/// See [`DialError`].
pub(super) async fn open(
    address: &BridgeAddress,
    tls: Option<&Arc<rustls::ClientConfig>>,
    server_name: Option<&str>,
) -> Result<Box<dyn ByteStream>, DialError> {
    let connected = async {
        let tcp = TcpStream::connect((&*address.host, address.port)).await.map_err(DialError::Connect)?;
        tcp.set_nodelay(true).map_err(DialError::Connect)?;
        if !address.tls {
            return Ok(Box::new(tcp) as Box<dyn ByteStream>);
        }
        let name = server_name.unwrap_or(&address.host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| DialError::ServerName(name.to_owned()))?;
        let config = Arc::clone(tls.ok_or(DialError::NoTls)?);
        let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(DialError::Tls)?;
        Ok(Box::new(stream) as Box<dyn ByteStream>)
    };
    tokio::time::timeout(CONNECT_TIMEOUT, connected).await.unwrap_or(Err(DialError::TimedOut))
}

/// Timeout of the CONNACK.
const CONNACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to each address with the bridge's credentials and a client id of its own, so that it does not take over a
/// running bridge. It leaves no session on the remote broker.
///
/// The runtime for the attempts cannot be started.
pub fn probe(settings: &BridgeSettings) -> io::Result<Vec<(BridgeAddress, Result<(), BridgeFailure>)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let spec = Arc::new(BridgeSpec {
        client_id: format!("{}-check-{}", settings.spec.client_id, std::process::id()).into(),
        clean_start: true,
        out: Vec::new(),
        inward: Vec::new(),
        ..(*settings.spec).clone()
    });
    let mut outcomes = Vec::new();
    for address in &settings.addresses {
        outcomes.push((address.clone(), runtime.block_on(try_connect(address, settings, &spec))));
    }
    Ok(outcomes)
}

async fn try_connect(
    address: &BridgeAddress,
    settings: &BridgeSettings,
    spec: &Arc<BridgeSpec>,
) -> Result<(), BridgeFailure> {
    let opened = open(address, settings.tls.as_ref(), settings.server_name.as_deref()).await;
    let transport = opened.map_err(|error| BridgeFailure::new(FailureCause::Unreachable, error.to_string()))?;
    let (mut wire, mut link) = (Wire::new(transport), BridgeLink::new(Arc::clone(spec)));
    link.remote_opened(0)?;
    let lost = |error: io::Error| BridgeFailure::new(FailureCause::Lost, error.to_string());
    let admitted = poll_fn(|cx| {
        loop {
            if let Err(error) = wire.poll_write(cx, link.to_remote()) {
                return Poll::Ready(Err(lost(error)));
            }
            if link.is_remote_up() {
                return Poll::Ready(Ok(()));
            }
            match wire.poll_read(cx) {
                Err(error) => return Poll::Ready(Err(lost(error))),
                Ok(WireRead::Closed) => {
                    return Poll::Ready(Err(BridgeFailure::new(
                        FailureCause::Lost,
                        "connection closed before CONNACK",
                    )));
                }
                Ok(WireRead::Nothing) => return Poll::Pending,
                Ok(WireRead::Some) => match link.from_remote(wire.input(), 0) {
                    Ok(taken) => wire.consume(taken),
                    Err(failure) => return Poll::Ready(Err(failure)),
                },
            }
        }
    });
    let timed_out =
        || BridgeFailure::new(FailureCause::TimedOut, format!("no CONNACK within {} s", CONNACK_TIMEOUT.as_secs()));
    tokio::time::timeout(CONNACK_TIMEOUT, admitted).await.unwrap_or_else(|_| Err(timed_out()))?;
    link.disconnect_remote(true)?;
    // The DISCONNECT is best effort: a clean session ends with its connection.
    drop(poll_fn(|cx| Poll::Ready(wire.poll_write(cx, link.to_remote()))).await);
    Ok(())
}
