//! A snapshot of YAML documents to what is declared, or diagnostics. Pure: the source has read the files.
//!
//! ```text
//! Snapshot ─▶ yaml (guarded) ─▶ schema ─▶ document (typed) ─▶ load: defaults, cross rules, what is held ─▶ Declared
//! ```
//!
//! - `snapshot`: what a source hands over. `yaml`, `path`: bytes to values and their positions, within bounds.
//! - `schema`, `explain`, `suggest`: the JSON Schema, and its violations in words.
//! - `document`, `semantics`, `shadow`: one document by itself.
//! - `endpoint`, `transport`, `tls`, `auth`, `acl`, `bridge`, `ban`, `reconciliation`: what documents declare, as types.
//! - `load`, `effective`, `cross`, `previous`, `held`: documents together, and what the last pass left.
//! - `in_order`: sorted maps side by side.
//! - `codes`: the diagnostics' codes. `canonical`, `diff`, `classes`: one text for one meaning, its digest, and what a difference does.

mod acl;
mod address;
mod auth;
mod ban;
mod bridge;
mod build_endpoint;
mod canonical;
mod change_class;
mod codes;
mod conflicts;
mod declared;
mod diagnostic;
mod diff;
mod document;
mod endpoint;
mod explain;
mod formats;
mod held;
mod item;
mod json_cache;
mod last_good;
mod load;
mod name;
mod origin;
mod parse;
mod path;
mod pattern;
mod reconciliation;
mod schema;
mod schema_check;
mod semantics;
mod snapshot;
mod sorted_cursor;
mod suggest;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod unreachable_rules;
mod yaml;

pub use acl::*;
pub use address::*;
pub use auth::*;
pub use ban::*;
pub use bridge::*;
pub use build_endpoint::DeclarationError;
pub use canonical::{
    BuiltInDefaults, CanonicalDocument, DeclarationDigest, canonical, canonical_yaml, declaration_digest,
};
pub use change_class::*;
pub use codes::*;
pub use declared::*;
pub use diagnostic::*;
pub use diff::*;
pub use endpoint::*;
pub use held::*;
pub use item::fields_of;
pub use last_good::{LastGood, LastGoodError, LastGoodWriter};
pub use load::*;
pub use name::*;
pub use origin::*;
pub use pattern::*;
pub use reconciliation::*;
pub use schema::{SCHEMA, schema};
pub use snapshot::*;
pub use sorted_cursor::SortedCursor;
pub use suggest::did_you_mean;
pub use tls::*;
pub use transport::*;
pub use unreachable_rules::filter_covers;
pub use yaml::{DEPTH_MAX, FILE_SIZE_MAX};

pub use weir_broker::{Durability, EndpointLimits, PublishOverflow, QueueOverflow};
