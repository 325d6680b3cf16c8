//! From the first byte to a complete CONNECT: PROXY header, TLS (in `tls_handshake`), WebSocket upgrade, CONNECT. Each
//! stage consumes its bytes and passes the rest to the next.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use super::Shard;
use super::auth_work::AuthWork;
use super::table::{ConnectionKey, ConnectionState};
use super::tls_handshake::TlsProgress;
use crate::auth::{AuthExchange, PeerCertificate};
use crate::net::acceptor::{claim_address, claim_pending_source};
use crate::net::layers::{DriverOutput, Layers, WebSocket};
use crate::net::policy::{ListenerPolicy, ProxyProtocolPolicy};
use crate::net::proxy::{self, Parsed};
use crate::net::stats::{CloseReason, PendingGuard};
use crate::net::websocket::{Upgrade, upgrade};
use weir_broker::Millis;
use weir_mqtt::{DecodeErrorKind, Decoded, ProtocolVersion, connack, decode_connect};

/// The state of a connection before admission.
pub(super) struct Handshake {
    pub(super) stage: Stage,
    /// Above the connection limit: refused when its CONNECT has arrived.
    pub(super) over_limit: bool,
    /// It comes from this process (a bridge).
    pub(super) internal: bool,
    pub(super) policy: Arc<ListenerPolicy>,
    /// Counts the connection as pending.
    pub(super) pending: PendingGuard,
    /// Its index in the shard's list of pending connections.
    pub(super) position: usize,
    pub(super) accepted_at: Millis,
    pub(super) deadline: Millis,
    pub(super) tls: TlsProgress,
    /// Bytes of the current stage that are incomplete.
    pub(super) input: Vec<u8>,
    pub(super) out: DriverOutput,
    /// The client certificate, from mutual TLS or from a trusted proxy.
    pub(super) certificate: Option<Box<PeerCertificate>>,
    /// The client id that the server assigned.
    pub(super) assigned_id: Option<Box<str>>,
    /// The CONNECT packet, during authentication.
    pub(super) connect: Vec<u8>,
}

impl Handshake {
    /// The state of a connection that was just accepted; `position` is its index in the shard's list.
    pub(super) fn new(
        policy: Arc<ListenerPolicy>,
        pending: PendingGuard,
        position: usize,
        accepted_at: Millis,
        deadline: Millis,
    ) -> Self {
        Self {
            stage: if policy.proxy_protocol.is_some() { Stage::Proxy } else { Stage::after_proxy(&policy) },
            over_limit: false,
            internal: false,
            policy,
            pending,
            position,
            accepted_at,
            deadline,
            tls: TlsProgress::default(),
            input: Vec::new(),
            out: DriverOutput::default(),
            certificate: None,
            assigned_id: None,
            connect: Vec::new(),
        }
    }

    /// Whether a worker, an authentication service or a TLS thread has to finish first; the shard reads no bytes
    /// meanwhile.
    fn waits_for_other_thread(&self) -> bool {
        matches!(self.stage, Stage::Authenticating { .. }) || self.tls.is_running()
    }
}

/// Bytes of one read before admission.
const HANDSHAKE_READ_BYTES: usize = 16 << 10;

/// The stages of a handshake.
pub(super) enum Stage {
    Proxy,
    Upgrade,
    Connect,
    /// A worker or an authentication service decides; the shard reads no bytes meanwhile.
    Authenticating {
        _work: Option<AuthWork>,
    },
    /// Waits for the client's next AUTH packet.
    EnhancedAuth(Box<dyn AuthExchange>),
}

impl Stage {
    pub(super) fn after_proxy(policy: &ListenerPolicy) -> Self {
        if policy.websocket.is_some() { Self::Upgrade } else { Self::Connect }
    }
}

/// Whether a handshake goes on.
pub(super) enum Progress {
    /// It needs more bytes, or a decision.
    Wait,
    /// The connection is admitted, refused, or handed over.
    Done,
}

/// The result of a stage.
enum StageResult {
    /// The stage is complete; these bytes belong to the next one.
    Next(Vec<u8>),
    Wait,
    Refuse(CloseReason, Vec<u8>),
}

impl Shard {
    /// Reads from a pending connection until the socket is empty or the handshake is over.
    pub(super) fn on_handshake_readable(&mut self, key: ConnectionKey) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(connection) = self.table.get_mut(key) {
            let ConnectionState::Pending(handshake) = &connection.state else { break };
            if handshake.waits_for_other_thread() {
                let (read, authenticates) =
                    (handshake.input.len(), matches!(handshake.stage, Stage::Authenticating { .. }));
                connection.unread = true;
                if connection.hung_up && (!authenticates || connection.has_nothing_left(read)) {
                    // Nothing would come of it: the waiting job or request is cancelled with the connection.
                    self.refuse(key, CloseReason::PeerClosed, &[]);
                }
                break;
            }
            let n = match connection.stream.read(&mut buffer[..HANDSHAKE_READ_BYTES]) {
                Ok(0) => {
                    self.refuse(key, CloseReason::PeerClosed, &[]);
                    break;
                }
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    connection.unread = false;
                    break;
                }
                Err(_) => {
                    self.refuse(key, CloseReason::PeerClosed, &[]);
                    break;
                }
            };
            let drained = n < HANDSHAKE_READ_BYTES && !connection.hung_up;
            connection.unread = !drained;
            match self.on_handshake_bytes(key, &buffer[..n]) {
                Progress::Wait if drained => break,
                Progress::Wait => {}
                Progress::Done => break,
            }
        }
        self.buffer = buffer;
        // The client is admitted, and its socket holds more bytes.
        if let Some(connection) = self.table.get_mut(key)
            && matches!(connection.state, ConnectionState::Open(_))
            && connection.unread
            && !connection.paused
        {
            self.ready.push(key);
        }
    }

    /// Handles bytes from the socket.
    fn on_handshake_bytes(&mut self, key: ConnectionKey, raw: &[u8]) -> Progress {
        let Some(connection) = self.table.get_mut(key) else { return self.abort_handshake(key) };
        let ConnectionState::Pending(handshake) = &mut connection.state else { return self.abort_handshake(key) };
        if !matches!(handshake.stage, Stage::Proxy) {
            return match connection.layers {
                None => self.on_plain_bytes(key, raw),
                Some(_) => self.on_layered_bytes(key, raw),
            };
        }
        let result = proxy_header(handshake, &mut connection.peer, raw);
        if matches!(result, StageResult::Next(_))
            && let Err(reason) = self.claim_proxied_address(key)
        {
            self.refuse(key, reason, &[]);
            return Progress::Done;
        }
        match result {
            StageResult::Next(rest) if rest.is_empty() => Progress::Wait,
            StageResult::Next(rest) => self.on_handshake_bytes(key, &rest),
            StageResult::Wait => Progress::Wait,
            StageResult::Refuse(reason, bytes) => {
                self.refuse(key, reason, &bytes);
                Progress::Done
            }
        }
    }

    /// Counts a connection under the address that its PROXY header has.
    fn claim_proxied_address(&mut self, key: ConnectionKey) -> Result<(), CloseReason> {
        let Some(connection) = self.table.get_mut(key) else { return Ok(()) };
        let ConnectionState::Pending(handshake) = &mut connection.state else { return Ok(()) };
        let (peer, sequence) = (connection.peer, connection.sequence);
        if !claim_address(&mut connection.guard, &handshake.policy, peer) {
            return Err(CloseReason::AddressLimit);
        }
        if claim_pending_source(&mut handshake.pending, &handshake.policy, peer) {
            return Ok(());
        }
        let policy = Arc::clone(&handshake.policy);
        let is_displaced = self.displace_of_source(&policy, peer, sequence);
        let Some(connection) = self.table.get_mut(key) else { return Ok(()) };
        let ConnectionState::Pending(handshake) = &mut connection.state else { return Ok(()) };
        if is_displaced && claim_pending_source(&mut handshake.pending, &policy, peer) {
            return Ok(());
        }
        Err(CloseReason::PendingAddressLimit)
    }

    /// Handles bytes after the layers that exist so far. The connection may be closed: writing the layers' own bytes
    /// can fail.
    pub(super) fn on_plain_bytes(&mut self, key: ConnectionKey, bytes: &[u8]) -> Progress {
        let Some(connection) = self.table.get_mut(key) else { return Progress::Done };
        let ConnectionState::Pending(handshake) = &mut connection.state else { return Progress::Done };
        match &handshake.stage {
            Stage::Upgrade => {
                let layers = connection.layers.get_or_insert_default();
                match open_websocket(handshake, layers, bytes) {
                    StageResult::Next(rest) => {
                        self.flush_connection(key);
                        if rest.is_empty() { Progress::Wait } else { self.on_plain_bytes(key, &rest) }
                    }
                    StageResult::Wait => Progress::Wait,
                    StageResult::Refuse(reason, bytes) => {
                        self.refuse(key, reason, &bytes);
                        Progress::Done
                    }
                }
            }
            Stage::Connect if handshake.input.is_empty() => self.on_connect_bytes(key, bytes),
            Stage::Connect => {
                let mut input = std::mem::take(&mut handshake.input);
                input.extend_from_slice(bytes);
                self.on_connect_bytes(key, &input)
            }
            Stage::EnhancedAuth(_) => {
                let mut input = std::mem::take(&mut handshake.input);
                input.extend_from_slice(bytes);
                self.on_auth_bytes(key, input)
            }
            Stage::Authenticating { .. } | Stage::Proxy => {
                handshake.input.extend_from_slice(bytes);
                Progress::Wait
            }
        }
    }

    /// Handles the beginning of the MQTT stream; `bytes` are all of its bytes so far.
    fn on_connect_bytes(&mut self, key: ConnectionKey, bytes: &[u8]) -> Progress {
        let Some(connection) = self.table.get_mut(key) else { return self.abort_handshake(key) };
        let ConnectionState::Pending(handshake) = &mut connection.state else { return self.abort_handshake(key) };
        let policy = &handshake.policy;
        let max = policy.handshake.max_connect_bytes.min(policy.endpoint.limits.message_max_size);
        match decode_connect(bytes, max) {
            Ok(Decoded::Packet { packet, len }) => self.on_connect(key, &packet, len, bytes),
            Ok(Decoded::Incomplete { .. }) => {
                handshake.input = bytes.to_vec();
                Progress::Wait
            }
            Err(error) => {
                let endpoint = &*policy.endpoint.name;
                tracing::debug!(endpoint, peer = connection.peer.map(tracing::field::display), %error, "connection refused: invalid CONNECT");
                let refusal = error.refusal.map(|refusal| refusal_bytes(refusal.version, refusal.code));
                let is_too_large = error.kind == DecodeErrorKind::PacketTooLarge;
                let reason = if is_too_large { CloseReason::HandshakeSize } else { CloseReason::Protocol };
                self.refuse(key, reason, &refusal.unwrap_or_default());
                Progress::Done
            }
        }
    }
}

/// CONNACK with a reason code (5.0) or return code (3.x).
pub(super) fn refusal_bytes(version: ProtocolVersion, code: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Encoding cannot fail: without properties nothing is too long.
    let _ = connack(&mut bytes, version, false, code, &weir_mqtt::ConnAckProperties::default());
    bytes
}

fn proxy_header(handshake: &mut Handshake, peer: &mut Option<SocketAddr>, raw: &[u8]) -> StageResult {
    let refuse = || StageResult::Refuse(CloseReason::ProxyProtocol, Vec::new());
    let Some(policy) = &handshake.policy.proxy_protocol else { return refuse() };
    if !is_trusted_proxy(policy, *peer) {
        tracing::info!(endpoint = %handshake.policy.endpoint.name, peer = peer.map(tracing::field::display), "connection refused: not a trusted source of PROXY headers");
        return refuse();
    }
    handshake.input.extend_from_slice(raw);
    match proxy::parse(&handshake.input) {
        Ok(Parsed::Incomplete) => StageResult::Wait,
        Ok(Parsed::Header(header)) => {
            if header.source.is_some() {
                *peer = header.source;
            }
            if policy.client_certificate
                && let Some(common_name) = header.common_name
            {
                handshake.certificate = Some(Box::new(PeerCertificate::named(common_name)));
            }
            handshake.stage = Stage::after_proxy(&handshake.policy);
            StageResult::Next(std::mem::take(&mut handshake.input).split_off(header.len))
        }
        Err(error) => {
            tracing::info!(endpoint = %handshake.policy.endpoint.name, peer = peer.map(tracing::field::display), %error, "connection refused: invalid PROXY header");
            refuse()
        }
    }
}

fn is_trusted_proxy(policy: &ProxyProtocolPolicy, peer: Option<SocketAddr>) -> bool {
    peer.is_none_or(|peer| policy.sources.iter().any(|range| range.contains(peer.ip())))
}

/// Handles an upgrade request; the bytes after it are decoded as frames.
fn open_websocket(handshake: &mut Handshake, layers: &mut Layers, bytes: &[u8]) -> StageResult {
    let Some(policy) = &handshake.policy.websocket else {
        return StageResult::Refuse(CloseReason::WebSocket, Vec::new());
    };
    handshake.input.extend_from_slice(bytes);
    match upgrade(&handshake.input, policy) {
        Upgrade::Incomplete => StageResult::Wait,
        Upgrade::Accepted { consumed, response } => {
            let rest = std::mem::take(&mut handshake.input).split_off(consumed);
            handshake.stage = Stage::Connect;
            layers.websocket = Some(Box::new(WebSocket::new(policy.max_message_bytes, response)));
            let mut plain = Vec::new();
            match layers.decode_frames(&rest, &mut plain) {
                Ok(_) => StageResult::Next(plain),
                Err(error) => {
                    layers.close_with_error(&error);
                    StageResult::Refuse(CloseReason::WebSocket, Vec::new())
                }
            }
        }
        Upgrade::Refused { response, why } => {
            tracing::info!(endpoint = %handshake.policy.endpoint.name, why, "connection refused: invalid WebSocket upgrade");
            StageResult::Refuse(CloseReason::WebSocket, response)
        }
    }
}
