//! From the first byte to a whole CONNECT: PROXY header, TLS, WebSocket upgrade, CONNECT. Each stage takes its bytes and
//! hands the rest to the next.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use super::table::{Key, State};
use super::{READ_BYTES, Shard};
use crate::auth::{AuthExchange, PeerCertificate};
use crate::net::acceptor::claim_address;
use crate::net::auth_tasks::AuthTaskHandle;
use crate::net::layers::{Layers, Unsent, WebSocket};
use crate::net::policy::{ListenerPolicy, ProxyProtocolPolicy};
use crate::net::proxy::{self, Parsed};
use crate::net::stats::{Pending, Reason};
use crate::net::websocket::{Incoming, Upgrade, upgrade};
use weir_broker::Millis;
use weir_mqtt::{Decoded, ProtocolVersion, connack, decode_connect};

/// A connection before admission.
pub(super) struct Handshake {
    pub(super) stage: Stage,
    /// One too many: refused when it has said its version.
    pub(super) over_limit: bool,
    /// It comes from this process.
    pub(super) inside: bool,
    pub(super) policy: Arc<ListenerPolicy>,
    /// Counts it among the pending ones.
    pub(super) _pending: Pending,
    /// Its place in the shard's list of pending connections.
    pub(super) position: usize,
    pub(super) deadline: Millis,
    /// Bytes taken while TLS was shaking hands.
    pub(super) tls_bytes: usize,
    /// Bytes the present stage has, and cannot use yet.
    pub(super) input: Vec<u8>,
    pub(super) out: Unsent,
    /// What mutual TLS, or a proxy that is trusted to have done it, says of the client.
    pub(super) certificate: Option<Box<PeerCertificate>>,
    /// The client id the server chose.
    pub(super) assigned_id: Option<Box<str>>,
    /// The CONNECT packet, while its authentication is under way.
    pub(super) connect: Vec<u8>,
}

/// What comes next.
pub(super) enum Stage {
    Proxy,
    Upgrade,
    Connect,
    /// A worker decides, or somebody else does who is asked; nothing is read meanwhile.
    Deciding {
        _auth_task: Option<AuthTaskHandle>,
    },
    /// The client's next AUTH packet.
    Auth(Box<dyn AuthExchange>),
}

impl Stage {
    pub(super) fn after_proxy(policy: &ListenerPolicy) -> Self {
        if policy.websocket.is_some() { Self::Upgrade } else { Self::Connect }
    }
}

/// How a step ended.
pub(super) enum Step {
    /// More bytes are needed, or a decision.
    Wait,
    /// The connection is admitted, refused, or gone to its home.
    Done,
}

/// A stage's verdict.
enum Verdict {
    /// These bytes are the next stage's.
    Next(Vec<u8>),
    Wait,
    Refuse(Reason, Vec<u8>),
}

impl Shard {
    /// Reads from a pending connection until its socket is empty, or it is pending no more.
    pub(super) fn on_handshake_readable(&mut self, key: Key) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(connection) = self.table.get_mut(key) {
            let State::Pending(handshake) = &connection.state else { break };
            if matches!(handshake.stage, Stage::Deciding { .. }) {
                connection.unread = true;
                break;
            }
            let n = match connection.stream.read(&mut buffer[..READ_BYTES]) {
                Ok(0) => {
                    self.refuse(key, Reason::PeerClosed, &[]);
                    break;
                }
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    connection.unread = false;
                    break;
                }
                Err(_) => {
                    self.refuse(key, Reason::PeerClosed, &[]);
                    break;
                }
            };
            let drained = n < READ_BYTES && !connection.hung_up;
            connection.unread = !drained;
            match self.step(key, &buffer[..n]) {
                Step::Wait if drained => break,
                Step::Wait => {}
                Step::Done => break,
            }
        }
        self.buffer = buffer;
        // Admitted with more to read than was read.
        if let Some(connection) = self.table.get_mut(key)
            && matches!(connection.state, State::Open(_))
            && connection.unread
            && !connection.paused
        {
            self.ready.push(key);
        }
    }

    /// Takes bytes from the socket.
    fn step(&mut self, key: Key, raw: &[u8]) -> Step {
        let Some(connection) = self.table.get_mut(key) else { return Step::Done };
        let State::Pending(handshake) = &mut connection.state else { return Step::Done };
        if !matches!(handshake.stage, Stage::Proxy) {
            return match connection.layers {
                None => self.step_plain(key, raw),
                Some(_) => self.step_layers(key, raw),
            };
        }
        let verdict = proxy_header(handshake, &mut connection.peer, raw);
        if matches!(verdict, Verdict::Next(_))
            && !claim_address(&mut connection.opened, &handshake.policy, connection.peer)
        {
            self.refuse(key, Reason::AddressLimit, &[]);
            return Step::Done;
        }
        match verdict {
            Verdict::Next(rest) if rest.is_empty() => Step::Wait,
            Verdict::Next(rest) => self.step(key, &rest),
            Verdict::Wait => Step::Wait,
            Verdict::Refuse(reason, bytes) => {
                self.refuse(key, reason, &bytes);
                Step::Done
            }
        }
    }

    /// Takes bytes that are in TLS, in WebSocket frames, or both.
    fn step_layers(&mut self, key: Key, raw: &[u8]) -> Step {
        let Some(connection) = self.table.get_mut(key) else { return Step::Done };
        let (State::Pending(handshake), Some(layers)) = (&mut connection.state, &mut connection.layers) else {
            return Step::Done;
        };
        let mut plain = Vec::new();
        let handshaking = layers.tls.as_ref().is_some_and(|tls| tls.is_handshaking());
        let opened = layers.open(raw, &mut plain);
        if handshaking {
            handshake.tls_bytes += raw.len();
        }
        let still_handshaking = layers.tls.as_ref().is_some_and(|tls| tls.is_handshaking());
        let too_long = still_handshaking && handshake.tls_bytes > handshake.policy.handshake.max_bytes as usize;
        if handshaking && !still_handshaking {
            let certificate = layers.tls.as_ref().and_then(|tls| tls.peer_certificates()?.first());
            handshake.certificate = match certificate.map(|der| PeerCertificate::parse(der)) {
                None => handshake.certificate.take(),
                Some(Ok(certificate)) => Some(Box::new(certificate)),
                Some(Err(error)) => {
                    let endpoint = &*handshake.policy.endpoint.name;
                    tracing::info!(endpoint, peer = connection.peer.map(tracing::field::display), %error, "a client certificate cannot be read");
                    self.refuse(key, Reason::Tls, &[]);
                    return Step::Done;
                }
            };
        }
        let wants_write = layers.wants_write();
        let websocket = layers.websocket.is_some();
        match opened {
            Ok(_) if too_long => {
                self.refuse(key, Reason::HandshakeSize, &[]);
                return Step::Done;
            }
            Ok(Incoming::Open) => {}
            Ok(Incoming::Closed) if plain.is_empty() => {
                self.refuse(key, Reason::PeerClosed, &[]);
                return Step::Done;
            }
            Ok(Incoming::Closed) => {}
            Err(error) => {
                let endpoint = &*handshake.policy.endpoint.name;
                tracing::debug!(endpoint, peer = connection.peer.map(tracing::field::display), %error, "a handshake ends");
                layers.close_for(&error);
                self.refuse(key, if websocket { Reason::WebSocket } else { Reason::Tls }, &[]);
                return Step::Done;
            }
        }
        if wants_write {
            self.flush_connection(key);
        }
        if plain.is_empty() { Step::Wait } else { self.step_plain(key, &plain) }
    }

    /// Takes bytes that are out of TLS and of what frames there are so far.
    fn step_plain(&mut self, key: Key, bytes: &[u8]) -> Step {
        let Some(connection) = self.table.get_mut(key) else { return Step::Done };
        let State::Pending(handshake) = &mut connection.state else { return Step::Done };
        match &handshake.stage {
            Stage::Upgrade => {
                let layers = connection.layers.get_or_insert_default();
                match open_websocket(handshake, layers, bytes) {
                    Verdict::Next(rest) => {
                        self.flush_connection(key);
                        if rest.is_empty() { Step::Wait } else { self.step_plain(key, &rest) }
                    }
                    Verdict::Wait => Step::Wait,
                    Verdict::Refuse(reason, bytes) => {
                        self.refuse(key, reason, &bytes);
                        Step::Done
                    }
                }
            }
            Stage::Connect if handshake.input.is_empty() => self.step_connect(key, bytes),
            Stage::Connect => {
                let mut input = std::mem::take(&mut handshake.input);
                input.extend_from_slice(bytes);
                self.step_connect(key, &input)
            }
            Stage::Auth(_) => {
                let mut input = std::mem::take(&mut handshake.input);
                input.extend_from_slice(bytes);
                self.step_auth(key, input)
            }
            Stage::Deciding { .. } | Stage::Proxy => {
                handshake.input.extend_from_slice(bytes);
                Step::Wait
            }
        }
    }

    /// Judges the beginning of the MQTT stream; `bytes` are all that came of it.
    fn step_connect(&mut self, key: Key, bytes: &[u8]) -> Step {
        let Some(connection) = self.table.get_mut(key) else { return Step::Done };
        let State::Pending(handshake) = &mut connection.state else { return Step::Done };
        let policy = &handshake.policy;
        let max = policy.handshake.max_connect_bytes.min(policy.endpoint.limits.message_max_size);
        match decode_connect(bytes, max) {
            Ok(Decoded::Packet { packet, len }) => self.on_connect(key, &packet, len, bytes),
            Ok(Decoded::Incomplete { .. }) => {
                handshake.input = bytes.to_vec();
                Step::Wait
            }
            Err(error) => {
                let endpoint = &*policy.endpoint.name;
                tracing::debug!(endpoint, peer = connection.peer.map(tracing::field::display), %error, "a CONNECT is refused");
                let refusal = error.refusal.map(|refusal| refusal_bytes(refusal.version, refusal.code));
                self.refuse(key, Reason::Protocol, &refusal.unwrap_or_default());
                Step::Done
            }
        }
    }
}

/// CONNACK with a reason code (5.0) or return code (3.x).
pub(super) fn refusal_bytes(version: ProtocolVersion, code: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Without properties nothing in it can be too long.
    let _ = connack(&mut bytes, version, false, code, &weir_mqtt::ConnAckProperties::default());
    bytes
}

fn proxy_header(handshake: &mut Handshake, peer: &mut Option<SocketAddr>, raw: &[u8]) -> Verdict {
    let refuse = || Verdict::Refuse(Reason::ProxyProtocol, Vec::new());
    let Some(policy) = &handshake.policy.proxy_protocol else { return refuse() };
    if !may_speak_for_others(policy, *peer) {
        tracing::info!(endpoint = %handshake.policy.endpoint.name, peer = peer.map(tracing::field::display), "not a trusted source of PROXY headers");
        return refuse();
    }
    handshake.input.extend_from_slice(raw);
    match proxy::parse(&handshake.input) {
        Ok(Parsed::Incomplete) => Verdict::Wait,
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
            Verdict::Next(std::mem::take(&mut handshake.input).split_off(header.len))
        }
        Err(error) => {
            tracing::info!(endpoint = %handshake.policy.endpoint.name, peer = peer.map(tracing::field::display), %error, "a connection is refused");
            refuse()
        }
    }
}

fn may_speak_for_others(policy: &ProxyProtocolPolicy, peer: Option<SocketAddr>) -> bool {
    peer.is_none_or(|peer| policy.sources.iter().any(|range| range.contains(peer.ip())))
}

/// Judges an upgrade request; what follows it comes back out of its frames.
fn open_websocket(handshake: &mut Handshake, layers: &mut Layers, bytes: &[u8]) -> Verdict {
    let Some(policy) = &handshake.policy.websocket else {
        return Verdict::Refuse(Reason::WebSocket, Vec::new());
    };
    handshake.input.extend_from_slice(bytes);
    match upgrade(&handshake.input, policy) {
        Upgrade::Incomplete => Verdict::Wait,
        Upgrade::Accepted { consumed, response } => {
            let rest = std::mem::take(&mut handshake.input).split_off(consumed);
            handshake.stage = Stage::Connect;
            layers.websocket = Some(Box::new(WebSocket::new(policy.max_message_bytes, response)));
            let mut plain = Vec::new();
            match layers.open_frames(&rest, &mut plain) {
                Ok(_) => Verdict::Next(plain),
                Err(error) => {
                    layers.close_for(&error);
                    Verdict::Refuse(Reason::WebSocket, Vec::new())
                }
            }
        }
        Upgrade::Refused { response, why } => {
            tracing::info!(endpoint = %handshake.policy.endpoint.name, why, "a WebSocket upgrade is refused");
            Verdict::Refuse(Reason::WebSocket, response)
        }
    }
}
