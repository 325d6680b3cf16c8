//! Durable state: records of sessions, subscriptions and messages, their commit in epochs, and the restore.
//!
//! Owns the journal: records of the current epoch, epochs that are not durable yet, and what waits for them (gated
//! connections, paused publishers). It never writes to a disk: batches go to the driver.

pub(crate) mod journal;
pub(crate) mod kept_will;
pub(crate) mod recording;
pub(crate) mod stored;
