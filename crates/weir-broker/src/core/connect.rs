//! Admission of clients: takeover, sessions that begin or resume, CONNACK.

use std::sync::Arc;

use crate::clients::connection::{Connection, ConnectionCold};
use crate::clients::rate_limit::PublishRates;
use crate::clients::session::{NEVER_EXPIRES, Session};
use crate::clients::timers::Timer;
use crate::core::events::is_reserved;
use crate::core::slots::slot_class;
use crate::delivery::fanout_scheduler::ConnectionOutput;
use crate::delivery::outgoing_aliases::OutgoingAliases;
use crate::durability::journal::DurableSession;
use crate::ids::{ConnId, ConnectionSlot, Millis, NamespaceId, RecordId, SessionId};
use crate::interceptor::Panicked;
use crate::limits::CLIENT_ID_MAX_BYTES;
use crate::observe::Site;
use crate::values::memory::ByteCount;
use crate::values::message::{Message, expires_at};
use crate::values::publisher::PublisherIdentity;
use crate::values::will::PendingWill;
use crate::{Admission, Core, Dropped, MemoryKind, Subject, Verdict};
use weir_mqtt::{ConnAck, ConnAckProperties, Packet, ProtocolVersion, Publish, QoS, ReasonCode, return_code};

impl Core {
    /// See [`Core::admit`].
    pub(crate) fn admit_client(&mut self, admission: &Admission<'_>, now: Millis) -> Result<ConnId, Vec<u8>> {
        let connect = admission.connect;
        if self.must_be_served_elsewhere(admission, now) {
            return Err(connack_for_reason(connect.version, ReasonCode::ServerUnavailable));
        }
        if let Some(reason) = self.refusal(admission).or_else(|| self.denial_of_interceptor(admission)) {
            if reason == ReasonCode::NotAuthorized {
                let index = self.observe.index_of(admission.policy.id);
                self.observe.endpoint(index).authorization_failures += 1;
                self.will_refused_event(admission);
            }
            return Err(connack_for_reason(connect.version, reason));
        }
        let policy = Arc::clone(&admission.policy);
        let namespace = self.routing.namespace(&policy.namespace);
        let expiry_s = session_expiry_s(admission);
        let mark = self.journal.mark();
        let (session_id, present) = match self.clients.find_session(namespace, admission.client_id) {
            Some(old) => self.take_over(old, connect.clean_start, now),
            None if self.has_room_for_session(admission) => (None, false),
            None => {
                self.memory.count_refusal(MemoryKind::Sessions);
                return Err(connack_for_reason(connect.version, ReasonCode::QuotaExceeded));
            }
        };
        let session_id = session_id.unwrap_or_else(|| self.new_session(admission, namespace, expiry_s));
        let connection = self.new_connection(admission, session_id, now);
        let id = self.clients.add_connection(connection);
        let slot = id.slot;
        let durable = self.clients.session(session_id).is_some_and(|session| session.durable.is_some());
        let count = self.clients.session_bytes().clone();
        let will = will(admission, &count, || if durable { self.journal.new_id() } else { RecordId::NONE });
        self.clients.attach(session_id, slot, policy, will, expiry_s);
        if let Some(session) = self.clients.session_mut(session_id) {
            (session.slot_class, session.stamp) = (slot_class(admission), self.stamp);
        }
        self.start_timers(id, admission, now);
        self.record_session(session_id);
        if self.journal.has_recorded(mark) {
            // CONNACK's session present flag must still be true after a crash; everything else follows CONNACK.
            self.gate_connack(slot);
        }
        // The node that serves a session knows that it is the only one: what others have of it is older.
        self.announce_client(slot, admission.client_id, !present);
        self.entrust_will(slot);
        self.write_connack(slot, admission, expiry_s, present);
        self.connected_event(session_id, connect, expiry_s, present);
        if present {
            // Subscriptions granted by an earlier endpoint or rule set are checked against the present one.
            self.reauthorize_session(session_id);
            self.resend(session_id, slot, now);
            self.report_readiness(session_id);
        }
        Ok(id)
    }

    /// Why the policy refuses a CONNECT, by checks that the driver could not make; `None`: it does not.
    fn refusal(&self, admission: &Admission<'_>) -> Option<ReasonCode> {
        let (policy, connect) = (&admission.policy, admission.connect);
        if admission.client_id.len() > CLIENT_ID_MAX_BYTES {
            return Some(ReasonCode::ClientIdentifierNotValid);
        }
        let will = connect.will.as_ref()?;
        let limits = &policy.limits;
        if will.qos > limits.maximum_qos {
            return Some(ReasonCode::QoSNotSupported);
        }
        if will.retain && !limits.retain_available {
            return Some(ReasonCode::RetainNotSupported);
        }
        if weir_mqtt::levels(will.topic) > usize::from(limits.max_topic_levels) {
            return Some(ReasonCode::TopicNameInvalid);
        }
        if will.properties.payload_format_indicator == Some(1) && std::str::from_utf8(will.payload).is_err() {
            return Some(ReasonCode::PayloadFormatInvalid);
        }
        let principal = &admission.principal;
        let subject = Subject {
            client_id: admission.client_id,
            username: principal.username.as_deref(),
            address: principal.address,
        };
        let acls = [&policy.acl, &principal.claims_acl];
        let allowed = !is_reserved(will.topic)
            && acls.into_iter().flatten().all(|acl| acl.may_publish(subject, will.topic, will.qos, will.retain));
        (!allowed).then_some(ReasonCode::NotAuthorized)
    }

    /// Why an interceptor denies a CONNECT; `None`: none does.
    fn denial_of_interceptor(&mut self, admission: &Admission<'_>) -> Option<ReasonCode> {
        let (policy, principal) = (&admission.policy, &admission.principal);
        let subject = Subject {
            client_id: admission.client_id,
            username: principal.username.as_deref(),
            address: principal.address,
        };
        let is_v5 = admission.connect.version == ProtocolVersion::V5;
        match policy.interceptors.as_ref()?.connect(subject) {
            Ok(Verdict::Allow) => None,
            Ok(Verdict::Deny(reason)) => Some(if is_v5 { reason.of_message() } else { ReasonCode::NotAuthorized }),
            Err(Panicked) => {
                self.count_dropped(policy.id, Dropped::InterceptorPanic, 1);
                Some(ReasonCode::ImplementationSpecificError)
            }
        }
    }

    fn new_session(&mut self, admission: &Admission<'_>, namespace: NamespaceId, expiry_s: u32) -> SessionId {
        let durable = self.journal.is_on() && admission.policy.limits.is_durable() && expiry_s > 0;
        let durable = durable.then(|| Box::new(DurableSession::new(self.journal.new_id(), false)));
        if durable.is_some() {
            self.broadcast_durable();
        }
        let session = Session {
            client_id: admission.client_id.into(),
            namespace,
            connection: None,
            expiry_s: 0,
            ends_at: Millis::MAX,
            dropped: 0,
            counted_offline: false,
            policy: Arc::clone(&admission.policy),
            subscriptions: Vec::new(),
            inflight: self.scheduler.new_inflight(),
            queue: self.scheduler.new_queue(),
            incoming: None,
            will: None,
            cold: None,
            ending: false,
            slot_class: None,
            stamp: 0,
            durable,
        };
        self.clients.add_session(session).id
    }

    fn new_connection(&mut self, admission: &Admission<'_>, session: SessionId, now: Millis) -> Connection {
        let (connect, policy) = (admission.connect, &admission.policy);
        let properties = &connect.properties;
        let keep_alive_s = server_keep_alive_s(admission).unwrap_or(connect.keep_alive_s);
        let mut connection = Connection {
            session,
            endpoint: self.observe.index_of(policy.id),
            policy: Arc::clone(policy),
            principal: Box::new(admission.principal.clone()),
            version: connect.version,
            is_bridge: connect.bridge,
            closing: false,
            is_will_kept: false,
            intercepts_deliveries: policy.intercepts_deliveries(),
            receive_maximum: properties.receive_maximum.map_or(u16::MAX, std::num::NonZeroU16::get),
            maximum_packet_size: properties.maximum_packet_size.unwrap_or(u32::MAX),
            keep_alive_ms: u32::from(keep_alive_s) * 1500,
            last_received: now,
            connected_at: now,
            stamp: self.next_stamp(),
            messages_received: 0,
            messages_sent: 0,
            outlet: ConnectionOutput::default(),
            pauses: 0,
            waiters: Vec::new(),
            permitted: None,
            slow_until: 0,
            counted_bytes: 0,
            cold: None,
        };
        let rates = PublishRates::new(&policy.limits, now);
        let alias_maximum = properties.topic_alias_maximum.unwrap_or(0).min(policy.limits.max_topic_alias_out);
        let (method, seed) = (properties.authentication_method, self.clients.seed());
        let tables = self.clients.table_bytes().clone();
        let via_owner = self.take_saved_routes(session);
        if rates.is_some() || alias_maximum > 0 || method.is_some() || !via_owner.is_empty() {
            let cold: &mut ConnectionCold = connection.cold_mut();
            cold.via_owner = via_owner;
            cold.rates = rates;
            cold.outgoing_aliases =
                (alias_maximum > 0).then(|| Box::new(OutgoingAliases::new(alias_maximum, seed, &tables)));
            cold.authentication_method = method.map(Into::into);
        }
        connection
    }

    fn start_timers(&mut self, id: ConnId, admission: &Admission<'_>, now: Millis) {
        let Some(connection) = self.clients.connection(id.slot) else {
            return self.observe.count_error(Site::ConnectionOfPacket);
        };
        if connection.keep_alive_ms > 0 {
            self.clients.set_timer(now + u64::from(connection.keep_alive_ms), Timer::KeepAlive(id));
        }
        if let Some(at) = admission.principal.expires_at {
            self.clients.set_timer(at, Timer::Credential(id));
        }
    }

    fn write_connack(&mut self, slot: ConnectionSlot, admission: &Admission<'_>, expiry_s: u32, present: bool) {
        let connect = admission.connect;
        let limits = &admission.policy.limits;
        let asked_s = connect.properties.session_expiry_s.unwrap_or(0);
        let response = connect
            .properties
            .request_response_information
            .unwrap_or(false)
            .then(|| format!("response/{}", admission.client_id));
        let properties = ConnAckProperties {
            session_expiry_s: (expiry_s != asked_s).then_some(expiry_s),
            receive_maximum: std::num::NonZeroU16::new(limits.receive_maximum),
            maximum_qos: (limits.maximum_qos < QoS::ExactlyOnce).then_some(limits.maximum_qos),
            retain_available: (!limits.retain_available).then_some(false),
            maximum_packet_size: Some(limits.message_max_size),
            assigned_client_id: admission.assigned.then_some(admission.client_id),
            topic_alias_maximum: (limits.topic_alias_maximum > 0).then_some(limits.topic_alias_maximum),
            server_keep_alive_s: server_keep_alive_s(admission),
            response_information: response.as_deref(),
            authentication_method: connect.properties.authentication_method,
            authentication_data: admission.authentication_data,
            ..ConnAckProperties::default()
        };
        let properties = if connect.version == ProtocolVersion::V5 { properties } else { ConnAckProperties::default() };
        // 3.1 has no session present flag [3.1, section 3.2].
        let session_present = present && connect.version != ProtocolVersion::V3_1;
        let connack = Packet::ConnAck(Box::new(ConnAck { session_present, code: 0, properties }));
        self.write_packet(slot, &connack, connect.version);
    }

    pub(crate) fn write_packet(&mut self, slot: ConnectionSlot, packet: &Packet<'_>, version: ProtocolVersion) {
        self.write(slot, |out| weir_mqtt::encode(packet, version, out));
    }
}

/// The effective session expiry: the client's, at most the endpoint's. A 3.x session lasts with its connection or,
/// without Clean Session, for ever.
fn session_expiry_s(admission: &Admission<'_>) -> u32 {
    let connect = admission.connect;
    let asked_s = match connect.version {
        ProtocolVersion::V5 => connect.properties.session_expiry_s.unwrap_or(0),
        _ if connect.clean_start => 0,
        _ => NEVER_EXPIRES,
    };
    asked_s.min(admission.policy.limits.session_expiry_max_s.unwrap_or(NEVER_EXPIRES))
}

/// The keep-alive that the server assigns because the client's exceeds the endpoint's maximum.
fn server_keep_alive_s(admission: &Admission<'_>) -> Option<u16> {
    let ceiling_s = admission.policy.limits.keep_alive_max_s?;
    let asked_s = admission.connect.keep_alive_s;
    // Only 5.0 can be sent it; a limit that the others do not know would end healthy connections.
    (admission.connect.version == ProtocolVersion::V5 && (asked_s == 0 || asked_s > ceiling_s)).then_some(ceiling_s)
}

/// The will of a CONNECT, ready to be sent. Its `expires_at` is a duration until it is published.
fn will(admission: &Admission<'_>, count: &ByteCount, record: impl FnOnce() -> RecordId) -> Option<Box<PendingWill>> {
    let will = admission.connect.will.as_ref()?;
    let publish = Publish {
        dup: false,
        qos: will.qos,
        retain: will.retain,
        topic: will.topic,
        packet_id: None,
        properties: will.properties.clone(),
        payload: will.payload,
    };
    let lives = expires_at(will.properties.message_expiry_s, admission.policy.limits.message_expiry_max_s, 0);
    let (client_id, principal) = (admission.client_id, &admission.principal);
    let publisher = will.retain.then(|| Arc::new(PublisherIdentity::new(client_id, principal, &admission.policy.name)));
    let message = Message::new(will.topic, &publish, lives).published_by(publisher);
    let (record, principal) = (record(), principal.clone());
    let delay_s = will.delay_s.min(admission.policy.limits.max_will_delay_s);
    let charge = count.charge(PendingWill::bytes(&message, &principal));
    Some(Box::new(PendingWill { record, message, delay_s, due_at: None, principal, charge }))
}

/// CONNACK for a client that is refused.
pub(crate) fn connack_for_reason(version: ProtocolVersion, reason: ReasonCode) -> Vec<u8> {
    let code = match (version, reason) {
        (ProtocolVersion::V5, reason) => reason as u8,
        (_, ReasonCode::ClientIdentifierNotValid) => return_code::IDENTIFIER_REJECTED,
        (_, ReasonCode::BadUserNameOrPassword) => return_code::BAD_USER_NAME_OR_PASSWORD,
        (_, ReasonCode::NotAuthorized | ReasonCode::Banned) => return_code::NOT_AUTHORIZED,
        (_, ReasonCode::QuotaExceeded | ReasonCode::ServerUnavailable) => return_code::SERVER_UNAVAILABLE,
        // MQTT 3.x has no return code for this: the connection is closed without CONNACK.
        _ => return Vec::new(),
    };
    let mut bytes = Vec::new();
    let connack = ConnAck { session_present: false, code, properties: ConnAckProperties::default() };
    if weir_mqtt::encode(&Packet::ConnAck(Box::new(connack)), version, &mut bytes).is_err() {
        bytes.clear();
    }
    bytes
}
