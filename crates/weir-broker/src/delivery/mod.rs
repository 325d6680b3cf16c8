//! Messages on their way to clients: encodings, windows, queues, out buffers and their bounds, and the order in which
//! connections are written to.
//!
//! Owns the buffer pool, the lists of connections to flush and the node's byte accounts. It never decides who gets a
//! message.

pub(crate) mod buffer_pool;
pub(crate) mod fanout_scheduler;
pub(crate) mod held_publishes;
pub(crate) mod inflight;
pub(crate) mod out_buffer;
pub(crate) mod outgoing_aliases;
pub(crate) mod publish_context;
pub(crate) mod queue;
