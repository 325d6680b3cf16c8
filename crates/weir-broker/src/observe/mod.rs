//! Counters of the core, its reports to the status and the metrics, and its events.
//!
//! Owns the counters of each endpoint, and events until they are taken. It never changes anything else.

pub(crate) mod counters;
mod errors;
pub(crate) mod events;
pub(crate) mod state;

pub use errors::{InternalErrors, Site};
