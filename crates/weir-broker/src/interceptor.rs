//! Interceptors of an endpoint: code of the embedding program that sees, rejects and changes what clients do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::Subject;
use weir_mqtt::{
    EncodeError, PacketId, ProtocolVersion, Publish, PublishProperties, PublishPropsOut, QoS, ReasonCode,
    encode_publish_parts, push_publish_properties, push_user_property,
};

/// Sees what the clients of an endpoint do before the broker acts on it, and rejects or changes it.
///
/// A shard calls it on its own thread, between two packets: it must be quick and must not block. All shards share it. Every
/// method has a default that allows. A panic ends the connection with 0x83 (implementation specific error) and is counted;
/// other connections go on. (A program that is built with `panic = "abort"` ends.)
///
/// Where several are declared, each sees what those before it left; the first that denies decides. The endpoint's access list
/// is checked after them, on the changed topic; a delivery is not checked again.
pub trait Interceptor: Send + Sync + 'static {
    /// The methods that the broker calls. It asks once, when the interceptor is registered; the others cost nothing.
    fn hooks(&self) -> &'static [Hook] {
        Hook::ALL
    }

    /// A client that authentication has admitted, before CONNACK. A denial is its reason code; before MQTT 5.0 return code 5
    /// (not authorized).
    fn on_connect(&self, client: Subject<'_>) -> Verdict {
        let _ = client;
        Verdict::Allow
    }

    /// One filter of a SUBSCRIBE; of `$share/group/filter` the filter. A denial is its code in SUBACK.
    fn on_subscribe(&self, client: Subject<'_>, filter: &str, qos: QoS) -> Verdict {
        let _ = (client, filter, qos);
        Verdict::Allow
    }

    /// A PUBLISH, or a will that is due. A denial is the code of PUBACK or PUBREC; at QoS 0 and before MQTT 5.0 the message is
    /// dropped silently.
    fn on_publish(&self, client: Subject<'_>, publish: &mut InterceptedPublish<'_>) -> Verdict {
        let _ = (client, publish);
        Verdict::Allow
    }

    /// A message that is about to be sent to a client, its receiver; one that is sent again is shown again. What it changes is
    /// changed for this receiver and this transmission. With a denial the receiver does not get the message, whatever the
    /// reason is.
    fn on_deliver(&self, client: Subject<'_>, delivery: &mut InterceptedPublish<'_>) -> Verdict {
        let _ = (client, delivery);
        Verdict::Allow
    }
}

/// A method of an [`Interceptor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hook {
    /// [`Interceptor::on_connect`].
    Connect,
    /// [`Interceptor::on_subscribe`].
    Subscribe,
    /// [`Interceptor::on_publish`].
    Publish,
    /// [`Interceptor::on_deliver`].
    Deliver,
}

impl Hook {
    /// Every method.
    pub const ALL: &[Self] = &[Self::Connect, Self::Subscribe, Self::Publish, Self::Deliver];
}

/// The answer of an [`Interceptor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The broker goes on.
    Allow,
    /// The broker rejects it with this reason.
    Deny(DenyReason),
}

/// Why an [`Interceptor`] rejects something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DenyReason {
    /// 0x80.
    Unspecified,
    /// 0x83.
    ImplementationSpecific,
    /// 0x87. Counts as an authorization failure.
    NotAuthorized,
    /// 0x90 for a message, 0x8F for a subscription.
    TopicInvalid,
    /// 0x97.
    QuotaExceeded,
    /// 0x99 for a message, 0x80 for a subscription.
    PayloadFormatInvalid,
}

impl DenyReason {
    /// The reason code in CONNACK, PUBACK and PUBREC.
    pub(crate) fn of_message(self) -> ReasonCode {
        match self {
            Self::Unspecified => ReasonCode::UnspecifiedError,
            Self::ImplementationSpecific => ReasonCode::ImplementationSpecificError,
            Self::NotAuthorized => ReasonCode::NotAuthorized,
            Self::TopicInvalid => ReasonCode::TopicNameInvalid,
            Self::QuotaExceeded => ReasonCode::QuotaExceeded,
            Self::PayloadFormatInvalid => ReasonCode::PayloadFormatInvalid,
        }
    }

    /// The reason code in SUBACK.
    pub(crate) fn of_subscription(self) -> ReasonCode {
        match self {
            Self::TopicInvalid => ReasonCode::TopicFilterInvalid,
            Self::PayloadFormatInvalid => ReasonCode::UnspecifiedError,
            other => other.of_message(),
        }
    }
}

/// A message on its way to an [`Interceptor`] and back.
#[derive(Debug)]
pub struct InterceptedPublish<'a> {
    topic: &'a str,
    publish: &'a Publish<'a>,
    qos: QoS,
    retain: bool,
    /// `None`: it is as it came. Boxed, because most messages are not changed.
    changes: Option<Box<Changes>>,
}

/// What interceptors have changed.
#[derive(Debug, Default)]
struct Changes {
    topic: Option<String>,
    payload: Option<Vec<u8>>,
    content_type: Option<Option<Box<str>>>,
    message_expiry_s: Option<Option<u32>>,
    user_properties: Vec<(Box<str>, Box<str>)>,
}

impl<'a> InterceptedPublish<'a> {
    pub(crate) fn new(topic: &'a str, publish: &'a Publish<'a>) -> Self {
        Self { topic, publish, qos: publish.qos, retain: publish.retain, changes: None }
    }

    /// As one receiver gets it.
    pub(crate) fn for_receiver(topic: &'a str, publish: &'a Publish<'a>, qos: QoS, retain: bool) -> Self {
        Self { topic, publish, qos, retain, changes: None }
    }

    fn changes_mut(&mut self) -> &mut Changes {
        self.changes.get_or_insert_default()
    }

    /// The topic; never empty, a topic alias is resolved.
    pub fn topic(&self) -> &str {
        let changed = self.changes.as_ref().and_then(|changes| changes.topic.as_deref());
        changed.unwrap_or(self.topic)
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        let changed = self.changes.as_ref().and_then(|changes| changes.payload.as_deref());
        changed.unwrap_or(self.publish.payload)
    }

    /// The quality of service that the publisher chose; of a delivery, the one that it has.
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// Whether the broker is to retain it; of a delivery, the flag that the receiver gets.
    pub fn retain(&self) -> bool {
        self.retain
    }

    /// The properties as the publisher sent them; before MQTT 5.0 there are none.
    pub fn properties(&self) -> &PublishProperties<'a> {
        &self.publish.properties
    }

    /// Changes the topic. A text that is no topic name rejects the message, as does a topic that the access list does not
    /// permit the publisher.
    pub fn set_topic(&mut self, topic: impl Into<String>) {
        self.changes_mut().topic = Some(topic.into());
    }

    /// Changes the payload. It may be larger than the endpoint's `messageMaxSize`; it should not.
    pub fn set_payload(&mut self, payload: impl Into<Vec<u8>>) {
        self.changes_mut().payload = Some(payload.into());
    }

    /// Changes or removes the content type, if the client speaks MQTT 5.0.
    pub fn set_content_type(&mut self, content_type: Option<&str>) {
        self.changes_mut().content_type = Some(content_type.map(Box::from));
    }

    /// Changes or removes the message expiry interval, seconds, if the client speaks MQTT 5.0.
    pub fn set_message_expiry_s(&mut self, seconds: Option<u32>) {
        self.changes_mut().message_expiry_s = Some(seconds);
    }

    /// Adds a user property, if the client speaks MQTT 5.0.
    pub fn push_user_property(&mut self, name: &str, value: &str) {
        self.changes_mut().user_properties.push((name.into(), value.into()));
    }

    pub(crate) fn is_changed(&self) -> bool {
        self.changes.is_some()
    }

    /// The changed expiry; `None`: it is as it was.
    pub(crate) fn changed_expiry_s(&self) -> Option<Option<u32>> {
        self.changes.as_ref()?.message_expiry_s
    }

    /// The changed message as a PUBLISH packet.
    pub(crate) fn encode(&self, version: ProtocolVersion) -> Result<Vec<u8>, EncodeError> {
        let Publish { dup, packet_id, properties, .. } = self.publish;
        // Of a delivery that has another QoS than its PUBLISH, the packet identifier means nothing.
        let packet_id = (self.qos > QoS::AtMostOnce).then(|| packet_id.unwrap_or(PacketId::MIN));
        let nothing = Changes::default();
        let changes = self.changes.as_deref().unwrap_or(&nothing);
        let content_type = changes.content_type.as_ref().map_or(properties.content_type, Option::as_deref);
        let fields = PublishProperties {
            payload_format_indicator: properties.payload_format_indicator,
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            content_type,
            ..PublishProperties::default()
        };
        let mut block = Vec::new();
        push_publish_properties(&mut block, &fields)?;
        for (name, value) in properties.user_properties().iter() {
            push_user_property(&mut block, name, value)?;
        }
        for (name, value) in &changes.user_properties {
            push_user_property(&mut block, name, value)?;
        }
        let message_expiry_s = changes.message_expiry_s.unwrap_or(properties.message_expiry_s);
        let properties = PublishPropsOut { pieces: &[&block], message_expiry_s, ..PublishPropsOut::default() };
        let mut packet = Vec::with_capacity(self.topic().len() + block.len() + self.payload().len() + 16);
        encode_publish_parts(
            &mut packet,
            version,
            *dup && self.qos > QoS::AtMostOnce,
            self.qos,
            self.retain,
            self.topic(),
            packet_id,
            &properties,
            self.payload(),
        )?;
        Ok(packet)
    }
}

/// An interceptor panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

/// An interceptor, and the methods of it that are called.
#[derive(Clone)]
pub struct RegisteredInterceptor {
    interceptor: Arc<dyn Interceptor>,
    hooks: &'static [Hook],
}

impl RegisteredInterceptor {
    /// Asks it for its hooks.
    pub fn new(interceptor: impl Interceptor) -> Self {
        Self { hooks: interceptor.hooks(), interceptor: Arc::new(interceptor) }
    }
}

/// The interceptors of an endpoint, in declared order, for each hook.
#[derive(Clone)]
pub struct Interceptors(Arc<[WithHook; Hook::ALL.len()]>);

/// The interceptors that have a hook, in declared order.
type WithHook = Box<[Arc<dyn Interceptor>]>;

impl Interceptors {
    /// `None`: none has a hook, so nothing is called.
    pub fn new(interceptors: &[RegisteredInterceptor]) -> Option<Self> {
        let with = |hook: Hook| interceptors.iter().filter(move |interceptor| interceptor.hooks.contains(&hook));
        let by_hook = [Hook::Connect, Hook::Subscribe, Hook::Publish, Hook::Deliver]
            .map(|hook| with(hook).map(|interceptor| Arc::clone(&interceptor.interceptor)).collect::<WithHook>());
        by_hook.iter().any(|interceptors| !interceptors.is_empty()).then(|| Self(by_hook.into()))
    }

    /// Whether any of them has the hook.
    pub(crate) fn have(&self, hook: Hook) -> bool {
        !self.0[hook as usize].is_empty()
    }

    fn ask(&self, hook: Hook, mut call: impl FnMut(&dyn Interceptor) -> Verdict) -> Result<Verdict, Panicked> {
        // What a panic leaves half done is the interceptor's own; the publish is dropped.
        let asked = catch_unwind(AssertUnwindSafe(|| {
            let mut verdicts = self.0[hook as usize].iter().map(|interceptor| call(&**interceptor));
            verdicts.find(|verdict| *verdict != Verdict::Allow).unwrap_or(Verdict::Allow)
        }));
        asked.map_err(|_| Panicked)
    }

    pub(crate) fn connect(&self, client: Subject<'_>) -> Result<Verdict, Panicked> {
        self.ask(Hook::Connect, |interceptor| interceptor.on_connect(client))
    }

    pub(crate) fn subscribe(&self, client: Subject<'_>, filter: &str, qos: QoS) -> Result<Verdict, Panicked> {
        self.ask(Hook::Subscribe, |interceptor| interceptor.on_subscribe(client, filter, qos))
    }

    pub(crate) fn publish(
        &self,
        client: Subject<'_>,
        publish: &mut InterceptedPublish<'_>,
    ) -> Result<Verdict, Panicked> {
        self.ask(Hook::Publish, |interceptor| interceptor.on_publish(client, publish))
    }

    pub(crate) fn deliver(
        &self,
        client: Subject<'_>,
        delivery: &mut InterceptedPublish<'_>,
    ) -> Result<Verdict, Panicked> {
        self.ask(Hook::Deliver, |interceptor| interceptor.on_deliver(client, delivery))
    }
}

impl std::fmt::Debug for Interceptors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|interceptors| interceptors.len())).finish()
    }
}
