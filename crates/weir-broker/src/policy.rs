//! The policy of an endpoint, compiled from its declaration. Immutable; a changed declaration makes a new one.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{EndpointId, Millis};
use crate::interceptor::{Hook, Interceptors};
use weir_mqtt::{ProtocolVersion, QoS};

/// The limits and rules that the core enforces for an endpoint's connections.
#[derive(Debug)]
pub struct EndpointPolicy {
    /// The endpoint's id.
    pub id: EndpointId,
    /// The endpoint's name.
    pub name: Arc<str>,
    /// Counts the declaration's changes; what was admitted under an older one is checked again.
    pub generation: u64,
    /// `mountpoint`: the namespace of topics, client ids and sessions. Empty: the shared one.
    pub namespace: Arc<str>,
    /// The versions of MQTT that it accepts.
    pub versions: ProtocolVersions,
    /// Its limits.
    pub limits: EndpointLimits,
    /// `None`: `enableAcl: false`, everything is permitted.
    pub acl: Option<Arc<dyn Authorize>>,
    /// Called before `acl` is checked. `None`: there are none.
    pub interceptors: Option<Interceptors>,
    /// Checks whether a disconnected client would still be admitted. `None`: always.
    pub admission: Option<Arc<dyn StillAdmits>>,
}

impl EndpointPolicy {
    /// Whether an interceptor sees what its clients are sent.
    pub(crate) fn intercepts_deliveries(&self) -> bool {
        self.interceptors.as_ref().is_some_and(|interceptors| interceptors.have(Hook::Deliver))
    }
}

/// The versions an endpoint admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolVersions {
    /// MQTT 3.1.
    pub v3_1: bool,
    /// MQTT 3.1.1.
    pub v3_1_1: bool,
    /// MQTT 5.0.
    pub v5: bool,
}

impl ProtocolVersions {
    /// Every version.
    pub const ALL: Self = Self { v3_1: true, v3_1_1: true, v5: true };

    /// Whether `version` is admitted.
    pub fn admits(self, version: ProtocolVersion) -> bool {
        match version {
            ProtocolVersion::V3_1 => self.v3_1,
            ProtocolVersion::V3_1_1 => self.v3_1_1,
            ProtocolVersion::V5 => self.v5,
        }
    }
}

/// The options of an endpoint that the core enforces: name, type and default of each, in the schema's order. `limits.rs`
/// has the node's own limits, which apply beside these.
///
/// There is no second table: `weir-declare` reads and writes a document's fields through this type's serde
/// implementation, and a test compares the defaults with the schema's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointLimits {
    /// Sessions of disconnected clients, over all shards; `None`: unlimited.
    pub max_session_size: Option<u32>,
    /// Bytes of a whole packet: the largest that is accepted, and CONNACK's Maximum Packet Size.
    pub message_max_size: u32,
    /// Upper limit of the keep-alive, seconds. Sent as Server Keep Alive to a client that asked for more, or for none.
    pub keep_alive_max_s: Option<u16>,
    /// Upper limit of the session expiry, seconds.
    pub session_expiry_max_s: Option<u32>,
    /// Upper limit of the delay of a will, seconds.
    pub max_will_delay_s: u32,
    /// Upper limit of a message's expiry, seconds.
    pub message_expiry_max_s: Option<u32>,
    /// CONNACK's Receive Maximum: QoS 1 and 2 publishes that a client may have unacknowledged.
    pub receive_maximum: u16,
    /// CONNACK's Topic Alias Maximum.
    pub topic_alias_maximum: u16,
    /// Topic aliases that the broker uses towards a client; the client's Topic Alias Maximum applies beside it.
    pub max_topic_alias_out: u16,
    /// The highest QoS that clients may use.
    #[serde(with = "qos_as_number")]
    pub maximum_qos: QoS,
    /// Whether clients may retain messages.
    pub retain_available: bool,
    /// Messages sent and not yet acknowledged, per client. The client's Receive Maximum applies beside it.
    pub max_inflight: u16,
    /// Queued QoS 1 and 2 messages per session.
    pub max_queued_messages: u32,
    /// Bytes of queued QoS 1 and 2 messages per session.
    pub max_queued_bytes: u64,
    /// What happens to a message for a full queue.
    pub queue_overflow: QueueOverflow,
    /// Subscriptions per session.
    pub max_subscriptions: u32,
    /// Levels of a topic name or filter.
    pub max_topic_levels: u16,
    /// Retained messages of all the endpoint's publishers together, over all shards.
    pub max_retained_messages: u32,
    /// Memory of them, bytes.
    pub max_retained_bytes: u64,
    /// Publishes per second and client; `None`: unlimited.
    pub max_publish_per_second: Option<u32>,
    /// Published bytes per second and client; `None`: unlimited.
    pub max_publish_bytes_per_second: Option<u64>,
    /// Publishes per second of all clients of the endpoint together, over all shards; `None`: unlimited.
    pub max_total_publish_per_second: Option<u32>,
    /// Published bytes per second of all clients of the endpoint together, over all shards; `None`: unlimited.
    pub max_total_publish_bytes_per_second: Option<u64>,
    /// What happens to a publish above its rate.
    pub publish_overflow: PublishOverflow,
    /// When a message is acknowledged.
    pub durability: Durability,
}

impl Default for EndpointLimits {
    fn default() -> Self {
        Self {
            max_session_size: Some(100_000),
            message_max_size: 4_194_304,
            keep_alive_max_s: None,
            session_expiry_max_s: Some(30 * 86_400),
            max_will_delay_s: 86_400,
            message_expiry_max_s: None,
            receive_maximum: 1024,
            topic_alias_maximum: 32,
            max_topic_alias_out: 32,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            max_inflight: 1024,
            max_queued_messages: 10_000,
            max_queued_bytes: 64 << 20,
            queue_overflow: QueueOverflow::DropNewest,
            max_subscriptions: 10_000,
            max_topic_levels: 128,
            max_retained_messages: 1_000_000,
            max_retained_bytes: 256 << 20,
            max_publish_per_second: None,
            max_publish_bytes_per_second: None,
            max_total_publish_per_second: None,
            max_total_publish_bytes_per_second: None,
            publish_overflow: PublishOverflow::Delay,
            durability: Durability::Memory,
        }
    }
}

impl EndpointLimits {
    /// Whether sessions and retained messages of this endpoint are on disk before the broker acknowledges them.
    pub fn is_durable(&self) -> bool {
        self.durability == Durability::Disk
    }
}

/// Which message is dropped when a session's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum QueueOverflow {
    /// The new message is dropped.
    DropNewest,
    /// The oldest message is dropped.
    DropOldest,
}

/// The treatment of a client that publishes above its rate, or above the rate of all clients together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PublishOverflow {
    /// The broker stops reading from it until the rate allows more.
    Delay,
    /// The broker disconnects it, with reason code 0x96 in MQTT 5.
    Disconnect,
}

/// The condition for acknowledging a QoS 1 or 2 message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Durability {
    /// As soon as it is in memory.
    Memory,
    /// Committed and fsynced.
    Disk,
}

/// A QoS as documents write it: 0, 1 or 2.
mod qos_as_number {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use weir_mqtt::QoS;

    pub(super) fn serialize<S: Serializer>(qos: &QoS, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*qos as u8)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<QoS, D::Error> {
        let number = u8::deserialize(deserializer)?;
        QoS::from_bits(number).ok_or_else(|| D::Error::custom(format_args!("QoS must be 0, 1 or 2, not {number}")))
    }
}

/// As whom a client was admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The user name.
    pub username: Option<Box<str>>,
    /// `None` for a Unix socket.
    pub address: Option<IpAddr>,
    /// Which authenticator admitted it, and by which version of which record: checked again when either changed.
    pub admitted_by: Arc<str>,
    /// Rules that the credential carries (JWT claims, the http answer), applied in addition to the endpoint's own.
    pub claims_acl: Option<Arc<dyn Authorize>>,
    /// When the credential ends, in the core's time; the client is disconnected then.
    pub expires_at: Option<Millis>,
}

/// The client whose permission is checked.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The client id.
    pub client_id: &'a str,
    /// The user name.
    pub username: Option<&'a str>,
    /// The client's address; `None` on a Unix socket.
    pub address: Option<IpAddr>,
}

/// A compiled rule set. Pure and cheap: it is asked on the message path.
pub trait Authorize: Send + Sync + std::fmt::Debug {
    /// May `subject` publish to `topic`?
    fn may_publish(&self, subject: Subject<'_>, topic: &str, qos: QoS, retain: bool) -> bool;
    /// May `subject` subscribe to all that `filter` matches? (For `$share/g/f`, `filter` is `f`.)
    fn may_subscribe(&self, subject: Subject<'_>, filter: &str, qos: QoS) -> bool;
    /// May `subject` be sent a message of `topic`? Asked for what was queued before the rules changed.
    fn may_receive(&self, subject: Subject<'_>, topic: &str) -> bool;
    /// The rules as JSON, where they belong to a client and can be compiled at another node again.
    fn source(&self) -> Option<&str> {
        None
    }
}

/// Checks whether a disconnected client would still be admitted; asked when its will is due.
pub trait StillAdmits: Send + Sync + std::fmt::Debug {
    /// Whether a client that was admitted as `principal` would still be admitted, as far as that can be known without
    /// its password: not if it was banned since, or if the record that admitted it was deleted or changed.
    fn still_admits(&self, client_id: &str, principal: &Principal) -> bool;
}

impl PartialEq for dyn Authorize {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self, other)
    }
}
impl Eq for dyn Authorize {}
