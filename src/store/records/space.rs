//! Disk space of the log: limits by the size of the disk, and the reserve for a full disk.
//!
//! A log on a full disk still has to write: removals, which free space, sessions that connect to fetch their messages,
//! and the records that cleaning moves before it removes a file. So the log holds a reserve on the disk, and releases
//! it in three parts. All records may use the first, for everything in progress when the disk became full; records that
//! do not increase the live bytes may use the second; only cleaning may use the third. Freed space restores the reserve
//! first. The disk counts as full until the reserve is complete and one more file would fit.

use std::io;

use super::disk::Disk;
use super::log::RecordLogError;

/// Limits of the log.
#[derive(Debug, Clone, Copy)]
pub struct LogLimits {
    /// Size of a file, bytes; after it, a new file begins.
    pub file_bytes: u64,
    /// Bytes of dead records beyond the size of the live ones, above which cleaning begins.
    pub history_bytes: u64,
    /// Allocation unit of the file system, bytes.
    pub block_bytes: u64,
}

/// Maximum size of a file, on a large disk.
const FILE_BYTES: u64 = 32 << 20;
/// Minimum size of a file, on a small disk.
const FILE_BYTES_MIN: u64 = 16 << 10;
/// Number of files that fit on a disk with files smaller than [`FILE_BYTES`].
const FILES_PER_DISK: u64 = 64;
/// Minimum size of a file system for the log, bytes.
pub(super) const DISK_BYTES_MIN: u64 = 32 * FILE_BYTES_MIN;

impl Default for LogLimits {
    fn default() -> Self {
        Self { file_bytes: FILE_BYTES, history_bytes: 2 * FILE_BYTES, block_bytes: 4096 }
    }
}

impl LogLimits {
    /// Limits for a file system of `bytes`, with allocation unit `block_bytes`.
    pub fn for_disk(bytes: u64, block_bytes: u64) -> Self {
        let file_bytes = (bytes / FILES_PER_DISK).clamp(FILE_BYTES_MIN, FILE_BYTES);
        Self { file_bytes, history_bytes: 2 * file_bytes, block_bytes: block_bytes.clamp(1, FILE_BYTES_MIN) }
    }
}

/// The purpose of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Records that increase the live bytes.
    Adds,
    /// Records that do not increase the live bytes.
    Frees,
    /// Records that cleaning moves.
    Cleans,
}

/// How much of the reserve each purpose must leave, bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Levels {
    /// For records that free space: what cleaning needs to move one file.
    frees: u64,
    /// For records that add.
    adds: u64,
    pub(super) whole: u64,
    /// Free space in addition to it, with which the disk no longer counts as full.
    beside: u64,
}

impl Levels {
    /// Levels for a log whose largest file has `largest` bytes.
    pub(super) fn new(limits: &LogLimits, largest: u64) -> Self {
        let file = limits.file_bytes;
        let moved = file.max(largest);
        let frees = moved + moved / 4 + 4 * limits.block_bytes;
        let adds = frees + file / 4 * 3;
        Self { frees, adds, whole: adds + file, beside: file }
    }
}

/// A write is small if it needs at most this fraction of the reserve for records that free space; small additions may
/// use that part.
const SMALL_PART: u64 = 8;

/// The reserve; `allocated` bytes of it are on the disk.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    pub(super) allocated: u64,
    pub(super) levels: Levels,
    /// A part of it was released, or could not be allocated.
    pub(super) is_low: bool,
}

impl Reserve {
    /// Restores its full size, if the disk has room, and shrinks it if it is larger.
    pub(super) fn refill<D: Disk>(&mut self, disk: &D) -> Result<(), RecordLogError> {
        let Levels { whole, beside, .. } = self.levels;
        let wanted = if self.is_low { whole + beside } else { whole };
        self.is_low = !self.raise(disk, wanted)?;
        if self.is_low {
            self.raise(disk, whole)?;
        }
        if self.allocated > whole {
            self.set(disk, whole)?;
        }
        Ok(())
    }

    /// The size that a write of `bytes` must leave.
    fn floor(&self, purpose: Purpose, bytes: u64) -> u64 {
        let Levels { frees, adds, .. } = self.levels;
        match purpose {
            Purpose::Cleans => 0,
            Purpose::Frees => frees,
            Purpose::Adds if self.allocated.saturating_sub(frees) / SMALL_PART >= bytes => frees,
            Purpose::Adds => adds,
        }
    }

    /// Whether it can cover a write of `bytes` and what the write must leave, after growing it with free space if
    /// needed.
    pub(super) fn can_cover<D: Disk>(
        &mut self,
        disk: &D,
        purpose: Purpose,
        bytes: u64,
    ) -> Result<bool, RecordLogError> {
        let floor = self.floor(purpose, bytes);
        self.raise(disk, floor + bytes)
    }

    /// Releases `bytes`.
    pub(super) fn release<D: Disk>(&mut self, disk: &D, bytes: u64) -> Result<(), RecordLogError> {
        self.is_low = true;
        self.set(disk, self.allocated.saturating_sub(bytes))
    }

    /// Grows it to `bytes`, unless it is larger; `false`: there is no room.
    fn raise<D: Disk>(&mut self, disk: &D, bytes: u64) -> Result<bool, RecordLogError> {
        if self.allocated >= bytes {
            return Ok(true);
        }
        match self.set(disk, bytes) {
            Err(RecordLogError::Full(_)) => Ok(false),
            other => other.map(|()| true),
        }
    }

    fn set<D: Disk>(&mut self, disk: &D, bytes: u64) -> Result<(), RecordLogError> {
        disk.reserve(bytes).map_err(full_or_failed("resizing the reserve failed"))?;
        self.allocated = bytes;
        Ok(())
    }
}

/// Maps an IO error: a full disk is not a failure of the log.
pub(super) fn full_or_failed(what: &'static str) -> impl Fn(io::Error) -> RecordLogError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => RecordLogError::Full(source),
        _ => RecordLogError::Failed { what, source },
    }
}
