//! The log: each commit appends one frame; the newest record of each key is live.
//!
//! Files are cleaned from the oldest on: its live records are written again at the end, then the file is removed. So a
//! removal record is needed only while older records of its key are in the log, and the log stays within twice the size
//! of the live records.

use std::collections::VecDeque;
use std::io;

use hashbrown::HashMap;

use super::active_file::{ActiveFile, random_salt};
use super::cleaning::Cleaning;
use super::disk::{Disk, SegmentFile};
use super::frame::{self, FILE_HEADER, FRAME_HEADER};
use super::replay::LogReplay;
use super::space::{Levels, LogLimits, Purpose, Reserve, full_or_failed};
use weir_broker::{RecordBatch, RecordKey, StoredRecords, append_record};

/// Bytes that cleaning adds to a commit, in addition to twice the size of the commit.
const CLEAN_BYTES: usize = 256 << 10;

/// Attempts to release reserve for one frame: more than one, in case other processes use the released space.
const APPEND_ATTEMPTS: u32 = 3;

/// Why the log failed, or could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RecordLogError {
    /// The log is unchanged; the commit can be retried when there is space.
    #[error("disk full: {0}")]
    Full(io::Error),
    /// The state on the disk is unknown.
    #[error("{what}: {source}")]
    Failed { what: &'static str, source: io::Error },
    #[error("file {file} was written by a newer weir (format {found}, this one supports {known}): start the newer version", known = frame::VERSION)]
    Newer { file: u64, found: u32 },
    #[error(
        "file {file} is damaged at byte {at} (a crash does not cause this): restore a backup of the directory, or move the directory to another path"
    )]
    Damaged { file: u64, at: usize },
    #[error(
        "file {file} is damaged in its header, or is not a file of the store: restore a backup of the directory, or move the directory to another path"
    )]
    Header { file: u64 },
    #[error("file {file} is missing: restore a backup of the directory, or move the directory to another path")]
    Missing { file: u64 },
}

/// The size of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSize {
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Of these, bytes of live records.
    pub live_bytes: u64,
    /// Number of live records.
    pub live_records: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct RecordLocation {
    pub(super) segment: u64,
    /// Bytes of the record.
    pub(super) len: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) bytes: u64,
    pub(super) live_bytes: u64,
}

/// A commit that is not written yet. The log changes when it is written.
#[derive(Default)]
struct CommitDraft {
    frame: Vec<u8>,
    /// Each key once, and the length of its record; `None`: a removal.
    changes: Vec<(RecordKey, Option<u32>)>,
    /// [`Cleaning::done`] after the commit.
    cleaned: usize,
}

impl CommitDraft {
    fn is_empty(&self) -> bool {
        self.frame.len() <= FRAME_HEADER
    }
}

/// The length of a record in the log, bytes.
pub(super) fn record_len(value: &[u8]) -> u32 {
    (RecordKey::BYTES + 4 + value.len()) as u32
}

/// An open log.
pub struct RecordLog<D: Disk> {
    disk: D,
    limits: LogLimits,
    active: Option<ActiveFile<D::File>>,
    /// Oldest first; the active file is the last.
    segments: VecDeque<Segment>,
    index: HashMap<RecordKey, RecordLocation>,
    live_bytes: u64,
    commit: u64,
    cleaning: Option<Cleaning>,
    /// A file that cleaning could not read.
    unreadable: Option<u64>,
    /// `None`: the reserve is not enabled.
    reserve: Option<Reserve>,
    /// Whether the last commit failed because the disk is full.
    is_stuck: bool,
    /// Scratch: the newest record of each key in a commit.
    newest: HashMap<RecordKey, (u32, usize)>,
    frame: Vec<u8>,
}

/// The result of opening a log.
pub struct Opened<D: Disk> {
    pub log: RecordLog<D>,
    pub stored: StoredRecords,
    /// Bytes of an incomplete commit at the end, which a crash left and which were cut off.
    pub torn_bytes: u64,
}

impl<D: Disk> RecordLog<D> {
    /// Opens the log on a disk. The first commit creates a file in an empty one.
    ///
    /// The log cannot be read or is damaged, and nothing was changed; or the content that was read cannot be made
    /// durable.
    pub fn open(disk: D, limits: LogLimits) -> Result<Opened<D>, RecordLogError> {
        let replay = LogReplay::read(&disk)?;
        let newest = replay.make_durable(&disk)?;
        let LogReplay { segments, index, commit, torn_bytes, .. } = replay;
        let bytes = segments.back().map_or(0, |last| last.bytes);
        let mut log = RecordLog {
            disk,
            limits,
            active: newest.map(|(file, salt)| ActiveFile { file, salt, bytes }),
            segments,
            index: HashMap::with_capacity(index.len()),
            live_bytes: 0,
            commit,
            cleaning: None,
            unreadable: None,
            reserve: None,
            is_stuck: false,
            newest: HashMap::new(),
            frame: Vec::new(),
        };
        let mut records = Vec::with_capacity(index.len());
        for (key, (location, value)) in index {
            log.account(location, true);
            log.index.insert(key, location);
            records.push((key, value));
        }
        Ok(Opened { log, stored: StoredRecords::new(records), torn_bytes })
    }

    /// Commits batches together, with records that cleaning moves, and waits until the commit is durable. Of several
    /// records with one key only the newest is written; records that are added and removed within the commit are not.
    /// Returns the number of records written for the batches.
    ///
    /// See [`RecordLogError`]. After [`RecordLogError::Full`] the log is unchanged; after any other error it must not be used.
    pub fn commit(&mut self, batches: &[RecordBatch]) -> Result<usize, RecordLogError> {
        let (mut draft, grows) = self.draft(batches);
        let count = draft.changes.len();
        if !self.is_full() {
            let size: usize = batches.iter().map(RecordBatch::size).sum();
            self.move_records(&mut draft, CLEAN_BYTES + 2 * size);
        }
        let written = self.write(draft, if grows { Purpose::Adds } else { Purpose::Frees });
        self.is_stuck = matches!(written, Err(RecordLogError::Full(_)));
        written.map(|()| count)
    }

    /// Performs one step of cleaning, if there is something to clean.
    ///
    /// # Errors
    /// As of [`RecordLog::commit`].
    pub fn clean(&mut self) -> Result<(), RecordLogError> {
        let mut draft = self.draft(&[]).0;
        // In steps that fit into the reserve of a small disk.
        let budget = CLEAN_BYTES.min((self.limits.file_bytes / 4) as usize);
        self.move_records(&mut draft, budget);
        self.write(draft, Purpose::Cleans)
    }

    /// Whether there is something to clean without a commit.
    pub fn wants_cleaning(&self) -> bool {
        let Some(oldest) = self.segments.front().filter(|_| self.segments.len() > 1) else { return false };
        if self.unreadable == Some(oldest.number) {
            return false;
        }
        let bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        if self.is_full() {
            // The freed space must be worth the writes, or a disk full of live records would be rewritten forever.
            let is_worth_it = oldest.live_bytes * 2 < oldest.bytes || (bytes - self.live_bytes) * 8 > bytes;
            return is_worth_it || self.cleaning.is_some();
        }
        bytes > 2 * self.live_bytes + self.limits.history_bytes
    }

    /// Enables the reserve on the disk.
    ///
    /// # Errors
    /// The disk fails otherwise than by being full.
    pub fn enable_reserve(&mut self) -> Result<(), RecordLogError> {
        let allocated = self
            .disk
            .reserved()
            .map_err(|source| RecordLogError::Failed { what: "reading the reserve failed", source })?;
        self.reserve = Some(Reserve { allocated, ..Reserve::default() });
        self.refill()
    }

    /// Restores the reserve to its full size, if there is room.
    ///
    /// # Errors
    /// The disk fails otherwise than by being full.
    pub fn refill(&mut self) -> Result<(), RecordLogError> {
        let largest = self.segments.iter().map(|segment| segment.bytes).max().unwrap_or(0);
        let Some(reserve) = &mut self.reserve else { return Ok(()) };
        reserve.levels = Levels::new(&self.limits, largest);
        reserve.refill(&self.disk)
    }

    /// Whether the disk is full: a write failed, or was possible only by releasing reserve that could not be restored
    /// since.
    pub fn is_full(&self) -> bool {
        self.is_stuck || self.reserve.as_ref().is_some_and(|reserve| reserve.is_low)
    }

    /// Full size of the reserve, bytes.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve.as_ref().map_or(0, |reserve| reserve.levels.whole)
    }

    /// The size of the log.
    pub fn size(&self) -> LogSize {
        LogSize {
            files: self.segments.len() as u64,
            bytes: self.segments.iter().map(|segment| segment.bytes).sum(),
            live_bytes: self.live_bytes,
            live_records: self.index.len() as u64,
        }
    }

    pub(super) fn limits(&self) -> &LogLimits {
        &self.limits
    }

    /// Fault injection: replaces the salt of the active file.
    #[cfg(test)]
    pub(super) fn change_salt(&mut self) {
        if let Some(active) = &mut self.active {
            active.salt = random_salt();
        }
    }

    /// Prepares a commit of batches; also returns whether it increases the live bytes.
    fn draft(&mut self, batches: &[RecordBatch]) -> (CommitDraft, bool) {
        let mut frame = std::mem::take(&mut self.frame);
        frame::begin(&mut frame);
        let cleaned = self.cleaning.as_ref().map_or(0, |cleaning| cleaning.done);
        self.newest.clear();
        for (batch, records) in batches.iter().enumerate() {
            for (position, (key, _)) in records.records().enumerate() {
                self.newest.insert(key, (batch as u32, position));
            }
        }
        let mut draft = CommitDraft { frame, changes: Vec::with_capacity(self.newest.len()), cleaned };
        let (mut more, mut less) = (0_u64, 0_u64);
        for (batch, records) in batches.iter().enumerate() {
            for (position, (key, value)) in records.records().enumerate() {
                if self.newest.get(&key) != Some(&(batch as u32, position)) {
                    continue;
                }
                let before = self.index.get(&key);
                if value.is_none() && before.is_none() {
                    continue;
                }
                append_record(&mut draft.frame, key, value);
                draft.changes.push((key, value.map(record_len)));
                more += value.map_or(0, |value| u64::from(record_len(value)));
                less += before.map_or(0, |before| u64::from(before.len));
            }
        }
        (draft, more > less)
    }

    /// Writes a commit, unless it is empty; only after the write the index changes.
    fn write(&mut self, mut draft: CommitDraft, purpose: Purpose) -> Result<(), RecordLogError> {
        let appended = if draft.is_empty() { Ok(()) } else { self.append(&mut draft.frame, purpose) };
        let CommitDraft { frame, changes, cleaned } = draft;
        self.frame = frame;
        appended?;
        let segment = self.segments.back().map_or(0, |last| last.number);
        for (key, len) in changes {
            let before = match len.map(|len| RecordLocation { segment, len }) {
                Some(location) => {
                    self.account(location, true);
                    self.index.insert(key, location)
                }
                None => self.index.remove(&key),
            };
            if let Some(before) = before {
                self.account(before, false);
            }
        }
        if let Some(cleaning) = &mut self.cleaning {
            cleaning.done = cleaned;
        }
        self.remove_dead_files()
    }

    /// Appends a frame; if the disk is full, releases reserve for it.
    fn append(&mut self, frame: &mut [u8], purpose: Purpose) -> Result<(), RecordLogError> {
        // Allows for a new file, and its last partial block.
        let bytes = frame.len() as u64 + 2 * self.limits.block_bytes;
        if self.is_full()
            && let Some(reserve) = &mut self.reserve
            && !reserve.can_cover(&self.disk, purpose, bytes)?
        {
            return Err(RecordLogError::Full(io::ErrorKind::StorageFull.into()));
        }
        let mut attempts = 0..APPEND_ATTEMPTS;
        loop {
            let error = match self.try_append(frame) {
                Err(RecordLogError::Full(error)) => error,
                other => return other,
            };
            let (Some(reserve), Some(_)) = (&mut self.reserve, attempts.next()) else {
                return Err(RecordLogError::Full(error));
            };
            if !reserve.can_cover(&self.disk, purpose, bytes)? {
                return Err(RecordLogError::Full(error));
            }
            reserve.release(&self.disk, bytes)?;
        }
    }

    fn try_append(&mut self, frame: &mut [u8]) -> Result<(), RecordLogError> {
        let has_room = |active: &ActiveFile<D::File>| {
            active.bytes <= FILE_HEADER as u64 || active.bytes + frame.len() as u64 <= self.limits.file_bytes
        };
        let mut active = match self.active.take_if(|active| has_room(active)) {
            Some(active) => active,
            None => self.begin_file()?,
        };
        frame::finish(frame, self.commit + 1, active.salt);
        let appended = active.append(frame);
        let bytes = active.bytes;
        self.active = Some(active);
        appended?;
        self.commit += 1;
        if let Some(last) = self.segments.back_mut() {
            last.bytes = bytes;
        }
        Ok(())
    }

    /// Creates a file with its header and makes it durable.
    fn begin_file(&mut self) -> Result<ActiveFile<D::File>, RecordLogError> {
        let number = self.segments.back().map_or(1, |last| last.number + 1);
        let salt = random_salt();
        let begun = self.disk.create(number).and_then(|mut file| {
            file.append(&frame::file_header(salt))?;
            file.sync()?;
            self.disk.sync()?;
            Ok(file)
        });
        match begun.map_err(full_or_failed("creating a file failed")) {
            Ok(file) => {
                let bytes = FILE_HEADER as u64;
                self.segments.push_back(Segment { number, bytes, live_bytes: 0 });
                Ok(ActiveFile { file, salt, bytes })
            }
            Err(error) => {
                if matches!(error, RecordLogError::Full(_)) {
                    self.remove(number)?;
                }
                Err(error)
            }
        }
    }

    /// Removes a file if it exists. The directory is synced before anything else is written: if an older file came back
    /// without the newer one that has its removal records, the removed records would come back too.
    fn remove(&self, number: u64) -> Result<(), RecordLogError> {
        let removed = match self.disk.remove(number) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        removed
            .and_then(|()| self.disk.sync())
            .map_err(|source| RecordLogError::Failed { what: "removing a file failed", source })
    }

    /// Removes the oldest files while they have no live records.
    fn remove_dead_files(&mut self) -> Result<(), RecordLogError> {
        while self.segments.len() > 1
            && let Some(oldest) = self.segments.front().filter(|oldest| oldest.live_bytes == 0)
        {
            self.remove(oldest.number)?;
            self.segments.pop_front();
            self.cleaning = None;
        }
        Ok(())
    }

    fn account(&mut self, location: RecordLocation, comes: bool) {
        let first = self.segments.front().map_or(0, |segment| segment.number);
        let Some(segment) = self.segments.get_mut((location.segment - first) as usize) else {
            debug_assert!(false, "every indexed record is in a file of the log");
            return;
        };
        let len = u64::from(location.len);
        if comes {
            segment.live_bytes += len;
            self.live_bytes += len;
        } else {
            segment.live_bytes -= len;
            self.live_bytes -= len;
        }
    }

    /// Adds up to `budget` bytes of live records of the oldest file to a commit.
    fn move_records(&mut self, draft: &mut CommitDraft, budget: usize) {
        if self.cleaning.is_none() && self.wants_cleaning() {
            self.cleaning = self.begin_cleaning();
            draft.cleaned = 0;
        }
        let Some(cleaning) = &self.cleaning else { return };
        let Some(oldest) = self.segments.front().map(|oldest| oldest.number) else { return };
        let until = draft.frame.len() + budget;
        for (key, range) in &cleaning.records[draft.cleaned..] {
            if draft.frame.len() >= until {
                break;
            }
            draft.cleaned += 1;
            let live_len = self.index.get(key).filter(|location| location.segment == oldest);
            if let Some(location) = live_len.filter(|_| !self.newest.contains_key(key)) {
                append_record(&mut draft.frame, *key, Some(&cleaning.bytes[range.clone()]));
                draft.changes.push((*key, Some(location.len)));
            }
        }
    }

    /// Collects the live records of the oldest file. A file that cannot be read is not cleaned, and neither are those
    /// after it.
    fn begin_cleaning(&mut self) -> Option<Cleaning> {
        let oldest = *self.segments.front()?;
        let live_len = |key: &RecordKey| {
            self.index.get(key).filter(|location| location.segment == oldest.number).map(|location| location.len)
        };
        let cleaning = match self.disk.read(oldest.number) {
            Ok(bytes) => Cleaning::read_file(bytes, live_len).filter(|cleaning| {
                let found: u64 = cleaning.records.iter().filter_map(|(key, _)| live_len(key)).map(u64::from).sum();
                found == oldest.live_bytes
            }),
            Err(error) => {
                tracing::error!(%error, file = oldest.number, "store file read failed");
                None
            }
        };
        if cleaning.is_none() {
            tracing::error!(
                file = oldest.number,
                "store cleaning failed: a file is damaged, and the next start will refuse it"
            );
            self.unreadable = Some(oldest.number);
        }
        cleaning
    }
}
