//! From CONNECT to admission: authentication, then the hand-over to the client's home shard.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::auth_work::{AuthClient, AuthWork, queue_auth_job, spawn_auth_task};
use super::handshake::{Handshake, Progress, Stage, refusal_bytes};
use super::reauthenticate::EnhancedAuth;
use super::table::{Connection, ConnectionKey, ConnectionState};
use super::{Shard, ShardEvent};
use crate::auth::{AuthRefusal, Busy, Credentials, Decision};
use crate::log_value::log_value;
use crate::net::drain::{ConnectionFacts, DrainDecision};
use crate::net::layers::Layers;
use crate::net::relay::RelayEvent;
use crate::net::stats::{CloseReason, ConnectionGuard};
use crate::net::stream::Stream;
#[cfg(feature = "bridge")]
use weir_bridge::LOCAL_ID_PREFIX;
use weir_broker::{Admission, EndpointPolicy, Principal, Site, home_shard};
use weir_mqtt::{
    Auth, Connect, DecodeContext, DecodeError, Decoded, Packet, ProtocolVersion, ReasonCode, Side, auth, decode,
    decode_connect, return_code,
};

/// As in the crate `weir-bridge`: a data directory may have sessions of a build with bridges.
#[cfg(not(feature = "bridge"))]
const LOCAL_ID_PREFIX: &str = "$bridge/";

/// An authenticated client on its way to its home shard.
pub(in crate::net) struct HandOver {
    pub(in crate::net) stream: Stream,
    pub(in crate::net) layers: Option<Box<Layers>>,
    pub(in crate::net) guard: ConnectionGuard,
    pub(in crate::net) peer: Option<SocketAddr>,
    pub(in crate::net) sequence: u64,
    unread: bool,
    hung_up: bool,
    watches_writable: bool,
    pub(in crate::net) policy: Arc<EndpointPolicy>,
    pub(in crate::net) version: ProtocolVersion,
    /// As sent, or as assigned.
    pub(in crate::net) client_id: Box<str>,
    /// The CONNECT packet, and the bytes after it.
    pub(in crate::net) bytes: Vec<u8>,
    pub(in crate::net) outcome: AuthOutcome,
}

/// The result of a successful authentication.
pub(in crate::net) struct AuthOutcome {
    /// The client id, if the server assigned it.
    pub(in crate::net) assigned_id: Option<Box<str>>,
    pub(in crate::net) principal: Principal,
    pub(in crate::net) authentication_data: Option<Vec<u8>>,
    enhanced: Option<Box<EnhancedAuth>>,
}

/// The CONNACK of a refusal.
pub(in crate::net) fn refusal_packet(version: ProtocolVersion, refusal: AuthRefusal) -> Vec<u8> {
    let is_v5 = version == ProtocolVersion::V5;
    refusal_bytes(version, if is_v5 { refusal.reason_code() } else { refusal.return_code() })
}

/// Why a CONNECT is refused before authentication, with the code for its CONNACK.
fn refusal_of_connect(handshake: &Handshake, version: ProtocolVersion) -> Option<(CloseReason, u8)> {
    let is_v5 = version == ProtocolVersion::V5;
    if !handshake.policy.endpoint.versions.admits(version) {
        // [MQTT-3.1.2-2]
        let code = ReasonCode::UnsupportedProtocolVersion.as_u8();
        return Some((CloseReason::Version, if is_v5 { code } else { return_code::UNACCEPTABLE_PROTOCOL_VERSION }));
    }
    let code = ReasonCode::QuotaExceeded.as_u8();
    let code = if is_v5 { code } else { return_code::SERVER_UNAVAILABLE };
    handshake.over_limit.then_some((CloseReason::ConnectionLimit, code))
}

impl Shard {
    /// Handles a complete CONNECT, the first `len` of `bytes`.
    pub(super) fn on_connect(
        &mut self,
        key: ConnectionKey,
        connect: &Connect<'_>,
        len: usize,
        bytes: &[u8],
    ) -> Progress {
        let Some(connection) = self.table.get_mut(key) else { return self.abort_handshake(key) };
        let ConnectionState::Pending(handshake) = &mut connection.state else { return self.abort_handshake(key) };
        if let Some((reason, code)) = refusal_of_connect(handshake, connect.version) {
            self.refuse(key, reason, &refusal_bytes(connect.version, code));
            return Progress::Done;
        }
        if connect.client_id.is_empty() {
            match self.client_ids.next() {
                Ok(id) => handshake.assigned_id = Some(id),
                Err(_) => {
                    tracing::error!("client id not assigned: the system provides no random bytes");
                    self.refuse(key, CloseReason::Session, &refusal_packet(connect.version, AuthRefusal::Unavailable));
                    return Progress::Done;
                }
            }
        }
        let properties = &connect.properties;
        let decision = handshake.policy.authenticate.authenticate(&Credentials {
            endpoint: &handshake.policy.endpoint,
            now: self.now,
            version: connect.version,
            client_id: handshake.assigned_id.as_deref().unwrap_or(connect.client_id),
            client_id_assigned: handshake.assigned_id.is_some(),
            username: connect.username,
            password: connect.password,
            peer: connection.peer,
            certificate: handshake.certificate.as_deref(),
            tls: connection.layers.as_ref().is_some_and(|layers| layers.tls.is_some()),
            authentication_method: properties.authentication_method,
            authentication_data: properties.authentication_data,
            reauthentication: false,
            start_check: None,
        });
        let (principal, authentication_data, given_id) = match decision {
            Decision::Admit(principal) => (principal, None, None),
            Decision::AdmitWith { principal, data, client_id } => (principal, data, client_id),
            other => {
                handshake.connect = bytes[..len].to_vec();
                handshake.input = bytes[len..].to_vec();
                return self.on_pending_decision(key, other);
            }
        };
        let assigned_id = handshake.assigned_id.take().map(|own| given_id.unwrap_or(own));
        let enhanced = EnhancedAuth::new(connect, handshake, assigned_id.as_deref());
        self.admit_or_hand_over(
            key,
            connect,
            bytes,
            len,
            AuthOutcome { assigned_id, principal, authentication_data, enhanced },
        );
        Progress::Done
    }

    /// Handles the decision of a worker or an authentication task. The connection may be closed or refused by now.
    pub(super) fn on_auth_decision(&mut self, key: ConnectionKey, decision: Decision) {
        match self.table.get(key).map(|connection| &connection.state) {
            Some(ConnectionState::Open(_)) => self.on_reauthentication_decision(key, decision),
            Some(ConnectionState::Pending(_)) => {
                self.on_pending_decision(key, decision);
            }
            Some(ConnectionState::Lingering) | None => {}
        }
        if let Some(connection) = self.table.get_mut(key)
            && connection.unread
        {
            self.ready.push(key);
        }
    }

    /// Handles a decision that was not immediate: the handshake holds the CONNECT packet.
    fn on_pending_decision(&mut self, key: ConnectionKey, decision: Decision) -> Progress {
        let Some(connection) = self.table.get_mut(key) else { return self.abort_handshake(key) };
        let ConnectionState::Pending(handshake) = &mut connection.state else { return self.abort_handshake(key) };
        let (principal, authentication_data, given_id) = match decision {
            Decision::Admit(principal) => (principal, None, None),
            Decision::AdmitWith { principal, data, client_id } => (principal, data, client_id),
            Decision::Task(task) => {
                let task = spawn_auth_task(&self.shared, &self.mailbox, key, task);
                handshake.stage = Stage::Authenticating { _work: Some(AuthWork::Task(task)) };
                return Progress::Wait;
            }
            Decision::Blocking(work) => {
                let (endpoint, bytes) = (handshake.policy.endpoint.id, handshake.connect.len());
                let client = AuthClient { key, endpoint, peer: connection.peer, bytes };
                match queue_auth_job(&self.shared, &self.mailbox, client, work) {
                    Ok(job) => handshake.stage = Stage::Authenticating { _work: Some(AuthWork::Job(job)) },
                    Err(Busy) => return self.refuse_authentication(key, AuthRefusal::Busy),
                }
                return Progress::Wait;
            }
            Decision::Refuse(refusal) => return self.refuse_authentication(key, refusal),
            Decision::Continue { data, exchange } => {
                handshake.stage = Stage::EnhancedAuth(exchange);
                return self.continue_authentication(key, &data);
            }
        };
        let assigned_id = handshake.assigned_id.take().map(|own| given_id.unwrap_or(own));
        let mut bytes = std::mem::take(&mut handshake.connect);
        let len = bytes.len();
        bytes.append(&mut handshake.input);
        // The same code has decoded the packet before.
        let Ok(Decoded::Packet { packet: connect, .. }) = decode_connect(&bytes, u32::MAX) else {
            return self.abort_handshake(key);
        };
        let enhanced = EnhancedAuth::new(&connect, handshake, assigned_id.as_deref());
        let outcome = AuthOutcome { assigned_id, principal, authentication_data, enhanced };
        self.admit_or_hand_over(key, &connect, &bytes, len, outcome);
        Progress::Done
    }

    /// A defect: a connection lost the state of its handshake. Counts it and closes the connection, which might have no
    /// deadline otherwise.
    #[cold]
    #[track_caller]
    pub(super) fn abort_handshake(&mut self, key: ConnectionKey) -> Progress {
        self.abort_connection(key);
        self.core.count_internal_error(Site::HandshakeOfConnection);
        Progress::Done
    }

    fn refuse_authentication(&mut self, key: ConnectionKey, refusal: AuthRefusal) -> Progress {
        let Some(ConnectionState::Pending(handshake)) = self.table.get(key).map(|connection| &connection.state) else {
            return self.abort_handshake(key);
        };
        let connect = match decode_connect(&handshake.connect, u32::MAX) {
            Ok(Decoded::Packet { packet, .. }) => Some(packet),
            _ => None,
        };
        let version = connect.as_ref().map_or(ProtocolVersion::V5, |connect| connect.version);
        let client_id = connect.as_ref().map_or("", |connect| connect.client_id);
        let endpoint = &*handshake.policy.endpoint.name;
        let peer = self.table.get(key).and_then(|connection| connection.peer);
        let assigned_id = handshake.assigned_id.as_deref();
        self.report_authentication_refused(&handshake.policy.endpoint, peer, connect.as_ref(), assigned_id, refusal);
        let client_id = &*log_value(client_id);
        let peer = peer.map(tracing::field::display);
        match handshake.policy.authenticate.missing_document().filter(|_| refusal == AuthRefusal::NoAuthDocument) {
            Some(name) => {
                tracing::warn!(endpoint, peer, client_id, "authentication failed: no auth document named {name:?}");
            }
            None => tracing::info!(endpoint, peer, client_id, why = ?refusal, "authentication failed: client refused"),
        }
        let reason = match refusal {
            AuthRefusal::Busy => CloseReason::AuthBusy,
            AuthRefusal::RateExceeded => CloseReason::AuthRate,
            _ => CloseReason::Authentication,
        };
        self.refuse(key, reason, &refusal_packet(version, refusal));
        Progress::Done
    }

    /// Sends AUTH 0x18 [MQTT-4.12.0-2].
    fn continue_authentication(&mut self, key: ConnectionKey, data: &[u8]) -> Progress {
        let Some(connection) = self.table.get_mut(key) else { return self.abort_handshake(key) };
        let ConnectionState::Pending(handshake) = &mut connection.state else { return self.abort_handshake(key) };
        let Ok(Decoded::Packet { packet: connect, .. }) = decode_connect(&handshake.connect, u32::MAX) else {
            return self.abort_handshake(key);
        };
        let challenge = Auth {
            code: ReasonCode::ContinueAuthentication.as_u8(),
            // [MQTT-4.12.0-5]
            authentication_method: connect.properties.authentication_method,
            authentication_data: Some(data),
            ..Auth::default()
        };
        let mut packet = Vec::new();
        if let Err(error) = auth(&mut packet, connect.version, &challenge) {
            tracing::error!(%error, "AUTH not sent: the authenticator's data cannot be encoded");
            return self.refuse_authentication(key, AuthRefusal::Unavailable);
        }
        handshake.out.push(&packet);
        if !handshake.input.is_empty() {
            // The client sent an answer before the challenge.
            let code = ReasonCode::ProtocolError.as_u8();
            self.refuse(key, CloseReason::Protocol, &refusal_bytes(ProtocolVersion::V5, code));
            return Progress::Done;
        }
        self.flush_connection(key);
        Progress::Wait
    }

    /// Handles a packet during enhanced authentication: AUTH, or DISCONNECT [MQTT-4.12.0-4].
    pub(super) fn on_auth_bytes(&mut self, key: ConnectionKey, mut input: Vec<u8>) -> Progress {
        let Some(connection) = self.table.get_mut(key) else { return self.abort_handshake(key) };
        let ConnectionState::Pending(handshake) = &mut connection.state else { return self.abort_handshake(key) };
        let context = DecodeContext {
            version: ProtocolVersion::V5,
            max_packet_size: handshake.policy.handshake.max_connect_bytes,
            from: Side::Client,
        };
        let (data, len) = match decode(&input, &context) {
            Ok(Decoded::Incomplete { .. }) => {
                handshake.input = input;
                return Progress::Wait;
            }
            Ok(Decoded::Packet { packet: Packet::Auth(answer), len })
                if answer.code == ReasonCode::ContinueAuthentication.as_u8()
                    && answer.authentication_method == authentication_method(&handshake.connect) =>
            {
                (answer.authentication_data.unwrap_or_default().to_vec(), len)
            }
            Ok(Decoded::Packet { packet: Packet::Disconnect(_), .. }) => {
                self.refuse(key, CloseReason::PeerClosed, &[]);
                return Progress::Done;
            }
            other => {
                // CONNACK has only these two of the decoder's reason codes.
                let code = match other {
                    Err(DecodeError { reason, .. })
                        if matches!(reason, ReasonCode::MalformedPacket | ReasonCode::PacketTooLarge) =>
                    {
                        reason
                    }
                    _ => ReasonCode::ProtocolError,
                };
                self.refuse(key, CloseReason::Protocol, &refusal_bytes(ProtocolVersion::V5, code.as_u8()));
                return Progress::Done;
            }
        };
        handshake.input = input.split_off(len);
        let authenticating = Stage::Authenticating { _work: None };
        let Stage::EnhancedAuth(exchange) = std::mem::replace(&mut handshake.stage, authenticating) else {
            return self.abort_handshake(key);
        };
        self.on_pending_decision(key, exchange.step(&data))
    }

    /// Admits an authenticated client to this shard's core, or hands it over to its home shard.
    fn admit_or_hand_over(
        &mut self,
        key: ConnectionKey,
        connect: &Connect<'_>,
        bytes: &[u8],
        len: usize,
        outcome: AuthOutcome,
    ) {
        let Some(ConnectionState::Pending(handshake)) = self.table.get(key).map(|connection| &connection.state) else {
            self.abort_handshake(key);
            return;
        };
        let policy = Arc::clone(&handshake.policy.endpoint);
        let client_id = outcome.assigned_id.as_deref().unwrap_or(connect.client_id);
        if !handshake.internal && client_id.starts_with(LOCAL_ID_PREFIX) {
            // Only bridges of this process may take over the sessions of bridges.
            let code = match connect.version {
                ProtocolVersion::V5 => ReasonCode::ClientIdentifierNotValid.as_u8(),
                _ => return_code::IDENTIFIER_REJECTED,
            };
            return self.refuse(key, CloseReason::Session, &refusal_bytes(connect.version, code));
        }
        if !handshake.internal && !self.shared.accepts_clients.load(Ordering::Acquire) {
            let code = match connect.version {
                ProtocolVersion::V5 => ReasonCode::ServerUnavailable.as_u8(),
                _ => return_code::SERVER_UNAVAILABLE,
            };
            return self.refuse(key, CloseReason::NodeOut, &refusal_bytes(connect.version, code));
        }
        let home = home_shard(&policy.namespace, client_id, self.peers.len() as u16);
        let is_elsewhere =
            self.shared.relay.as_ref().is_some_and(|relay| relay.is_elsewhere(&policy, connect, client_id));
        if home == self.id && !is_elsewhere {
            return self.admit(key, policy, connect, &bytes[len..], outcome);
        }
        let client_id = client_id.into();
        let position = handshake.position;
        let Some(mut connection) = self.table.remove(key) else {
            self.abort_handshake(key);
            return;
        };
        self.remove_pending(position);
        if connection.registered
            && let Err(error) = connection.stream.deregister(self.poll.registry())
        {
            tracing::error!(shard = self.id.0, %error, "connection deregistration failed: closing it");
            return;
        }
        let hand_over = HandOver {
            stream: connection.stream,
            layers: connection.layers,
            guard: connection.guard,
            peer: connection.peer,
            sequence: connection.sequence,
            unread: connection.unread,
            hung_up: connection.hung_up,
            watches_writable: connection.watches_writable,
            policy,
            version: connect.version,
            client_id,
            bytes: bytes.to_vec(),
            outcome,
        };
        if let Some(relay) = self.shared.relay.as_ref().filter(|_| is_elsewhere) {
            return relay.send(RelayEvent::HandOver(Box::new(hand_over)));
        }
        self.outgoing[usize::from(home.0)].push(ShardEvent::HandOver(Box::new(hand_over)));
    }

    pub(super) fn on_hand_over(&mut self, hand_over: HandOver) {
        let HandOver { stream, layers, guard, peer, sequence, unread, hung_up, watches_writable, .. } = hand_over;
        let (policy, bytes, outcome) = (hand_over.policy, hand_over.bytes, hand_over.outcome);
        // `Lingering` until the core has admitted it.
        let state = ConnectionState::Lingering;
        let mut connection = Connection::new(stream, state, layers, guard, peer, sequence, policy.generation);
        (connection.unread, connection.hung_up) = (unread, hung_up);
        connection.watches_writable = watches_writable;
        let key = self.table.insert(connection);
        let Ok(Decoded::Packet { packet: connect, len }) = decode_connect(&bytes, u32::MAX) else {
            self.abort_handshake(key);
            return;
        };
        self.admit(key, policy, &connect, &bytes[len..], outcome);
        self.register(key);
    }

    /// Admits a client whose home is this shard; `rest` are the bytes after its CONNECT.
    fn admit(
        &mut self,
        key: ConnectionKey,
        policy: Arc<EndpointPolicy>,
        connect: &Connect<'_>,
        rest: &[u8],
        outcome: AuthOutcome,
    ) {
        let Some(connection) = self.table.get_mut(key) else {
            self.abort_handshake(key);
            return;
        };
        connection.generation = policy.generation;
        let client_id = outcome.assigned_id.as_deref().unwrap_or(connect.client_id);
        // Drains that began since it was accepted apply to it too.
        let drain = self.drain_decision_for(key, &policy, connect.version, client_id, &outcome.principal);
        if matches!(drain, DrainDecision::Refuse) || self.shutdown.is_some() {
            return self.refuse(key, CloseReason::Shutdown, &refusal_packet(connect.version, AuthRefusal::Busy));
        }
        let newest = self.policies.get(&policy.id).map(|newest| &newest.endpoint);
        let policy = newest.filter(|newest| newest.generation > policy.generation).map_or(policy, Arc::clone);
        let admission = Admission {
            policy,
            connect,
            client_id,
            assigned: outcome.assigned_id.is_some(),
            principal: outcome.principal,
            authentication_data: outcome.authentication_data.as_deref(),
        };
        let id = match self.core.admit(admission, self.now) {
            Ok(id) => id,
            Err(bytes) => return self.refuse(key, CloseReason::Session, &bytes),
        };
        let Some(connection) = self.table.get_mut(key) else {
            self.core.connection_closed(id, self.now);
            self.abort_handshake(key);
            return;
        };
        connection.enhanced = outcome.enhanced;
        connection.guard.count_admitted();
        if let ConnectionState::Pending(handshake) = std::mem::replace(&mut connection.state, ConnectionState::Open(id))
        {
            let position = handshake.position;
            self.remove_pending(position);
        }
        self.table.bind(id, key);
        if !self.tracers.is_empty() {
            self.trace_admitted(key, id);
        }
        if let DrainDecision::AdmitThenDisconnect(plan) = drain {
            return self.core.disconnect(id, plan.reason_code, plan.server_reference.as_deref(), self.now);
        }
        self.feed_first(key, id, rest);
    }

    fn drain_decision_for(
        &self,
        key: ConnectionKey,
        policy: &EndpointPolicy,
        version: ProtocolVersion,
        client_id: &str,
        principal: &Principal,
    ) -> DrainDecision {
        let Some(connection) = self.table.get(key) else { return DrainDecision::Refuse };
        let facts = ConnectionFacts {
            client_id,
            principal,
            peer: connection.peer,
            version,
            generation: policy.generation,
            certificates: connection.layers.as_ref().map(|layers| layers.peer_certificates()).unwrap_or_default(),
        };
        self.past_drains.decision(policy.id, connection.sequence, &facts)
    }
}

/// The authentication method of a CONNECT packet.
fn authentication_method(connect: &[u8]) -> Option<&str> {
    match decode_connect(connect, u32::MAX) {
        Ok(Decoded::Packet { packet, .. }) => packet.properties.authentication_method,
        _ => None,
    }
}
