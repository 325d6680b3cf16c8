//! What the interceptors of an endpoint make of messages: before the access list is checked, and before they are sent to a
//! receiver.

use crate::clients::connection::Connection;
use crate::core::deferred::Task;
use crate::core::deliver::OutgoingPublish;
use crate::core::publish::PublishRefusal;
use crate::delivery::publish_context::PublishContext;
use crate::ids::{ConnId, ConnectionSlot, Millis, NamespaceId, SessionId};
use crate::interceptor::{Hook, InterceptedPublish, Panicked};
use crate::observe::Site;
use crate::values::message::{Message, expires_at};
use crate::values::will::PendingWill;
use crate::{Core, Dropped, EndpointPolicy, Subject, Verdict};
use weir_mqtt::{DecodeContext, Decoded, Packet, PacketId, ProtocolVersion, Publish, ReasonCode, Side, decode, encode};

/// As the client of `connection`.
pub(crate) fn subject<'a>(connection: &'a Connection, client_id: &'a str) -> Subject<'a> {
    Subject { client_id, username: connection.principal.username.as_deref(), address: connection.principal.address }
}

/// The PUBLISH that `packet` is.
fn decoded(packet: &[u8], version: ProtocolVersion) -> Option<Publish<'_>> {
    let context = DecodeContext { version, max_packet_size: u32::MAX, from: Side::Client };
    match decode(packet, &context) {
        Ok(Decoded::Packet { packet: Packet::Publish(publish), .. }) => Some(publish),
        _ => None,
    }
}

impl Core {
    /// Shows a PUBLISH, whose alias is resolved to `topic`, to the endpoint's interceptors, and goes on with what they leave.
    pub(crate) fn intercept_publish(
        &mut self,
        (id, session): (ConnId, SessionId),
        topic: &str,
        publish: &Publish<'_>,
        raw: &[u8],
        now: Millis,
    ) {
        let connection = self.clients.connection(id.slot);
        let Some((connection, interceptors)) = connection
            .and_then(|c| Some((c, c.policy.interceptors.as_ref()?)))
            .filter(|(_, interceptors)| interceptors.have(Hook::Publish))
        else {
            return self.publish_to((id, session), topic, publish, raw, now);
        };
        let Some(client_id) = self.clients.session(session).map(|session| &*session.client_id) else { return };
        let version = connection.version;
        let mut intercepted = InterceptedPublish::new(topic, publish);
        match interceptors.publish(subject(connection, client_id), &mut intercepted) {
            Ok(Verdict::Allow) if !intercepted.is_changed() => {
                self.publish_to((id, session), topic, publish, raw, now);
            }
            Ok(Verdict::Allow) => {
                let packet = intercepted.encode(version).unwrap_or_default();
                match decoded(&packet, version).filter(|changed| !changed.topic.is_empty()) {
                    Some(changed) => self.publish_to((id, session), changed.topic, &changed, &packet, now),
                    // The new topic is none, or something is longer than MQTT allows.
                    None => self.deny_publish((id, topic), publish, ReasonCode::ImplementationSpecificError),
                }
            }
            Ok(Verdict::Deny(reason)) => self.deny_publish((id, topic), publish, reason.of_message()),
            Err(Panicked) => self.end_after_panic(id.slot, topic),
        }
    }

    fn deny_publish(&mut self, (id, topic): (ConnId, &str), publish: &Publish<'_>, reason: ReasonCode) {
        self.refuse_publish(id, topic, publish, PublishRefusal::Message(reason, Dropped::Intercepted));
    }

    /// An interceptor panicked about a PUBLISH to this topic, or a SUBSCRIBE of this filter.
    pub(crate) fn end_after_panic(&mut self, slot: ConnectionSlot, topic: &str) {
        self.drop_message(slot, topic, Dropped::InterceptorPanic);
        self.disconnect_with(slot, ReasonCode::ImplementationSpecificError);
    }

    /// Shows a message that is about to be sent to the interceptors of its receiver, and sends what they leave.
    #[cold]
    pub(super) fn append_intercepted(
        &mut self,
        slot: ConnectionSlot,
        packet: &OutgoingPublish<'_>,
        context: &mut PublishContext<'_>,
        now: Millis,
    ) -> Result<(), Dropped> {
        // What is stored has its properties as bytes: they are decoded for the interceptors.
        let mut bytes = Vec::new();
        let decoded_again = if context.has_raw_properties() {
            let version = context.encode_for_link(&mut bytes).ok();
            version.and_then(|version| decoded(&bytes, version))
        } else {
            None
        };
        let (topic, publish) = (context.topic, decoded_again.as_ref().unwrap_or(context.publish));
        let connection = self.clients.connection(slot).and_then(|c| Some((c, self.clients.session(c.session)?)));
        let Some((connection, session)) = connection else {
            self.observe.count_error(Site::SessionOfConnection);
            return Ok(());
        };
        let delivery = packet.delivery;
        let mut intercepted = InterceptedPublish::for_receiver(topic, publish, delivery.qos, delivery.retain);
        let subject = subject(connection, &session.client_id);
        let verdict = match &connection.policy.interceptors {
            Some(interceptors) => interceptors.deliver(subject, &mut intercepted),
            None => Ok(Verdict::Allow),
        };
        match verdict {
            Ok(Verdict::Allow) if !intercepted.is_changed() => self.append_as_it_is(slot, packet, context, now),
            Ok(Verdict::Allow) => {
                let ceiling_s = connection.policy.limits.message_expiry_max_s;
                let expiry = intercepted.changed_expiry_s().map(|expiry_s| expires_at(expiry_s, ceiling_s, now));
                let expiry = expiry.unwrap_or(context.expires_at);
                // In the form of 5.0, whatever the publisher's version is: the receiver gets it in its own.
                let changed_bytes = intercepted.encode(ProtocolVersion::V5).unwrap_or_default();
                let changed = decoded(&changed_bytes, ProtocolVersion::V5).filter(|changed| !changed.topic.is_empty());
                let changed = changed.ok_or(Dropped::DeliveryIntercepted)?;
                let origin = context.origin;
                let mut context =
                    PublishContext::new(changed.topic, &changed, ProtocolVersion::V5, &[], expiry, origin);
                self.append_as_it_is(slot, packet, &mut context, now)
            }
            Ok(Verdict::Deny(_)) => Err(Dropped::DeliveryIntercepted),
            Err(Panicked) => {
                // Not at once: its end may publish a will, while this message is being delivered to others.
                let id = ConnId { slot, generation: self.clients.generation(slot) };
                self.deferred.push(Task::EndAfterPanic(id));
                Err(Dropped::InterceptorPanic)
            }
        }
    }

    /// Shows a will that is due to the interceptors of its endpoint. `None`: they drop it.
    pub(crate) fn intercept_will(
        &mut self,
        (namespace, client_id, policy): (NamespaceId, &str, &EndpointPolicy),
        mut will: PendingWill,
    ) -> Option<PendingWill> {
        let current = self.routing.policy(namespace, &policy.name);
        let interceptors = current.map_or(&policy.interceptors, |current| &current.interceptors).as_ref();
        let Some(interceptors) = interceptors.filter(|interceptors| interceptors.have(Hook::Publish)) else {
            return Some(will);
        };
        let principal = &will.principal;
        let subject = Subject { client_id, username: principal.username.as_deref(), address: principal.address };
        // A PUBLISH of QoS 1 or 2 has a packet identifier; that of a will means nothing.
        let packet_id = (will.message.qos as u8 > 0).then_some(PacketId::MIN);
        let whole = Packet::Publish(Publish { packet_id, ..will.message.as_publish() });
        let mut packet = Vec::new();
        let encoded = encode(&whole, ProtocolVersion::V5, &mut packet);
        let original = encoded.ok().and_then(|()| decoded(&packet, ProtocolVersion::V5))?;
        let mut intercepted = InterceptedPublish::new(original.topic, &original);
        let why = match interceptors.publish(subject, &mut intercepted) {
            Ok(Verdict::Allow) if !intercepted.is_changed() => None,
            Ok(Verdict::Allow) => {
                let packet = intercepted.encode(ProtocolVersion::V5).unwrap_or_default();
                let ceiling_s = policy.limits.message_expiry_max_s;
                let lives = intercepted.changed_expiry_s().map(|expiry_s| expires_at(expiry_s, ceiling_s, 0));
                match decoded(&packet, ProtocolVersion::V5).filter(|changed| !changed.topic.is_empty()) {
                    Some(changed) => {
                        let publisher = will.message.publisher.clone();
                        let lives = lives.unwrap_or(will.message.expires_at);
                        will.message = Message::new(changed.topic, &changed, lives).published_by(publisher);
                        None
                    }
                    None => Some(Dropped::Intercepted),
                }
            }
            Ok(Verdict::Deny(_)) => Some(Dropped::Intercepted),
            Err(Panicked) => Some(Dropped::InterceptorPanic),
        };
        let Some(why) = why else { return Some(will) };
        let id = current.map_or(policy.id, |current| current.id);
        self.count_dropped(id, why, 1);
        None
    }
}
