//! The room that the log needs: its limits by the size of the disk, and the reserve that it keeps for a full one.
//!
//! A log on a full disk still has to write: removals, which free space, sessions that connect to fetch what waits for them,
//! and the records that cleaning moves before it removes a file. So the log holds a reserve on the disk, and gives it up in
//! three parts. Any record may take of the first, until everything that was under way when the disk became full is
//! written; what does not add to the live records may take of the second; only cleaning may take of the third. What is
//! freed goes to the reserve first. The disk counts as full from then on until the reserve is whole and there is room for
//! one file more.

use std::io;

use super::disk::Disk;
use super::log::LogError;

/// How large the log may grow.
#[derive(Debug, Clone, Copy)]
pub struct LogLimits {
    /// Bytes after which another file is begun.
    pub file_bytes: u64,
    /// Bytes of history that are kept before cleaning begins, beside as many as are live.
    pub history_bytes: u64,
    /// What the file system gives space by, bytes.
    pub block_bytes: u64,
}

/// The largest file, on a disk that has room for it.
const FILE_BYTES: u64 = 32 << 20;
/// The smallest file, on the smallest disk.
const FILE_BYTES_MIN: u64 = 16 << 10;
/// Files that fit on a disk, at least, where they are smaller than [`FILE_BYTES`].
const FILES_PER_DISK: u64 = 64;
/// The least size of a file system that the log works on.
pub(super) const DISK_BYTES_MIN: u64 = 32 * FILE_BYTES_MIN;

impl Default for LogLimits {
    fn default() -> Self {
        Self { file_bytes: FILE_BYTES, history_bytes: 2 * FILE_BYTES, block_bytes: 4096 }
    }
}

impl LogLimits {
    /// For a file system of so many bytes, which gives space by `block_bytes`.
    pub fn for_disk(bytes: u64, block_bytes: u64) -> Self {
        let file_bytes = (bytes / FILES_PER_DISK).clamp(FILE_BYTES_MIN, FILE_BYTES);
        Self { file_bytes, history_bytes: 2 * file_bytes, block_bytes: block_bytes.clamp(1, FILE_BYTES_MIN) }
    }
}

/// What a write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Records that make the live ones more.
    Adds,
    /// Records that do not.
    Frees,
    /// Records that cleaning moves.
    Cleans,
}

/// How much of the reserve is left behind by each purpose, bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Levels {
    /// By what frees space: what cleaning needs to move one file.
    frees: u64,
    /// By what adds.
    adds: u64,
    pub(super) whole: u64,
    /// Room beside it, from which on a disk that was full no longer counts as full.
    beside: u64,
}

impl Levels {
    /// For a log whose largest file has `largest` bytes.
    pub(super) fn new(limits: &LogLimits, largest: u64) -> Self {
        let file = limits.file_bytes;
        let moved = file.max(largest);
        let frees = moved + moved / 4 + 4 * limits.block_bytes;
        let adds = frees + file / 4 * 3;
        Self { frees, adds, whole: adds + file, beside: file }
    }
}

/// A small write, as a part of what the reserve has for what frees space: such a one may add.
const SMALL_PART: u64 = 8;

/// The reserve, of which the disk holds `held` bytes.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    pub(super) held: u64,
    pub(super) levels: Levels,
    /// Some of it was given up, or could not be had.
    pub(super) is_low: bool,
}

impl Reserve {
    /// Makes it whole, if the disk has room, and not larger.
    pub(super) fn refill<D: Disk>(&mut self, disk: &D) -> Result<(), LogError> {
        let Levels { whole, beside, .. } = self.levels;
        let wanted = if self.is_low { whole + beside } else { whole };
        self.is_low = !self.raise(disk, wanted)?;
        if self.is_low {
            self.raise(disk, whole)?;
        }
        if self.held > whole {
            self.set(disk, whole)?;
        }
        Ok(())
    }

    /// What a write of `bytes` must leave of it.
    fn floor(&self, purpose: Purpose, bytes: u64) -> u64 {
        let Levels { frees, adds, .. } = self.levels;
        match purpose {
            Purpose::Cleans => 0,
            Purpose::Frees => frees,
            Purpose::Adds if self.held.saturating_sub(frees) / SMALL_PART >= bytes => frees,
            Purpose::Adds => adds,
        }
    }

    /// Whether it has what a write of `bytes` needs and what the write must leave, if need be with what is free.
    pub(super) fn covers<D: Disk>(&mut self, disk: &D, purpose: Purpose, bytes: u64) -> Result<bool, LogError> {
        let floor = self.floor(purpose, bytes);
        self.raise(disk, floor + bytes)
    }

    /// Gives up `bytes`.
    pub(super) fn release<D: Disk>(&mut self, disk: &D, bytes: u64) -> Result<(), LogError> {
        self.is_low = true;
        self.set(disk, self.held.saturating_sub(bytes))
    }

    /// Makes it `bytes` large, unless it is larger; `false`: there is no room.
    fn raise<D: Disk>(&mut self, disk: &D, bytes: u64) -> Result<bool, LogError> {
        if self.held >= bytes {
            return Ok(true);
        }
        match self.set(disk, bytes) {
            Err(LogError::Full(_)) => Ok(false),
            other => other.map(|()| true),
        }
    }

    fn set<D: Disk>(&mut self, disk: &D, bytes: u64) -> Result<(), LogError> {
        disk.reserve(bytes).map_err(full_or("the reserve cannot be sized"))?;
        self.held = bytes;
        Ok(())
    }
}

/// A disk that is full is no failure: it is told apart by what the system says.
pub(super) fn full_or(what: &'static str) -> impl Fn(io::Error) -> LogError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LogError::Full(source),
        _ => LogError::Failed { what, source },
    }
}
