//! What an endpoint allows, compiled from its declaration. Immutable; a change of declaration makes a new one.

use std::net::IpAddr;
use std::sync::Arc;

use crate::ids::{EndpointId, Millis};
use weir_mqtt::{ProtocolVersion, QoS};

/// What the core enforces for the connections of one endpoint.
#[derive(Debug)]
pub struct EndpointPolicy {
    pub id: EndpointId,
    pub name: Arc<str>,
    /// Counts the declaration's changes; what was admitted under an older one is checked again.
    pub generation: u64,
    /// `mountpoint`: the namespace of topics, client ids and sessions. Empty: the shared one.
    pub namespace: Arc<str>,
    pub versions: ProtocolVersions,
    pub limits: EndpointLimits,
    /// `None`: `enableAcl: false`, everything is permitted.
    pub acl: Option<Arc<dyn Authorize>>,
    /// Whether clients that have gone would still be admitted by what is declared now. `None`: they would.
    pub admission: Option<Arc<dyn StillAdmits>>,
}

/// The versions an endpoint admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolVersions {
    pub v3_1: bool,
    pub v3_1_1: bool,
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

/// The bounds an endpoint sets on each of its clients. `limits.rs` has the node's own, which hold beside these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointLimits {
    /// Bytes of a whole packet, both the largest accepted and CONNACK's Maximum Packet Size.
    pub message_max_size: u32,
    /// Sessions kept for clients that are away, over all shards; `None`: no limit of the endpoint.
    pub max_sessions: Option<u32>,
    /// CONNACK's Receive Maximum: QoS 1 and 2 publishes a client may have unacknowledged.
    pub receive_maximum: u16,
    /// CONNACK's Topic Alias Maximum.
    pub topic_alias_maximum: u16,
    /// Ceiling for the keep-alive, seconds; sent as Server Keep Alive where the client asked for more (or for none).
    pub keep_alive_max_s: Option<u16>,
    /// Ceiling for the session expiry, seconds.
    pub session_expiry_max_s: Option<u32>,
    /// Ceiling for a message's expiry, seconds.
    pub message_expiry_max_s: Option<u32>,
    /// Messages sent and not yet acknowledged, per client (the client's Receive Maximum holds beside it).
    pub max_inflight: u16,
    /// QoS 1 and 2 messages waiting, per session.
    pub max_queued_messages: u32,
    /// Their bytes, per session.
    pub max_queued_bytes: u64,
    pub queue_overflow: QueueOverflow,
    /// Subscriptions, per session.
    pub max_subscriptions: u32,
    /// Levels of a topic name or filter.
    pub max_topic_levels: u16,
    /// Publishes per second and client; `None`: unlimited.
    pub max_publish_rate: Option<u32>,
    /// Published bytes per second and client; `None`: unlimited.
    pub max_publish_bytes_rate: Option<u64>,
    /// Publishes per second, all clients of the endpoint together, over all shards; `None`: unlimited.
    pub max_total_publish_rate: Option<u32>,
    /// Their bytes per second; `None`: unlimited.
    pub max_total_publish_bytes_rate: Option<u64>,
    pub publish_overflow: PublishOverflow,
    pub maximum_qos: QoS,
    pub retain_available: bool,
    /// `durability: disk`: sessions that begin here, and messages retained from here, are on disk before they are acknowledged.
    pub durable: bool,
}

impl Default for EndpointLimits {
    fn default() -> Self {
        Self {
            message_max_size: 4_194_304,
            max_sessions: None,
            receive_maximum: 1024,
            topic_alias_maximum: 32,
            keep_alive_max_s: None,
            session_expiry_max_s: None,
            message_expiry_max_s: None,
            max_inflight: 1024,
            max_queued_messages: 10_000,
            max_queued_bytes: 64 << 20,
            queue_overflow: QueueOverflow::DropNewest,
            max_subscriptions: 1_000_000,
            max_topic_levels: 128,
            max_publish_rate: None,
            max_publish_bytes_rate: None,
            max_total_publish_rate: None,
            max_total_publish_bytes_rate: None,
            publish_overflow: PublishOverflow::Delay,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            durable: false,
        }
    }
}

/// What gives way when a session's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueOverflow {
    DropNewest,
    DropOldest,
}

/// What becomes of a client that publishes faster than it may, or than all may together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishOverflow {
    /// It is not read until the rate allows.
    Delay,
    /// It is disconnected (5.0: 0x96).
    Disconnect,
}

/// As whom a client was admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub username: Option<Box<str>>,
    /// `None` for a Unix socket.
    pub address: Option<IpAddr>,
    /// Which authenticator admitted it, and by which version of which record: checked again when either changed.
    pub admitted_by: Arc<str>,
    /// RetainedAcl the credential itself carries (JWT claims, the http hook), in force beside the endpoint's own.
    pub claims_acl: Option<Arc<dyn Authorize>>,
    /// When the credential ends, in the core's time; the client is disconnected then.
    pub expires_at: Option<Millis>,
}

/// The client whose permission is checked.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub client_id: &'a str,
    pub username: Option<&'a str>,
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
}

/// Asked when a will is due: its client has gone, and the right to send it may be gone since.
pub trait StillAdmits: Send + Sync + std::fmt::Debug {
    /// Whether a client that was admitted as `principal` still would be, as far as that can be told without its
    /// password: not where it was banned since, or where the record that admitted it was deleted or changed.
    fn still_admits(&self, client_id: &str, principal: &Principal) -> bool;
}

impl PartialEq for dyn Authorize {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self, other)
    }
}
impl Eq for dyn Authorize {}
