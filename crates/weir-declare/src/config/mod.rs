//! Loads a snapshot of YAML documents: a declaration and diagnostics. Pure: the source has read the files.
//!
//! ```text
//! Snapshot ─▶ yaml ─▶ schema_check ─▶ parse (typed documents) ─▶ load: defaults, conflicts, last good ─▶ Declared
//! ```
//!
//! - `snapshot`: the input of [`load`]. `yaml`, `path`: bytes to bounded values and their positions.
//! - `schema`, `formats`, `schema_check`, `explain`, `suggest`: the JSON Schema, and messages about violations of it.
//! - `parse`, `document`, `semantics`, `unreachable_rules`: one document by itself.
//! - `endpoint`, `transport`, `tls`, `auth`, `acl`, `bridge`, `ban`, `reconciliation`, `event_topics`, `cluster_spec`: the types of documents.
//!   `event_kind`: the kinds of events.
//! - `load`, `build_endpoint`, `conflicts`, `last_good`, `held`: all documents together, and the state between passes.
//! - `item`, `canonical`, `json_cache`, `diff`, `change_class`: the canonical form, its digest and differences.
//! - `masking`: what a broker shows of documents. `codes`: the codes of diagnostics. `sorted_cursor`: lookups in sorted maps.
//!
//! No module here imports another in a circle, and none reads a file, a clock or the environment.

mod acl;
mod address;
mod auth;
mod ban;
mod bridge;
mod build_endpoint;
mod canonical;
mod change_class;
mod cluster_spec;
mod codes;
mod conflicts;
mod declared;
mod diagnostic;
mod diff;
mod document;
mod endpoint;
mod event_kind;
mod event_topics;
mod explain;
mod formats;
mod held;
mod item;
mod json_cache;
mod json_schema;
mod last_good;
mod load;
mod masking;
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
    BuiltInDefaults, CanonicalDocument, DeclarationDigest, canonical, canonical_yaml, declaration_digest, document_yaml,
};
pub use change_class::*;
pub use cluster_spec::*;
pub use codes::*;
pub use declared::*;
pub use diagnostic::*;
pub use diff::*;
pub use document::DocumentPlace;
pub use endpoint::*;
pub use event_kind::*;
pub use event_topics::*;
pub use held::*;
pub use item::fields_of;
pub use last_good::{LastGood, LastGoodError, LastGoodWriter};
pub use load::*;
pub use masking::{mask_text, mask_urls, mask_value, masked};
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
pub use yaml::{DEPTH_MAX, FILE_SIZE_MAX, InvalidYaml, parse_documents, parse_file_documents, parse_yaml};

pub use weir_broker::{Durability, EndpointLimits, PublishOverflow, QueueOverflow};
