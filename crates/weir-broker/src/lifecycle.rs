//! Connections come and go; sessions begin, resume and end; wills are sent.

use std::sync::Arc;

use super::connection::{Aside, Connection};
use super::inflight::Inflight;
use super::journal::Durable;
use super::limits::CLIENT_ID_MAX_BYTES;
use super::message::{Message, expires_at};
use super::outbox::{Handover, Recipients};
use super::provenance::Publisher;
use super::rate::Rates;
use super::record::RecordId;
use super::session::{NEVER_EXPIRES, PendingWill, Queue, Session, SessionRef, SpaceId};
use super::subscriptions::SessionId;
use super::timers::Timer;
use super::{Admission, ConnId, Core, Ended, EndpointId, EndpointPolicy, Millis, OutBuf, Subject};
use weir_mqtt::{ConnAck, ConnAckProperties, Disconnect, Packet, ProtocolVersion, Publish, QoS, ReasonCode};

impl Core {
    /// See [`Core::admit`].
    pub(super) fn admit_client(&mut self, admission: &Admission<'_>, now: Millis) -> Result<ConnId, Vec<u8>> {
        let connect = admission.connect;
        if let Some(reason) = self.refusal(admission) {
            if reason == ReasonCode::NotAuthorized {
                let place = self.endpoint_place(admission.policy.id);
                self.counters[place as usize].authorization_failures += 1;
            }
            return Err(refusal_bytes(connect.version, reason));
        }
        let policy = Arc::clone(&admission.policy);
        let space = self.space(&policy.namespace);
        let expiry_s = session_expiry_s(admission);
        let recorded = self.journal.recorded;
        let (session_id, present) = match self.find_session(space, admission.client_id) {
            Some(old) => self.take_over(old, connect.clean_start, now),
            None => (None, false),
        };
        let session_id = session_id.unwrap_or_else(|| self.new_session(admission, space, expiry_s));
        let connection = self.new_connection(admission, session_id, now);
        let (slot, generation) = self.connections.insert(connection);
        let id = ConnId { slot, generation };
        if let Some(session) = self.sessions.get_mut(session_id) {
            if std::mem::take(&mut session.counted_away) {
                self.away.subtract(session.policy.id);
            }
            session.connection = Some(slot);
            session.expiry_s = expiry_s;
            session.ends_at = Millis::MAX;
            let durable = session.durable.is_some();
            session.will = will(admission, || if durable { self.journal.new_id() } else { RecordId::NONE });
            session.policy = policy;
        }
        self.start_timers(id, admission, now);
        self.record_session(session_id);
        if self.journal.recorded != recorded {
            // What CONNACK says of the session must be as true after a crash; all else follows CONNACK.
            self.hold_connack(slot);
        }
        self.write_connack(slot, admission, expiry_s, present);
        if present {
            // What an earlier endpoint or rule set granted is judged by this one.
            self.judge_session(session_id);
            self.resend(session_id, slot, now);
            self.tell_readiness(session_id);
        }
        Ok(id)
    }

    /// What the policy has against a CONNECT that the driver could not know.
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
        let allowed = !will.topic.starts_with("$SYS/")
            && acls.into_iter().flatten().all(|acl| acl.may_publish(subject, will.topic, will.qos, will.retain));
        (!allowed).then_some(ReasonCode::NotAuthorized)
    }

    /// The session a CONNECT finds: its connection, if any, is taken over [MQTT-3.1.4-3]; with Clean Start it ends
    /// [MQTT-3.1.2-4]. Answers with what is left of it, and whether that is to be called present.
    fn take_over(&mut self, id: SessionId, clean_start: bool, now: Millis) -> (Option<SessionId>, bool) {
        if let Some(slot) = self.sessions.get(id).and_then(|s| s.connection) {
            self.tell_and_close(slot, ReasonCode::SessionTakenOver);
        }
        // A will that is due is owed, though its client is back before the timer was looked at.
        self.session_is_due(SessionRef { id, generation: self.sessions.generation(id) }, now);
        // The session may have ended, with the detached connection or by itself.
        if self.sessions.get(id).is_none() {
            return (None, false);
        }
        if clean_start {
            self.end_session(id, now);
            return (None, false);
        }
        // The client is back before its will was due [MQTT-3.1.3-9].
        if let Some(will) = self.sessions.get_mut(id).and_then(|session| session.will.take()) {
            self.forget_will(will.record);
        }
        (Some(id), true)
    }

    fn new_session(&mut self, admission: &Admission<'_>, space: u32, expiry_s: u32) -> SessionId {
        let durable = self.journal.on && admission.policy.limits.durable && expiry_s > 0;
        let durable = durable.then(|| Box::new(Durable::new(self.journal.new_id(), false)));
        if durable.is_some() {
            self.tell_durable();
        }
        let session = Session {
            client_id: admission.client_id.into(),
            space,
            connection: None,
            expiry_s: 0,
            ends_at: Millis::MAX,
            dropped: 0,
            counted_away: false,
            policy: Arc::clone(&admission.policy),
            subscriptions: Vec::new(),
            inflight: Inflight::new(),
            queue: Queue::new(self.queued_bytes.clone()),
            incoming: None,
            will: None,
            rare: None,
            durable,
        };
        let (id, _) = self.sessions.insert(session);
        self.index_session(space, id);
        id
    }

    fn new_connection(&mut self, admission: &Admission<'_>, session: SessionId, now: Millis) -> Connection {
        let (connect, policy) = (admission.connect, &admission.policy);
        let properties = &connect.properties;
        let keep_alive_s = server_keep_alive_s(admission).unwrap_or(connect.keep_alive_s);
        let mut connection = Connection {
            session,
            endpoint: self.endpoint_place(policy.id),
            policy: Arc::clone(policy),
            principal: Box::new(admission.principal.clone()),
            version: connect.version,
            is_bridge: connect.bridge,
            dirty: false,
            in_crowd: false,
            closing: false,
            receive_maximum: properties.receive_maximum.map_or(u16::MAX, std::num::NonZeroU16::get),
            maximum_packet_size: properties.maximum_packet_size.unwrap_or(u32::MAX),
            keep_alive_ms: u32::from(keep_alive_s) * 1500,
            last_received: now,
            connected_at: now,
            messages_received: 0,
            messages_sent: 0,
            out: OutBuf::default(),
            pauses: 0,
            waiters: Vec::new(),
            permitted: None,
            slow_until: 0,
            held_bytes: 0,
            rare: None,
        };
        let rates = Rates::new(&policy.limits, now);
        let alias_maximum = properties.topic_alias_maximum.unwrap_or(0);
        let method = properties.authentication_method;
        let via_owner = self.found_on_the_way(session);
        if rates.is_some() || alias_maximum > 0 || method.is_some() || !via_owner.is_empty() {
            let aside: &mut Aside = connection.aside();
            aside.via_owner = via_owner;
            aside.rates = rates;
            aside.outgoing_aliases.maximum = alias_maximum;
            aside.authentication_method = method.map(Into::into);
        }
        connection
    }

    fn start_timers(&mut self, id: ConnId, admission: &Admission<'_>, now: Millis) {
        let Some(connection) = self.connections.get(id.slot) else { return };
        if connection.keep_alive_ms > 0 {
            self.timers.push(now + u64::from(connection.keep_alive_ms), Timer::KeepAlive(id));
        }
        if let Some(at) = admission.principal.expires_at {
            self.timers.push(at, Timer::Credential(id));
        }
    }

    fn write_connack(&mut self, slot: u32, admission: &Admission<'_>, expiry_s: u32, present: bool) {
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

    pub(super) fn write_packet(&mut self, slot: u32, packet: &Packet<'_>, version: ProtocolVersion) {
        self.write(slot, |out| weir_mqtt::encode(packet, version, out));
    }

    /// The broker ends a connection for a reason: 5.0 is told, the will is sent.
    pub(super) fn refuse(&mut self, slot: u32, reason: ReasonCode) {
        if let Some(connection) = self.connections.get(slot) {
            self.counters[connection.endpoint as usize].protocol_errors += 1;
        }
        self.tell_and_close(slot, reason);
    }

    /// DISCONNECT with a reason (5.0), then the close.
    pub(super) fn tell_and_close(&mut self, slot: u32, reason: ReasonCode) {
        self.tell_and_close_with(slot, reason as u8, None);
    }

    pub(super) fn tell_and_close_with(&mut self, slot: u32, code: u8, server_reference: Option<&str>) {
        let Some(connection) = self.connections.get(slot) else { return };
        if connection.closing {
            return;
        }
        let is_v5 = connection.is_v5();
        self.line_up(slot);
        if is_v5 {
            let disconnect = Packet::Disconnect(Disconnect { code, server_reference, ..Disconnect::default() });
            self.write_packet(slot, &disconnect, ProtocolVersion::V5);
        }
        self.close(slot);
    }

    /// What a connection is told last comes after the acknowledgements that wait for the disk.
    fn line_up(&mut self, slot: u32) {
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.out.line_up(connection.version);
        }
    }

    /// The connection takes and sends nothing more, and its session is without it from now on; the socket is closed when
    /// the buffer is written.
    pub(super) fn close(&mut self, slot: u32) {
        let generation = self.connections.generation(slot);
        if let Some(connection) = self.connections.get_mut(slot)
            && !connection.closing
        {
            connection.closing = true;
            connection.out.line_up(connection.version);
            self.closing.push(ConnId { slot, generation });
            self.detach(slot, self.now);
        }
    }

    /// See [`Core::ended`].
    pub(super) fn connection_ended(&mut self, id: ConnId, _why: Ended, now: Millis) {
        if self.connections.get_generation(id.slot, id.generation).is_none() {
            return;
        }
        self.detach(id.slot, now);
        self.let_go(id.slot);
        self.drop_held_publishes(id.slot);
        if let Some(gone) = self.connections.remove(id.slot) {
            self.buffered_bytes -= gone.held_bytes;
        }
    }

    /// Parts a connection from its session. The will, if there still is one, is sent at once or when its delay is over
    /// [MQTT-3.1.2-8]. The session ends, now or when its expiry is over.
    fn detach(&mut self, slot: u32, now: Millis) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        connection.closing = true;
        let id = connection.session;
        let generation = self.sessions.generation(id);
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.connection != Some(slot) {
            return;
        }
        session.connection = None;
        if let Some(rare) = &mut session.rare {
            rare.pending.clear();
        }
        self.leave_on_the_way(slot, id);
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.expiry_s == 0 {
            return self.end_session(id, now);
        }
        // One more than the endpoint may keep is not kept.
        if !self.away.try_add(session.policy.id, session.policy.limits.max_sessions) {
            return self.end_session(id, now);
        }
        session.counted_away = true;
        session.queue.retain(|queued| queued.delivery.qos > QoS::AtMostOnce);
        let reference = SessionRef { id, generation };
        session.ends_at = match session.expiry_s {
            NEVER_EXPIRES => Millis::MAX,
            seconds => now + u64::from(seconds) * 1000,
        };
        self.timers.push(session.ends_at, Timer::session(reference));
        let due_at = session.will.as_mut().map(|will| {
            let due_at = now + u64::from(will.delay_s) * 1000;
            will.due_at = Some(due_at);
            due_at
        });
        if let Some(due_at) = due_at {
            self.timers.push(due_at, Timer::session(reference));
        }
        self.tell_readiness(id);
        self.record_session(id);
        self.session_is_due(reference, now);
    }

    /// A session's will, or its end, may be due.
    pub(super) fn session_is_due(&mut self, session: SessionRef, now: Millis) {
        // What an earlier process had published is older than whatever is due now.
        self.send_restored();
        let Some(due) = self.sessions.get_generation(session.id, session.generation) else { return };
        if due.connection.is_some() {
            return;
        }
        if due.policy.id == EndpointId::RESTORED && due.will.is_some() && now < self.wills.awaited_until {
            // By what rules it is to be judged is not known yet; when it is, this is asked again.
            return self.timers.push(self.wills.awaited_until, Timer::session(session));
        }
        if due.ends_at <= now {
            return self.end_session(session.id, now);
        }
        if due.will.as_ref().is_some_and(|will| will.due_at.is_some_and(|at| at <= now))
            && let Some(will) = due.will.take()
        {
            let (space, client_id, policy) = (due.space, due.client_id.clone(), Arc::clone(&due.policy));
            self.send_will(session.id, (space, &client_id, &policy), *will, now);
            self.record_session(session.id);
        }
    }

    /// Ends a session that has no connection: its will is sent if it still has one, its subscriptions and messages go.
    pub(super) fn end_session(&mut self, id: SessionId, now: Millis) {
        let generation = self.sessions.generation(id);
        let was = SessionRef { id, generation };
        let was_durable = self.forget_session(id);
        let Some(session) = self.sessions.get_mut(id) else { return };
        let space = session.space;
        let will = session.will.take();
        for node in session.subscriptions.clone() {
            self.unsubscribe_node(id, space, node);
        }
        self.unindex_session(id);
        let Some(mut session) = self.sessions.remove(id) else { return };
        if session.counted_away {
            self.away.subtract(session.policy.id);
        }
        let shared = session.rare.as_mut().map(|rare| std::mem::take(&mut rare.shared)).unwrap_or_default();
        shared.iter().for_each(|shared| self.leave_group(shared, was));
        // It may hold messages of groups that it has left.
        self.return_shared(&mut session, was_durable, now);
        if let Some(will) = will {
            self.send_will(id, (space, &session.client_id, &session.policy), *will, now);
        }
    }

    /// Publishes a will that is due, if its client still may.
    fn send_will(
        &mut self,
        id: SessionId,
        (space, client_id, policy): (SpaceId, &str, &EndpointPolicy),
        will: PendingWill,
        now: Millis,
    ) {
        if let Some(why) = self.will_refusal(space, client_id, &policy.name, &will) {
            return self.refuse_will(space, client_id, policy, &will, why);
        }
        let to = Recipients::Subscribers { space, client_id: client_id.into(), durable: policy.limits.durable };
        let PendingWill { record, mut message, .. } = will;
        if message.expires_at != Millis::MAX {
            // The expiry counts from the moment of publication, which is now [MQTT 5.0 section 3.1.3.2.4].
            message.expires_at = now.saturating_add(message.expires_at);
        }
        self.publish_will(Handover { record, to, message }, id);
    }
}

/// The session expiry in force: the client's, under the endpoint's ceiling. A 3.x session lasts with its connection or,
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

/// The keep-alive the server sets in the client's stead, where its ceiling says so.
fn server_keep_alive_s(admission: &Admission<'_>) -> Option<u16> {
    let ceiling_s = admission.policy.limits.keep_alive_max_s?;
    let asked_s = admission.connect.keep_alive_s;
    // Only 5.0 can be told; to hold others to what they were not told would end healthy connections.
    (admission.connect.version == ProtocolVersion::V5 && (asked_s == 0 || asked_s > ceiling_s)).then_some(ceiling_s)
}

/// The will of a CONNECT, ready to be sent. Its `expires_at` is a duration until it is published.
fn will(admission: &Admission<'_>, record: impl FnOnce() -> RecordId) -> Option<Box<PendingWill>> {
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
    let publisher = will.retain.then(|| Arc::new(Publisher::new(client_id, principal, &admission.policy.name)));
    let message = Message::new(will.topic, &publish, lives).published_by(publisher);
    let (record, principal) = (record(), principal.clone());
    Some(Box::new(PendingWill { record, message, delay_s: will.delay_s, due_at: None, principal }))
}

/// CONNACK for a client that is not let in.
pub(super) fn refusal_bytes(version: ProtocolVersion, reason: ReasonCode) -> Vec<u8> {
    let code = match (version, reason) {
        (ProtocolVersion::V5, reason) => reason as u8,
        (_, ReasonCode::ClientIdentifierNotValid) => 2,
        (_, ReasonCode::BadUserNameOrPassword) => 4,
        (_, ReasonCode::NotAuthorized | ReasonCode::Banned) => 5,
        // Nothing of 3.x says what is wrong: the connection is closed without a word.
        _ => return Vec::new(),
    };
    let mut bytes = Vec::new();
    let connack = ConnAck { session_present: false, code, properties: ConnAckProperties::default() };
    if weir_mqtt::encode(&Packet::ConnAck(Box::new(connack)), version, &mut bytes).is_err() {
        bytes.clear();
    }
    bytes
}
