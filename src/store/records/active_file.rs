//! The file of the log that is appended to.

use super::disk::SegmentFile;
use super::log::RecordLogError;
use super::space::full_or_failed;

/// The file that is appended to. It is created when a commit first has something to write, so that a salt always
/// belongs to the file that it is used for, and a file is only truncated at its own end.
pub(super) struct ActiveFile<F> {
    pub(super) file: F,
    pub(super) salt: u32,
    pub(super) bytes: u64,
}

impl<F: SegmentFile> ActiveFile<F> {
    /// Appends a frame and waits until it is durable.
    pub(super) fn append(&mut self, frame: &[u8]) -> Result<(), RecordLogError> {
        if let Err(error) = self.file.append(frame) {
            // A partial frame must not stay before the next one, nor at the end of a file that another one follows.
            self.file
                .truncate(self.bytes)
                .and_then(|()| self.file.sync())
                .map_err(|source| RecordLogError::Failed { what: "truncating a file failed", source })?;
            return Err(full_or_failed("writing the log failed")(error));
        }
        self.file.sync().map_err(|source| RecordLogError::Failed { what: "fsync failed", source })?;
        self.bytes += frame.len() as u64;
        Ok(())
    }
}

/// An unpredictable salt.
pub(super) fn random_salt() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() as u32
}
