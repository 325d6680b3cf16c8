//! Connections and sessions: admission, takeover, expiry, wills, acknowledgements, re-authentication, publish rates and
//! the timers of all that.
//!
//! Owns the connection and session slabs, the index of client identifiers and the timer heap. It never routes a message and
//! never writes to another shard: it returns what has to be done, and `core` does it.

pub(crate) mod connection;
pub(crate) mod graceful_disconnect;
pub(crate) mod offline_sessions;
pub(crate) mod pending_subscribe;
pub(crate) mod rate_limit;
pub(crate) mod reauthentication;
pub(crate) mod retained_reads;
pub(crate) mod session;
pub(crate) mod state;
pub(crate) mod timers;
pub(crate) mod wills;
