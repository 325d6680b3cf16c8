//! Documents to a declaration, and a declaration to a plan. Pure: no files, no sockets, no clock; time is an argument.
//!
//! - [`config`]: a snapshot of YAML documents to what is declared, or diagnostics.
//! - [`reconcile`]: declared against live: plans, conditions, their rendering.

pub mod config;
pub mod reconcile;
