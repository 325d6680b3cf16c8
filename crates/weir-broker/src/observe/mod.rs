//! Counters of the core, and its reports to the status and the metrics.
//!
//! Owns the counters of each endpoint. It never changes anything else.

pub(crate) mod counters;
mod errors;
pub(crate) mod state;

pub use errors::{InternalErrors, Site};
