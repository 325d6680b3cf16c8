//! The TLS part of a handshake. Steps with asymmetric cryptography run on the threads of `TlsHandshakes`, which have the
//! connection's layers meanwhile.

use rustls::{ProtocolVersion, ServerConnection};

use super::handshake::{Handshake, Progress};
use super::table::{ConnectionKey, ConnectionState};
use super::{Shard, ShardEvent};
use crate::auth::PeerCertificate;
use crate::net::layers::{LayerError, Layers};
use crate::net::policy::Transport;
use crate::net::stats::CloseReason;
use crate::net::tls_handshakes::TlsStepHandle;
use crate::net::websocket::Incoming;
use crate::source_address::SourceAddress;

/// How far a connection's TLS handshake is.
#[derive(Default)]
pub(super) struct TlsProgress {
    /// Bytes of the handshake that were processed.
    bytes: usize,
    /// Received bytes that are no whole record yet.
    input: Vec<u8>,
    /// The step that runs on another thread.
    step: Option<TlsStepHandle>,
}

impl TlsProgress {
    /// Whether a step runs on another thread.
    pub(super) fn is_running(&self) -> bool {
        self.step.is_some()
    }
}

/// A step that another thread has done.
pub(in crate::net) struct TlsStepResult {
    key: ConnectionKey,
    layers: Box<Layers>,
    bytes: usize,
    plain: Vec<u8>,
    /// `None`: the queue had no room for the step.
    incoming: Option<Result<Incoming, LayerError>>,
}

/// The type of TLS records with handshake messages.
const HANDSHAKE_RECORD: u8 = 22;

/// Whether a step can be done with these bytes: a whole record, or something else than a handshake.
fn has_whole_record(bytes: &[u8]) -> bool {
    match bytes {
        [HANDSHAKE_RECORD, _, _, high, low, body @ ..] => body.len() >= usize::from(u16::from_be_bytes([*high, *low])),
        [HANDSHAKE_RECORD, ..] => false,
        _ => true,
    }
}

/// Whether the next message of the handshake may cost asymmetric cryptography: key exchange, signature, or the client's
/// certificate. With TLS 1.3 only its Finished is left after the key exchange.
fn is_expensive(tls: &ServerConnection, verifies_clients: bool) -> bool {
    let only_finished =
        tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) && tls.negotiated_key_exchange_group().is_some();
    verifies_clients || !only_finished
}

impl Shard {
    /// Handles bytes in TLS, in WebSocket frames, or both.
    pub(super) fn on_layered_bytes(&mut self, key: ConnectionKey, raw: &[u8]) -> Progress {
        let Some(connection) = self.table.get_mut(key) else { return self.abort_handshake(key) };
        let (ConnectionState::Pending(handshake), Some(layers)) = (&mut connection.state, &mut connection.layers)
        else {
            return self.abort_handshake(key);
        };
        let tls = layers.tls.as_deref().filter(|tls| tls.is_handshaking());
        let verifies_clients =
            matches!(&handshake.policy.transport, Transport::Tls(tls) if tls.client_verifier.is_some());
        if tls.is_some_and(|tls| is_expensive(tls, verifies_clients)) {
            return self.begin_tls_step(key, raw);
        }
        let is_handshaking = tls.is_some();
        let mut plain = Vec::new();
        let incoming = layers.decode(raw, &mut plain);
        let bytes = if is_handshaking { raw.len() } else { 0 };
        self.after_decode(key, is_handshaking, bytes, &plain, incoming)
    }

    /// Passes the layers and the bytes to another thread; `raw` are received bytes.
    fn begin_tls_step(&mut self, key: ConnectionKey, raw: &[u8]) -> Progress {
        let Some(connection) = self.table.get_mut(key) else { return self.abort_handshake(key) };
        let ConnectionState::Pending(handshake) = &mut connection.state else { return self.abort_handshake(key) };
        handshake.tls.input.extend_from_slice(raw);
        if !has_whole_record(&handshake.tls.input) {
            if handshake.tls.bytes + handshake.tls.input.len() > handshake.policy.handshake.max_bytes as usize {
                self.refuse(key, CloseReason::HandshakeSize, &[]);
                return Progress::Done;
            }
            return Progress::Wait;
        }
        let input = std::mem::take(&mut handshake.tls.input);
        let Some(mut layers) = connection.layers.take() else { return self.abort_handshake(key) };
        let source = connection.peer.map(|peer| SourceAddress::new(peer.ip()));
        let endpoint = handshake.policy.endpoint.id;
        let mailbox = std::sync::Arc::clone(&self.mailbox);
        let step = move |has_room: bool| {
            let mut plain = Vec::new();
            let incoming = has_room.then(|| layers.decode(&input, &mut plain));
            let result = TlsStepResult { key, layers, bytes: input.len(), plain, incoming };
            mailbox.send(ShardEvent::TlsStep(Box::new(result)));
        };
        handshake.tls.step = Some(self.shared.tls_handshakes.submit(endpoint, source, Box::new(step)));
        Progress::Wait
    }

    /// Handles a step that another thread has done. The connection may be closed by now.
    pub(super) fn on_tls_step(&mut self, result: TlsStepResult) {
        let TlsStepResult { key, layers, bytes, plain, incoming } = result;
        let Some(connection) = self.table.get_mut(key) else { return };
        let ConnectionState::Pending(handshake) = &mut connection.state else { return };
        handshake.tls.step = None;
        connection.layers = Some(layers);
        match incoming {
            Some(incoming) => {
                self.after_decode(key, true, bytes, &plain, incoming);
            }
            None => self.refuse(key, CloseReason::HandshakeQueue, &[]),
        }
        if let Some(connection) = self.table.get_mut(key)
            && connection.unread
        {
            self.ready.push(key);
        }
    }

    /// Handles the result of decoding `bytes` bytes of a handshake (`is_handshaking`), or bytes after it.
    fn after_decode(
        &mut self,
        key: ConnectionKey,
        is_handshaking: bool,
        bytes: usize,
        plain: &[u8],
        incoming: Result<Incoming, LayerError>,
    ) -> Progress {
        let Some(connection) = self.table.get_mut(key) else { return self.abort_handshake(key) };
        let (ConnectionState::Pending(handshake), Some(layers)) = (&mut connection.state, &mut connection.layers)
        else {
            return self.abort_handshake(key);
        };
        handshake.tls.bytes += bytes;
        let goes_on = layers.tls.as_ref().is_some_and(|tls| tls.is_handshaking());
        if is_handshaking && !goes_on && !read_certificate(handshake, layers, connection.peer) {
            self.refuse(key, CloseReason::Tls, &[]);
            return Progress::Done;
        }
        let wants_write = layers.wants_write();
        let is_websocket = layers.websocket.is_some();
        match incoming {
            Ok(_) if goes_on && handshake.tls.bytes > handshake.policy.handshake.max_bytes as usize => {
                self.refuse(key, CloseReason::HandshakeSize, &[]);
                return Progress::Done;
            }
            Ok(Incoming::Open) => {}
            Ok(Incoming::Closed) if plain.is_empty() => {
                self.refuse(key, CloseReason::PeerClosed, &[]);
                return Progress::Done;
            }
            Ok(Incoming::Closed) => {}
            Err(error) => {
                let endpoint = &*handshake.policy.endpoint.name;
                let peer = connection.peer.map(tracing::field::display);
                if is_websocket {
                    tracing::debug!(endpoint, peer, %error, "WebSocket handshake failed");
                } else {
                    tracing::debug!(endpoint, peer, %error, "TLS handshake failed");
                }
                layers.close_with_error(&error);
                self.refuse(key, if is_websocket { CloseReason::WebSocket } else { CloseReason::Tls }, &[]);
                return Progress::Done;
            }
        }
        if wants_write {
            self.flush_connection(key);
        }
        if plain.is_empty() { Progress::Wait } else { self.on_plain_bytes(key, plain) }
    }
}

/// Reads the client's certificate at the end of the handshake; `false`: it is invalid.
fn read_certificate(handshake: &mut Handshake, layers: &Layers, peer: Option<std::net::SocketAddr>) -> bool {
    let Some(certificate) = layers.tls.as_ref().and_then(|tls| tls.peer_certificates()?.first()) else { return true };
    match PeerCertificate::parse(certificate) {
        Ok(certificate) => {
            handshake.certificate = Some(Box::new(certificate));
            true
        }
        Err(error) => {
            let endpoint = &*handshake.policy.endpoint.name;
            tracing::info!(endpoint, peer = peer.map(tracing::field::display), %error, "client certificate invalid: connection refused");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_begins_with_a_whole_record() {
        let record = [&[22, 3, 1, 0, 4][..], &[1, 0, 0, 0]].concat();
        assert!((1..record.len()).all(|cut| !has_whole_record(&record[..cut])));
        assert!(has_whole_record(&record));
        assert!(has_whole_record(&[record.as_slice(), &[22, 3]].concat()), "the next record may be incomplete");
        assert!(has_whole_record(b"GET / HTTP/1.1") && has_whole_record(&[21]), "no handshake");
    }
}
