//! Messages between shards, in order, in acknowledged batches; `docs/links.md` describes the protocol.
//!
//! Owns this shard's end of the link to each other shard: what waits to be sent, the watermarks in both directions, the
//! pending barriers, and the publishers that wait for a link. It never looks into a session or a topic tree.

pub(crate) mod link;
pub(crate) mod outbox;
pub(crate) mod state;
