//! A link to a remote broker. Pure: no sockets, no clock, no randomness.
//!
//! A bridge is a client of both brokers. On this one it is an ordinary MQTT 5 client with a session that never expires:
//! the session's queue holds the messages for the remote broker, its window those in flight. The [`BridgeLink`] between the
//! two connections renames topics and forwards every handshake end to end, under the packet identifiers that the two
//! brokers have chosen:
//!
//! ```text
//! core here ──PUBLISH 7──▶ link ──PUBLISH 7──▶ there        there ──PUBLISH 3──▶ link ──PUBLISH 3──▶ core here
//!           ◀──PUBREC 7───      ◀──PUBREC 7───                    ◀──PUBREC 3───      ◀──PUBREC 3───
//! ```
//!
//! So no message is acknowledged on one side before it is safe on the other. A link that is cut at any byte neither
//! loses nor duplicates messages, since it has no state of its own: both brokers resend unacknowledged messages, and
//! both still hold each other's packet identifiers.
//!
//! - [`BridgeSpec`], [`TopicRule`]: which topics are bridged, and how they are renamed; `loop_guard`: how a message that comes
//!   back is recognized.
//! - [`BridgeLink`]: the two connections; `packets`: incoming packets; `relay`: messages from one side to the other;
//!   `subscribe`: subscriptions of each side.
//! - [`Backoff`]: when to reconnect.

#![deny(missing_docs)]

mod backoff;
mod ids;
mod link;
mod loop_guard;
mod output_buffer;
mod packets;
mod relay;
mod rule;
mod spec;
mod subscribe;

pub use backoff::Backoff;
pub use link::BridgeLink;
pub use loop_guard::{LOOP_GUARD_PROPERTY, LoopGuard};
pub use output_buffer::OutputBuffer;
pub use rule::TopicRule;
pub use spec::{BridgeCounters, BridgeFailure, BridgeSpec, FailureCause};

/// Milliseconds on the driver's monotonic clock.
pub type Millis = u64;

/// Prefix of the client ids of bridges' local sessions; other clients may not use it.
pub const LOCAL_ID_PREFIX: &str = "$bridge/";
