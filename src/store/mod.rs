//! What outlives the process: the last known good declarations, and the history of changes.

mod journal;
mod last_known_good;
mod write;

use std::path::PathBuf;

pub use journal::Journal;
pub use last_known_good::{LastKnownGoodFile, Saved};

/// Why something could not be kept, or not be had back.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: {message}", path.display())]
    Content { path: PathBuf, message: String },
}
