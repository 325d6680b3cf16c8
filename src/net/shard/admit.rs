//! From CONNECT to the core: authentication, then the hand-over to the client's home shard.

use std::net::SocketAddr;
use std::sync::Arc;

use super::drain::Verdict;
use super::handshake::{Stage, Step, refusal_bytes};
use super::reauthenticate::Enhanced;
use super::table::{Connection, Key, State};
use super::{Event, Shard, Shared};
use crate::auth::{AuthTask, Credentials, Decision, Refusal};
use crate::net::auth_tasks::AuthTaskHandle;
use crate::net::layers::Layers;
use crate::net::mailbox::Mailbox;
use crate::net::plane::ConnectionFacts;
use crate::net::stats::{ConnectionGuard, Reason};
use crate::net::stream::Stream;
use weir_bridge::LOCAL_ID_PREFIX;
use weir_broker::{Admission, EndpointPolicy, Principal, home_shard};
use weir_mqtt::{
    Auth, Connect, DecodeContext, DecodeError, Decoded, Packet, ProtocolVersion, ReasonCode, Side, auth, decode,
    decode_connect, return_code,
};

/// An authenticated client on its way to its home shard.
pub(in crate::net) struct HandOver {
    stream: Stream,
    layers: Option<Box<Layers>>,
    opened: ConnectionGuard,
    peer: Option<SocketAddr>,
    sequence: u64,
    unread: bool,
    hung_up: bool,
    watches_writable: bool,
    policy: Arc<EndpointPolicy>,
    /// The CONNECT packet, and what came after it.
    bytes: Vec<u8>,
    welcome: AuthOutcome,
}

/// What was decided of a client.
struct AuthOutcome {
    /// Where the server chose it.
    assigned_id: Option<Box<str>>,
    principal: Principal,
    authentication_data: Option<Vec<u8>>,
    enhanced: Option<Box<Enhanced>>,
}

/// The words of a refusal, by version.
fn refused(version: ProtocolVersion, refusal: Refusal) -> Vec<u8> {
    let is_v5 = version == ProtocolVersion::V5;
    refusal_bytes(version, if is_v5 { refusal.reason_code() } else { refusal.return_code() })
}

impl Shard {
    /// A whole CONNECT came, `len` of `bytes`.
    pub(super) fn on_connect(&mut self, key: Key, connect: &Connect<'_>, len: usize, bytes: &[u8]) -> Step {
        let Some(connection) = self.table.get_mut(key) else { return Step::Done };
        let State::Pending(handshake) = &mut connection.state else { return Step::Done };
        let endpoint = &handshake.policy.endpoint;
        if !endpoint.versions.admits(connect.version) {
            // [MQTT-3.1.2-2]
            let code = match connect.version {
                ProtocolVersion::V5 => ReasonCode::UnsupportedProtocolVersion.as_u8(),
                _ => return_code::UNACCEPTABLE_PROTOCOL_VERSION,
            };
            self.refuse(key, Reason::Version, &refusal_bytes(connect.version, code));
            return Step::Done;
        }
        if handshake.over_limit {
            let code = match connect.version {
                ProtocolVersion::V5 => ReasonCode::QuotaExceeded.as_u8(),
                _ => return_code::SERVER_UNAVAILABLE,
            };
            self.refuse(key, Reason::ConnectionLimit, &refusal_bytes(connect.version, code));
            return Step::Done;
        }
        if connect.client_id.is_empty() {
            match self.client_ids.next() {
                Ok(id) => handshake.assigned_id = Some(id),
                Err(_) => {
                    tracing::error!("the system gives no random bytes for a client id");
                    self.refuse(key, Reason::Session, &refused(connect.version, Refusal::Unavailable));
                    return Step::Done;
                }
            }
        }
        let properties = &connect.properties;
        let decision = handshake.policy.authenticate.authenticate(&Credentials {
            endpoint,
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
            again: false,
        });
        let (principal, authentication_data, given_id) = match decision {
            Decision::Admit(principal) => (principal, None, None),
            Decision::AdmitWith { principal, data, client_id } => (principal, data, client_id),
            other => {
                handshake.connect = bytes[..len].to_vec();
                handshake.input = bytes[len..].to_vec();
                return self.on_decision(key, other);
            }
        };
        let assigned_id = handshake.assigned_id.take().map(|own| given_id.unwrap_or(own));
        let enhanced = Enhanced::new(connect, handshake, assigned_id.as_deref());
        self.welcome(key, connect, bytes, len, AuthOutcome { assigned_id, principal, authentication_data, enhanced });
        Step::Done
    }

    /// A worker's answer.
    pub(super) fn on_decided(&mut self, key: Key, decision: Decision) {
        match self.table.get(key).map(|connection| &connection.state) {
            Some(State::Open(_)) => self.on_reauthentication_decision(key, decision),
            _ => {
                self.on_decision(key, decision);
            }
        }
        if let Some(connection) = self.table.get_mut(key)
            && connection.unread
        {
            self.ready.push(key);
        }
    }

    /// An answer of the authentication after the first: the CONNECT packet lies with the handshake.
    fn on_decision(&mut self, key: Key, decision: Decision) -> Step {
        let Some(connection) = self.table.get_mut(key) else { return Step::Done };
        let State::Pending(handshake) = &mut connection.state else { return Step::Done };
        let (principal, authentication_data, given_id) = match decision {
            Decision::Admit(principal) => (principal, None, None),
            Decision::AdmitWith { principal, data, client_id } => (principal, data, client_id),
            Decision::Task(task) => {
                let auth_task = spawn_auth_task(&self.shared, &self.mailbox, key, task);
                handshake.stage = Stage::Deciding { _auth_task: auth_task };
                return Step::Wait;
            }
            Decision::Blocking(job) => {
                handshake.stage = Stage::Deciding { _auth_task: None };
                let endpoint = handshake.policy.endpoint.id;
                let mailbox = Arc::clone(&self.mailbox);
                let job = Box::new(move || mailbox.send(Event::Decided { key, decision: job() }));
                if self.shared.workers.submit(endpoint, job).is_err() {
                    return self.refuse_authentication(key, Refusal::Busy);
                }
                return Step::Wait;
            }
            Decision::Refuse(refusal) => return self.refuse_authentication(key, refusal),
            Decision::Continue { data, exchange } => {
                handshake.stage = Stage::Auth(exchange);
                return self.continue_authentication(key, &data);
            }
        };
        let assigned_id = handshake.assigned_id.take().map(|own| given_id.unwrap_or(own));
        let mut bytes = std::mem::take(&mut handshake.connect);
        let len = bytes.len();
        bytes.append(&mut handshake.input);
        // It was decoded before: it is the same code.
        if let Ok(Decoded::Packet { packet: connect, .. }) = decode_connect(&bytes, u32::MAX) {
            let enhanced = Enhanced::new(&connect, handshake, assigned_id.as_deref());
            self.welcome(
                key,
                &connect,
                &bytes,
                len,
                AuthOutcome { assigned_id, principal, authentication_data, enhanced },
            );
        }
        Step::Done
    }

    fn refuse_authentication(&mut self, key: Key, refusal: Refusal) -> Step {
        let Some(State::Pending(handshake)) = self.table.get(key).map(|connection| &connection.state) else {
            return Step::Done;
        };
        let (version, client_id) = match decode_connect(&handshake.connect, u32::MAX) {
            Ok(Decoded::Packet { packet, .. }) => (packet.version, packet.client_id),
            _ => (ProtocolVersion::V5, ""),
        };
        let endpoint = &*handshake.policy.endpoint.name;
        let peer = self.table.get(key).and_then(|connection| connection.peer);
        tracing::info!(endpoint, peer = peer.map(tracing::field::display), client_id, why = ?refusal, "authentication refuses a client");
        self.refuse(key, Reason::Authentication, &refused(version, refusal));
        Step::Done
    }

    /// Sends AUTH 0x18 [MQTT-4.12.0-2].
    fn continue_authentication(&mut self, key: Key, data: &[u8]) -> Step {
        let Some(connection) = self.table.get_mut(key) else { return Step::Done };
        let State::Pending(handshake) = &mut connection.state else { return Step::Done };
        let mut packet = Vec::new();
        if let Ok(Decoded::Packet { packet: connect, .. }) = decode_connect(&handshake.connect, u32::MAX) {
            let more = Auth {
                code: ReasonCode::ContinueAuthentication.as_u8(),
                // [MQTT-4.12.0-5]
                authentication_method: connect.properties.authentication_method,
                authentication_data: Some(data),
                ..Auth::default()
            };
            if let Err(error) = auth(&mut packet, connect.version, &more) {
                tracing::error!(%error, "an authenticator's data cannot be sent");
                return self.refuse_authentication(key, Refusal::Unavailable);
            }
        }
        handshake.out.push(&packet);
        if !handshake.input.is_empty() {
            // An answer to what it has not been asked.
            let code = ReasonCode::ProtocolError.as_u8();
            self.refuse(key, Reason::Protocol, &refusal_bytes(ProtocolVersion::V5, code));
            return Step::Done;
        }
        self.flush_connection(key);
        Step::Wait
    }

    /// Judges what a client sends amid its enhanced authentication: AUTH, or DISCONNECT [MQTT-4.12.0-4].
    pub(super) fn step_auth(&mut self, key: Key, mut input: Vec<u8>) -> Step {
        let Some(connection) = self.table.get_mut(key) else { return Step::Done };
        let State::Pending(handshake) = &mut connection.state else { return Step::Done };
        let context = DecodeContext {
            version: ProtocolVersion::V5,
            max_packet_size: handshake.policy.handshake.max_connect_bytes,
            from: Side::Client,
        };
        let (data, len) = match decode(&input, &context) {
            Ok(Decoded::Incomplete { .. }) => {
                handshake.input = input;
                return Step::Wait;
            }
            Ok(Decoded::Packet { packet: Packet::Auth(answer), len })
                if answer.code == ReasonCode::ContinueAuthentication.as_u8()
                    && answer.authentication_method == method_of(&handshake.connect) =>
            {
                (answer.authentication_data.unwrap_or_default().to_vec(), len)
            }
            Ok(Decoded::Packet { packet: Packet::Disconnect(_), .. }) => {
                self.refuse(key, Reason::PeerClosed, &[]);
                return Step::Done;
            }
            other => {
                // Of the decoder's codes CONNACK has those two.
                let code = match other {
                    Err(DecodeError { reason, .. })
                        if matches!(reason, ReasonCode::MalformedPacket | ReasonCode::PacketTooLarge) =>
                    {
                        reason
                    }
                    _ => ReasonCode::ProtocolError,
                };
                self.refuse(key, Reason::Protocol, &refusal_bytes(ProtocolVersion::V5, code.as_u8()));
                return Step::Done;
            }
        };
        handshake.input = input.split_off(len);
        let deciding = Stage::Deciding { _auth_task: None };
        let Stage::Auth(exchange) = std::mem::replace(&mut handshake.stage, deciding) else { return Step::Done };
        self.on_decision(key, exchange.step(&data))
    }

    /// The client may come in: into this shard's core, or to its home.
    fn welcome(&mut self, key: Key, connect: &Connect<'_>, bytes: &[u8], len: usize, welcome: AuthOutcome) {
        let Some(connection) = self.table.get(key) else { return };
        let State::Pending(handshake) = &connection.state else { return };
        let policy = Arc::clone(&handshake.policy.endpoint);
        let client_id = welcome.assigned_id.as_deref().unwrap_or(connect.client_id);
        if !handshake.inside && client_id.starts_with(LOCAL_ID_PREFIX) {
            // The sessions of bridges are nobody else's to take over.
            let code = match connect.version {
                ProtocolVersion::V5 => ReasonCode::ClientIdentifierNotValid.as_u8(),
                _ => return_code::IDENTIFIER_REJECTED,
            };
            return self.refuse(key, Reason::Session, &refusal_bytes(connect.version, code));
        }
        let home = home_shard(&policy.namespace, client_id, self.peers.len() as u16);
        if home == self.id {
            return self.enter(key, policy, connect, &bytes[len..], welcome);
        }
        let position = handshake.position;
        let Some(mut connection) = self.table.remove(key) else { return };
        self.no_longer_pending(position);
        if connection.registered
            && let Err(error) = connection.stream.deregister(self.poll.registry())
        {
            tracing::error!(shard = self.id.0, %error, "a connection could not leave the poll");
            return;
        }
        let hand_over = HandOver {
            stream: connection.stream,
            layers: connection.layers,
            opened: connection.opened,
            peer: connection.peer,
            sequence: connection.sequence,
            unread: connection.unread,
            hung_up: connection.hung_up,
            watches_writable: connection.watches_writable,
            policy,
            bytes: bytes.to_vec(),
            welcome,
        };
        self.outgoing[usize::from(home.0)].push(Event::HandOver(Box::new(hand_over)));
    }

    pub(super) fn on_hand_over(&mut self, hand_over: HandOver) {
        let HandOver { stream, layers, opened, peer, sequence, unread, hung_up, watches_writable, .. } = hand_over;
        let (policy, bytes, welcome) = (hand_over.policy, hand_over.bytes, hand_over.welcome);
        let key = self.table.insert(Connection {
            stream,
            state: State::Lingering,
            layers,
            partial: None,
            enhanced: None,
            opened,
            peer,
            sequence,
            generation: policy.generation,
            registered: false,
            watches_writable,
            blocked: false,
            paused: false,
            unread,
            read_bytes: super::receive::FIRST_READ_BYTES,
            deferred: false,
            is_deferred: false,
            hung_up,
            closing: false,
        });
        if let Ok(Decoded::Packet { packet: connect, len }) = decode_connect(&bytes, u32::MAX) {
            self.enter(key, policy, &connect, &bytes[len..], welcome);
        }
        self.register(key);
    }

    /// Admits a client whose home is this shard; `rest` is what came after its CONNECT.
    fn enter(
        &mut self,
        key: Key,
        policy: Arc<EndpointPolicy>,
        connect: &Connect<'_>,
        rest: &[u8],
        welcome: AuthOutcome,
    ) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.generation = policy.generation;
        let client_id = welcome.assigned_id.as_deref().unwrap_or(connect.client_id);
        // What changed since it was accepted holds for it too.
        let verdict = self.verdict_on(key, &policy, connect.version, client_id, &welcome.principal);
        if matches!(verdict, Verdict::Refuse) || self.ending.is_some() {
            return self.refuse(key, Reason::Shutdown, &refused(connect.version, Refusal::Busy));
        }
        let newest = self.policies.get(&policy.id).map(|newest| &newest.endpoint);
        let policy = newest.filter(|newest| newest.generation > policy.generation).map_or(policy, Arc::clone);
        let admission = Admission {
            policy,
            connect,
            client_id,
            assigned: welcome.assigned_id.is_some(),
            principal: welcome.principal,
            authentication_data: welcome.authentication_data.as_deref(),
        };
        let id = match self.core.admit(admission, self.now) {
            Ok(id) => id,
            Err(bytes) => return self.refuse(key, Reason::Session, &bytes),
        };
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.enhanced = welcome.enhanced;
        connection.opened.metrics().admitted();
        if let State::Pending(handshake) = std::mem::replace(&mut connection.state, State::Open(id)) {
            let position = handshake.position;
            self.no_longer_pending(position);
        }
        self.table.bind(id, key);
        if !self.tracers.is_empty() {
            self.trace_admitted(key, id);
        }
        if let Verdict::Leave(plan) = verdict {
            return self.core.disconnect(id, plan.reason_code, plan.server_reference.as_deref(), self.now);
        }
        self.feed_first(key, id, rest);
    }

    fn verdict_on(
        &self,
        key: Key,
        policy: &EndpointPolicy,
        version: ProtocolVersion,
        client_id: &str,
        principal: &Principal,
    ) -> Verdict {
        let Some(connection) = self.table.get(key) else { return Verdict::Refuse };
        let tls = connection.layers.as_ref().and_then(|layers| layers.tls.as_ref());
        let facts = ConnectionFacts {
            client_id,
            principal,
            peer: connection.peer,
            version,
            generation: policy.generation,
            certificates: tls.and_then(|tls| tls.peer_certificates()).unwrap_or_default(),
        };
        self.verdict(policy.id, connection.sequence, &facts)
    }
}

/// Starts an authentication task; its decision comes to [`Shard::on_decided`].
pub(super) fn spawn_auth_task(
    shared: &Shared,
    mailbox: &Arc<Mailbox<Event>>,
    key: Key,
    task: AuthTask<Decision>,
) -> Option<AuthTaskHandle> {
    let mailbox = Arc::clone(mailbox);
    shared.auth_tasks.submit(async move { mailbox.send(Event::Decided { key, decision: task.await }) })
}

/// The authentication method a CONNECT named.
fn method_of(connect: &[u8]) -> Option<&str> {
    match decode_connect(connect, u32::MAX) {
        Ok(Decoded::Packet { packet, .. }) => packet.properties.authentication_method,
        _ => None,
    }
}
