//! Turns documents into a declaration, and a declaration into a plan. Pure: no files, no sockets, no clock; time is an
//! argument.
//!
//! - [`config`]: a snapshot of YAML documents to a declaration or diagnostics.
//! - `import` (with the feature of that name): other brokers' configuration to documents.
//! - [`reconcile`]: the difference between declared and live: guard, plan, conditions, and their rendering.

#![deny(missing_docs)]

pub mod config;
#[cfg(feature = "import")]
pub mod import;
pub mod reconcile;
