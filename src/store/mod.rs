//! Files in the data directory: the last known good declarations, the history of changes, and the records of durable
//! sessions.
//!
//! It owns the formats and their recovery after a crash. It does not decide what is stored, or when.

mod journal;
mod last_known_good;
mod permissions;
pub mod records;
mod write;

use std::path::PathBuf;

pub use journal::{Journal, OpenedJournal};
pub use last_known_good::{LastKnownGoodFile, Saved};
pub use permissions::restrict;

/// An error of a file in the data directory.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: {message}", path.display())]
    Content { path: PathBuf, message: String },
    #[error("{}: another weir process uses it: stop that process first", path.display())]
    InUse { path: PathBuf },
    #[error(
        "{}: the file system has {bytes} bytes, but the store needs at least {needed}: move the data directory to a larger one",
        path.display()
    )]
    TooSmall { path: PathBuf, bytes: u64, needed: u64 },
    #[error("{}: {source}", path.display())]
    Log { path: PathBuf, source: records::RecordLogError },
}
