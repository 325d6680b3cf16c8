//! The node's own bounds: what holds whatever an endpoint declares. Each with its unit and what its breach brings.

use crate::ids::Millis;

/// Shards of a node; a data plane with more is not started. A route has a bit for each of them.
pub const SHARDS_MAX: u16 = 255;

/// Bytes waiting for one connection above which its publishers pause, and QoS 0 for it is dropped once it counts as slow
/// (`weir_endpoint_messages_dropped_total{reason="slow"}`).
pub(crate) const PENDING_WRITE_HIGH_BYTES: usize = 1 << 20;
/// Bytes waiting below which paused publishers go on.
pub(crate) const PENDING_WRITE_LOW_BYTES: usize = 256 << 10;
/// Bytes waiting for one connection above which it is closed: acknowledgements cannot be dropped.
pub const PENDING_WRITE_MAX_BYTES: usize = 8 << 20;
/// In place of [`PENDING_WRITE_HIGH_BYTES`] while the out buffers of all connections hold more than their share of the node's
/// memory; of a payload that receivers share, each counts its part.
pub(crate) const CONGESTED_WRITE_HIGH_BYTES: usize = 16 << 10;
/// In place of [`PENDING_WRITE_MAX_BYTES`] then.
pub(crate) const CONGESTED_WRITE_MAX_BYTES: usize = 64 << 10;
/// Limit of a session's queue instead of the declared one, while all queues together are at the node's limit. A queue
/// that is larger already keeps its messages, and does not grow.
pub(crate) const CONGESTED_QUEUED_MESSAGES: u32 = 100;
pub(crate) const CONGESTED_QUEUED_BYTES: u64 = 64 << 10;
/// The longest a publisher is paused for one slow subscriber.
pub(crate) const PAUSE_MAX_MS: Millis = 200;
/// How long a subscriber that outlasted a pause counts as slow: no publisher is paused for it.
pub(crate) const SLOW_FOR_MS: Millis = 10_000;

/// How long a restored will waits after a restart for its endpoint's policy. After that it is authorized as one of an
/// endpoint that was removed.
pub(crate) const RESTORED_WILL_WAIT_MS: Millis = 60_000;
/// Refused wills that are reported one by one between two calls of [`crate::Core::take_refused_wills`]; the others are
/// counted.
pub(crate) const REFUSED_WILLS_REPORTED_MAX: usize = 32;

/// Filters in one SUBSCRIBE or UNSUBSCRIBE; 5.0 gets DISCONNECT 0x97, 3.x the close.
pub(crate) const FILTERS_PER_PACKET_MAX: usize = 4096;
/// Bytes of a client identifier; 0x85.
pub(crate) const CLIENT_ID_MAX_BYTES: usize = 4096;
/// QoS 2 publishes of one session between PUBLISH and PUBREL, of a 3.x client (5.0 has its Receive Maximum); the close.
pub(crate) const INCOMING_QOS2_MAX: usize = 65_535;
/// Members of one shared subscription; SUBACK 0x97.
pub(crate) const GROUP_MEMBERS_MAX: usize = 65_536;
/// Members of a group that are looked at for one that is ready; where none of them is, the best of them gets the message.
pub(crate) const GROUP_SEARCH_MAX: usize = 256;
/// Bytes that a core remembers of the receivers of topics that were published to lately; less, where a quarter of its part of
/// the memory for tables is less.
pub(crate) const MATCH_CACHE_BYTES: usize = 16 << 20;
/// Nodes of the filter tree that a PUBLISH may visit at once. One that has to visit more is continued in later turns, and
/// nothing more is read from its publisher until then.
pub(crate) const MATCH_NODES_AT_ONCE: usize = 4096;
/// Units of work (packets, deliveries, nodes visited) in one read, above which the rest of what was read is put off to a later
/// turn. Twice of what a driver's reads aim at.
pub(crate) const READ_WORK_MAX: usize = 8192;
/// Units of work that a core does in one turn for what it has put off: nodes visited, retained topics looked at,
/// subscriptions removed.
pub(crate) const DEFERRED_WORK_PER_TURN: usize = 8192;
/// Units of work that a client's read of retained messages does at once.
pub(crate) const RETAINED_READ_AT_ONCE: usize = 2048;
/// Retained messages that a read puts into a session's queue at once; it goes on when they are sent.
pub(crate) const RETAINED_PAGE_MESSAGES: usize = 64;
/// The longest topic that the broker gives a topic alias, bytes.
pub(crate) const ALIASED_TOPIC_MAX_BYTES: usize = 1024;
/// Deliveries of one read, or of what other shards send in one turn, whose receivers are written to ahead of the bulk queue.
pub(crate) const PRIORITY_DELIVERIES: usize = 64;
/// Unacknowledged bytes on the way to one other shard above which publishers pause.
pub(crate) const LINK_HIGH_BYTES: u64 = 8 << 20;
/// Bytes of peers' messages on the way to one shard above which no more are taken from the peers.
pub(crate) const GATEWAY_INCOMING_BYTES: u64 = 4 << 20;
/// Bytes of the wills of one node that another node keeps.
pub(crate) const KEPT_WILLS_BYTES: usize = 16 << 20;
/// Clients that a shard lists at once for a peer that has come back.
pub(crate) const CLIENTS_PAGE: usize = 1024;
/// Clients of one shard that begin anew while their sessions are copied to this node. Where there are more, the move is abandoned.
pub(crate) const CLEAN_STARTS_MAX: usize = 16 << 10;
/// Members of a shared group that a peer counts as at most, when a member is chosen over all nodes.
pub(crate) const PEER_MEMBERS_MAX: u32 = 64;
/// Bytes of records that are not on disk yet, of one shard, above which publishers that make more pause.
pub(crate) const RECORDS_HIGH_BYTES: u64 = 32 << 20;
/// Bytes of publishes that wait for a full disk, of one connection and of all on a shard, above which a connection that
/// sends more pauses.
pub(crate) const HELD_PUBLISH_BYTES: usize = 64 << 10;
pub(crate) const HELD_PUBLISHES_BYTES: usize = 16 << 20;
/// Bytes received from a link after which they are acknowledged, at the latest.
pub(crate) const LINK_ACKNOWLEDGE_BYTES: u64 = 256 << 10;
/// Bytes of output buffers that a shard keeps for reuse; beyond it they go back to the allocator.
pub(crate) const POOLED_BYTES_MAX: usize = 8 << 20;
/// Payloads from this size on are shared between a message's receivers instead of copied to each.
pub(crate) const SHARED_PAYLOAD_MIN_BYTES: usize = 8 << 10;
