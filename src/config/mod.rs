//! A snapshot of YAML documents to what is declared, or diagnostics. Pure: the source has read the files.
//!
//! ```text
//! Snapshot ─▶ yaml (guarded) ─▶ schema ─▶ documents ─▶ cross-document rules ─▶ Declared, diagnostics, what is held
//! ```

mod acl;
mod address;
mod auth;
mod ban;
mod bridge;
mod declared;
mod diagnostic;
mod endpoint;
mod load;
mod name;
mod origin;
mod pattern;
mod reconciliation;
mod snapshot;
mod tls;
mod transport;

pub use acl::*;
pub use address::*;
pub use auth::*;
pub use ban::*;
pub use bridge::*;
pub use declared::*;
pub use diagnostic::*;
pub use endpoint::*;
pub use load::*;
pub use name::*;
pub use origin::*;
pub use pattern::*;
pub use reconciliation::*;
pub use snapshot::*;
pub use tls::*;
pub use transport::*;
