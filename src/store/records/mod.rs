//! The records of durable sessions and retained messages, on disk.
//!
//! `disk`: the file system interface; `frame`: the file format; `log`: the log; `active_file`: its newest file; `cleaning`: the live records of a file;
//! `replay`: opening a log; `space`: limits, and the reserve for a full disk; `committer`, `writer`: the commit logic
//! and its thread.

mod active_file;
mod cleaning;
mod committer;
mod disk;
mod frame;
mod log;
mod replay;
mod space;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::Arc;

pub use disk::{Directory, Disk, SegmentFile};
pub use log::{LogSize, Opened, RecordLog, RecordLogError};
pub use space::LogLimits;
pub use writer::{OnFailure, StoreStats, StoreWriter, WriterError};

use super::StoreError;
use super::permissions::{private, restrict};
use weir_broker::StoredRecords;

/// The store's directory in a data directory.
const DIRECTORY: &str = "store";
/// The lock file; the process that has the store open holds the lock.
const LOCK: &str = "lock";

/// An open, locked store.
pub struct OpenedStore {
    pub log: RecordLog<Directory>,
    pub stored: StoredRecords,
    /// See [`Opened::torn_bytes`].
    pub torn_bytes: u64,
    pub lock: StoreLock,
}

/// Prevents other processes from opening the store, while it lives.
#[derive(Debug)]
pub struct StoreLock {
    _file: File,
}

/// Whether a data directory has a store.
pub fn is_store(data_dir: &Path) -> bool {
    data_dir.join(DIRECTORY).is_dir()
}

/// Opens or creates the store of a data directory.
///
/// Another process has it open, it cannot be written, its file system is too small, its format is newer, or it is
/// damaged.
pub fn open(data_dir: &Path) -> Result<OpenedStore, StoreError> {
    let path = data_dir.join(DIRECTORY);
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| StoreError::Io { path, source }
    };
    fs::create_dir_all(&path).map_err(io(&path))?;
    restrict(&path);
    let lock = path.join(LOCK);
    let file = private().create(true).truncate(false).write(true).open(&lock).map_err(io(&lock))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path }),
        Err(TryLockError::Error(source)) => return Err(StoreError::Io { path: lock, source }),
    }
    // The directory's entry in its parent must survive a crash too.
    File::open(data_dir).and_then(|parent| parent.sync_all()).map_err(io(data_dir))?;
    let limits = limits_for(&path)?;
    let opened = RecordLog::open(Directory::new(&path), limits).map_err(|source| StoreError::Log { path, source })?;
    let Opened { log, stored, torn_bytes } = opened;
    Ok(OpenedStore { log, stored, torn_bytes, lock: StoreLock { _file: file } })
}

/// The limits of a log in a directory, by the size of its file system.
fn limits_for(path: &Path) -> Result<LogLimits, StoreError> {
    let stat =
        rustix::fs::statvfs(path).map_err(|error| StoreError::Io { path: path.to_path_buf(), source: error.into() })?;
    // Some file systems do not report their size.
    let bytes = if stat.f_blocks == 0 { u64::MAX } else { stat.f_blocks.saturating_mul(stat.f_frsize) };
    if bytes < space::DISK_BYTES_MIN {
        return Err(StoreError::TooSmall { path: path.to_path_buf(), bytes, needed: space::DISK_BYTES_MIN });
    }
    Ok(LogLimits::for_disk(bytes, stat.f_frsize))
}

/// The running store of a broker.
pub struct Store {
    writer: Arc<StoreWriter>,
    _lock: StoreLock,
}

impl Store {
    /// Starts the writer; returns the stored state for the data plane.
    ///
    /// The disk failed, or the system refused a thread.
    pub fn start(opened: OpenedStore, on_failure: OnFailure) -> Result<(Self, StoredRecords), StoreError> {
        let OpenedStore { log, stored, lock, .. } = opened;
        let failed = |error| match error {
            WriterError::Log(source) => StoreError::Log { path: DIRECTORY.into(), source },
            WriterError::Thread(source) => StoreError::Io { path: DIRECTORY.into(), source },
        };
        let writer = Arc::new(StoreWriter::start(log, on_failure).map_err(failed)?);
        Ok((Self { writer, _lock: lock }, stored))
    }

    /// The sink for the records of the shards.
    pub fn sink(&self) -> Arc<StoreWriter> {
        Arc::clone(&self.writer)
    }

    /// Writes all pending records and unlocks the store.
    pub fn finish(self) {
        self.writer.finish();
    }

    /// Counters and gauges of the store.
    pub fn stats(&self) -> Arc<StoreStats> {
        self.writer.stats()
    }
}
