//! A link to another broker. Pure: no sockets, no clock, no randomness.
//!
//! A bridge is a client of both brokers. Here it is an ordinary MQTT 5 client whose session never ends: what waits for the
//! other broker is that session's queue, what is on its way is that session's window. The [`Link`] between the two
//! connections renames topics and passes every handshake on from end to end, under the packet identifiers that its two
//! ends have chosen:
//!
//! ```text
//! core here ──PUBLISH 7──▶ link ──PUBLISH 7──▶ there        there ──PUBLISH 3──▶ link ──PUBLISH 3──▶ core here
//!           ◀──PUBREC 7───      ◀──PUBREC 7───                    ◀──PUBREC 3───      ◀──PUBREC 3───
//! ```
//!
//! So nothing is acknowledged on one side before it is safe on the other, and a link that is cut at any byte loses and
//! doubles nothing: it has no state of its own to lose. Both ends send again what they have not seen acknowledged, and
//! each knows the other's identifiers still.
//!
//! - [`Spec`], [`Rule`]: what is carried, and how it is renamed; `mark`: how a message that comes back is known.
//! - [`Link`]: the two connections; `packets`: what comes over them; `relay`: messages from one to the other; `subscribe`: what each side is asked for.
//! - [`Backoff`]: when to try again.

mod backoff;
mod ids;
mod link;
mod loop_guard;
mod outbox;
mod packets;
mod relay;
mod rule;
mod spec;
mod subscribe;

pub use backoff::Backoff;
pub use link::Link;
pub use loop_guard::{LOOP_GUARD_PROPERTY, LoopGuard};
pub use outbox::Outbox;
pub use rule::Rule;
pub use spec::{Cause, Counters, Failure, Spec};

/// Milliseconds on the driver's monotonic clock.
pub type Millis = u64;

/// How a bridge's sessions here are called; no other client may be called so.
pub const LOCAL_ID_PREFIX: &str = "$bridge/";
