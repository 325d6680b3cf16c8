//! The log: every commit is one frame at its end, and each key's newest record is what holds.
//!
//! Files are cleaned from the oldest on: what still holds of it is written again at the end, then the file goes. So a
//! record that says "removed" is needed only as long as it lies in the log, and the log stays within twice what holds.

use std::collections::VecDeque;
use std::io;

use hashbrown::HashMap;

use super::cleaning::Cleaning;
use super::disk::{Disk, SegmentFile};
use super::frame::{self, FILE_HEADER, FRAME_HEADER};
use super::reading::Reading;
use super::space::{Levels, LogLimits, Purpose, Reserve, full_or};
use weir_broker::{Key, RecordBatch, Stored, append_record};

/// Bytes that cleaning adds to a commit, beside twice what the commit has itself.
const CLEAN_BYTES: usize = 256 << 10;

/// How often the reserve gives something up for one frame: more than once where others take what was given up.
const APPEND_ATTEMPTS: u32 = 3;

/// Why the log cannot go on, or not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Nothing is lost and nothing has changed: to be tried again when there is room.
    #[error("the disk is full: {0}")]
    Full(io::Error),
    /// What is on the disk is not known any more.
    #[error("{what}: {source}")]
    Failed { what: &'static str, source: io::Error },
    #[error("file {file} was written by a newer weir (format {found}, this one knows {known}): start that one", known = frame::VERSION)]
    Newer { file: u64, found: u32 },
    #[error(
        "file {file} is damaged at byte {at}, and not as a crash leaves it: restore a backup of the directory, or move it away"
    )]
    Damaged { file: u64, at: usize },
    #[error(
        "file {file} is damaged in its header, or no file of weir's store: restore a backup of the directory, or move it away"
    )]
    Header { file: u64 },
    #[error("file {file} is missing: restore a backup of the directory, or move it away")]
    Missing { file: u64 },
}

/// How the log stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSize {
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Of these, bytes of records that hold.
    pub live_bytes: u64,
    /// Records that hold.
    pub live_records: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
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

/// The file that is appended to. There is none until a commit has something to write: so a salt always is that of the
/// file that it is used for, and a file is only ever cut at its own end.
struct Active<F> {
    file: F,
    salt: u32,
    bytes: u64,
}

/// A commit that is not written yet. The log changes when it is.
#[derive(Default)]
struct Draft {
    frame: Vec<u8>,
    /// Each key once, and the bytes of its record; `None`: it is removed.
    changes: Vec<(Key, Option<u32>)>,
    /// [`Cleaning::done`] after it.
    cleaned: usize,
}

impl Draft {
    fn is_empty(&self) -> bool {
        self.frame.len() <= FRAME_HEADER
    }
}

/// How a record in a batch weighs in the log.
pub(super) fn size_of(value: &[u8]) -> u32 {
    (Key::BYTES + 4 + value.len()) as u32
}

/// An open log.
pub struct Log<D: Disk> {
    disk: D,
    limits: LogLimits,
    active: Option<Active<D::File>>,
    /// Oldest first; the active file's is the last.
    segments: VecDeque<Segment>,
    index: HashMap<Key, Place>,
    live_bytes: u64,
    commit: u64,
    cleaning: Option<Cleaning>,
    /// The file that could not be read to clean it.
    unreadable: Option<u64>,
    /// `None`: it keeps none.
    reserve: Option<Reserve>,
    /// The last commit found no room.
    is_stuck: bool,
    /// Scratch: the newest record of each key in a commit.
    newest: HashMap<Key, (u32, usize)>,
    frame: Vec<u8>,
}

/// What came of opening a log.
pub struct Opened<D: Disk> {
    pub log: Log<D>,
    pub stored: Stored,
    /// Bytes at the end that were no whole commit, and were cut off: a crash cut it short before it was durable.
    pub torn_bytes: u64,
}

impl<D: Disk> Log<D> {
    /// Opens the log on a disk. An empty one is begun by the first commit.
    ///
    /// # Errors
    /// It cannot be read, or is not to be trusted: nothing was changed then. Or what was read cannot be made durable.
    pub fn open(disk: D, limits: LogLimits) -> Result<Opened<D>, LogError> {
        let reading = Reading::of(&disk)?;
        let newest = reading.settle(&disk)?;
        let Reading { segments, index, commit, torn_bytes, .. } = reading;
        let bytes = segments.back().map_or(0, |last| last.bytes);
        let mut log = Log {
            disk,
            limits,
            active: newest.map(|(file, salt)| Active { file, salt, bytes }),
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
        for (key, (place, value)) in index {
            log.weigh(place, true);
            log.index.insert(key, place);
            records.push((key, value));
        }
        Ok(Opened { log, stored: Stored::new(records), torn_bytes })
    }

    /// Puts batches together to one commit, with what cleaning moves, writes it, and waits until it is durable. Of several
    /// records with one key the newest alone is written, and what comes and goes within the commit never is. Answers with
    /// how many records it wrote of the batches.
    ///
    /// # Errors
    /// See [`LogError`]. After [`LogError::Full`] the log is as it was before; after any other it is not to be used any
    /// more.
    pub fn commit(&mut self, batches: &[RecordBatch]) -> Result<usize, LogError> {
        let (mut draft, grows) = self.draft(batches);
        let count = draft.changes.len();
        if !self.is_full() {
            let size: usize = batches.iter().map(RecordBatch::size).sum();
            self.move_records(&mut draft, CLEAN_BYTES + 2 * size);
        }
        let written = self.write(draft, if grows { Purpose::Adds } else { Purpose::Frees });
        self.is_stuck = matches!(written, Err(LogError::Full(_)));
        written.map(|()| count)
    }

    /// Cleans for one commit's length, where there is something to clean.
    ///
    /// # Errors
    /// As of [`Log::commit`].
    pub fn clean(&mut self) -> Result<(), LogError> {
        let mut draft = self.draft(&[]).0;
        // In parts that fit into a small disk's reserve.
        let budget = CLEAN_BYTES.min((self.limits.file_bytes / 4) as usize);
        self.move_records(&mut draft, budget);
        self.write(draft, Purpose::Cleans)
    }

    /// Whether cleaning has something to do though there be nothing to commit.
    pub fn wants_cleaning(&self) -> bool {
        let Some(oldest) = self.segments.front().filter(|_| self.segments.len() > 1) else { return false };
        if self.unreadable == Some(oldest.number) {
            return false;
        }
        let bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        if self.is_full() {
            // What is gained must be worth what is written for it, or a disk full of what holds would be written for ever.
            let is_worth_it = oldest.live_bytes * 2 < oldest.bytes || (bytes - self.live_bytes) * 8 > bytes;
            return is_worth_it || self.cleaning.is_some();
        }
        bytes > 2 * self.live_bytes + self.limits.history_bytes
    }

    /// Keeps a reserve on the disk from now on.
    ///
    /// # Errors
    /// The disk fails otherwise than by being full.
    pub fn keep_reserve(&mut self) -> Result<(), LogError> {
        let held = self
            .disk
            .reserved()
            .map_err(|source| LogError::Failed { what: "the reserve cannot be looked at", source })?;
        self.reserve = Some(Reserve { held, ..Reserve::default() });
        self.refill()
    }

    /// Makes the reserve whole, where there is room.
    ///
    /// # Errors
    /// The disk fails otherwise than by being full.
    pub fn refill(&mut self) -> Result<(), LogError> {
        let largest = self.segments.iter().map(|segment| segment.bytes).max().unwrap_or(0);
        let Some(reserve) = &mut self.reserve else { return Ok(()) };
        reserve.levels = Levels::new(&self.limits, largest);
        reserve.refill(&self.disk)
    }

    /// Whether the disk is full: something could not be written, or could only be by giving up some of the reserve, and
    /// there is no room for that again.
    pub fn is_full(&self) -> bool {
        self.is_stuck || self.reserve.as_ref().is_some_and(|reserve| reserve.is_low)
    }

    /// How much of the disk it sets aside for when it is full.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve.as_ref().map_or(0, |reserve| reserve.levels.whole)
    }

    /// How it stands.
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

    /// A planted fault: another salt for a file that has one.
    #[cfg(test)]
    pub(super) fn change_salt(&mut self) {
        if let Some(active) = &mut self.active {
            active.salt = random();
        }
    }

    /// The records of batches as they are to be written, and whether they make the live ones more.
    fn draft(&mut self, batches: &[RecordBatch]) -> (Draft, bool) {
        let mut frame = std::mem::take(&mut self.frame);
        frame::begin(&mut frame);
        let cleaned = self.cleaning.as_ref().map_or(0, |cleaning| cleaning.done);
        let mut draft = Draft { frame, changes: Vec::new(), cleaned };
        self.newest.clear();
        for (batch, records) in batches.iter().enumerate() {
            for (place, (key, _)) in records.records().enumerate() {
                self.newest.insert(key, (batch as u32, place));
            }
        }
        let (mut more, mut less) = (0_u64, 0_u64);
        for (batch, records) in batches.iter().enumerate() {
            for (place, (key, value)) in records.records().enumerate() {
                if self.newest.get(&key) != Some(&(batch as u32, place)) {
                    continue;
                }
                let before = self.index.get(&key);
                if value.is_none() && before.is_none() {
                    continue;
                }
                append_record(&mut draft.frame, key, value);
                draft.changes.push((key, value.map(size_of)));
                more += value.map_or(0, |value| u64::from(size_of(value)));
                less += before.map_or(0, |before| u64::from(before.len));
            }
        }
        (draft, more > less)
    }

    /// Writes a commit, unless there is nothing to write; then, and only then, the log is as the commit says.
    fn write(&mut self, mut draft: Draft, purpose: Purpose) -> Result<(), LogError> {
        let appended = if draft.is_empty() { Ok(()) } else { self.append(&mut draft.frame, purpose) };
        let Draft { frame, changes, cleaned } = draft;
        self.frame = frame;
        appended?;
        let segment = self.segments.back().map_or(0, |last| last.number);
        for (key, len) in changes {
            if let Some(before) = self.index.remove(&key) {
                self.weigh(before, false);
            }
            if let Some(len) = len {
                let place = Place { segment, len };
                self.index.insert(key, place);
                self.weigh(place, true);
            }
        }
        if let Some(cleaning) = &mut self.cleaning {
            cleaning.done = cleaned;
        }
        self.drop_dead()
    }

    /// Appends a frame; where there is no room, with what the reserve gives up for it.
    fn append(&mut self, frame: &mut [u8], purpose: Purpose) -> Result<(), LogError> {
        // A new file, and the last block of it.
        let bytes = frame.len() as u64 + 2 * self.limits.block_bytes;
        if self.is_full()
            && let Some(reserve) = &mut self.reserve
            && !reserve.covers(&self.disk, purpose, bytes)?
        {
            return Err(LogError::Full(io::ErrorKind::StorageFull.into()));
        }
        let mut attempts = 0..APPEND_ATTEMPTS;
        loop {
            let error = match self.try_append(frame) {
                Err(LogError::Full(error)) => error,
                other => return other,
            };
            let (Some(reserve), Some(_)) = (&mut self.reserve, attempts.next()) else {
                return Err(LogError::Full(error));
            };
            if !reserve.covers(&self.disk, purpose, bytes)? {
                return Err(LogError::Full(error));
            }
            reserve.release(&self.disk, bytes)?;
        }
    }

    fn try_append(&mut self, frame: &mut [u8]) -> Result<(), LogError> {
        let has_room = |active: &Active<D::File>| {
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

    /// Begins a file: after this it is there, with its header, whatever happens.
    fn begin_file(&mut self) -> Result<Active<D::File>, LogError> {
        let number = self.segments.back().map_or(1, |last| last.number + 1);
        let salt = random();
        let begun = self.disk.create(number).and_then(|mut file| {
            file.append(&frame::file_header(salt))?;
            file.sync()?;
            self.disk.sync()?;
            Ok(file)
        });
        match begun.map_err(full_or("a file cannot be begun")) {
            Ok(file) => {
                let bytes = FILE_HEADER as u64;
                self.segments.push_back(Segment { number, bytes, live_bytes: 0 });
                Ok(Active { file, salt, bytes })
            }
            Err(error) => {
                if matches!(error, LogError::Full(_)) {
                    self.remove(number)?;
                }
                Err(error)
            }
        }
    }

    /// Removes a file that may be there. The directory is synced before anything else happens: were an older file to come
    /// back without the newer one that says what was removed of it, so would what it held.
    fn remove(&self, number: u64) -> Result<(), LogError> {
        let removed = match self.disk.remove(number) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        removed
            .and_then(|()| self.disk.sync())
            .map_err(|source| LogError::Failed { what: "a file cannot be removed", source })
    }

    /// Removes files at the front of which nothing holds any more.
    fn drop_dead(&mut self) -> Result<(), LogError> {
        while self.segments.len() > 1
            && let Some(oldest) = self.segments.front().filter(|oldest| oldest.live_bytes == 0)
        {
            self.remove(oldest.number)?;
            self.segments.pop_front();
            self.cleaning = None;
        }
        Ok(())
    }

    fn weigh(&mut self, place: Place, comes: bool) {
        let Some(first) = self.segments.front().map(|segment| segment.number) else { return };
        let Some(segment) = self.segments.get_mut((place.segment - first) as usize) else { return };
        let len = u64::from(place.len);
        if comes {
            segment.live_bytes += len;
            self.live_bytes += len;
        } else {
            segment.live_bytes -= len;
            self.live_bytes -= len;
        }
    }

    /// Adds up to `budget` bytes of what holds of the oldest file to a commit.
    fn move_records(&mut self, draft: &mut Draft, budget: usize) {
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
            let holds = self.index.get(key).filter(|place| place.segment == oldest);
            if let Some(place) = holds.filter(|_| !self.newest.contains_key(key)) {
                append_record(&mut draft.frame, *key, Some(&cleaning.bytes[range.clone()]));
                draft.changes.push((*key, Some(place.len)));
            }
        }
    }

    /// What holds of the oldest file. One that cannot be read is left alone, and so are those behind it.
    fn begin_cleaning(&mut self) -> Option<Cleaning> {
        let oldest = *self.segments.front()?;
        let holds =
            |key: &Key| self.index.get(key).filter(|place| place.segment == oldest.number).map(|place| place.len);
        let cleaning = match self.disk.read(oldest.number) {
            Ok(bytes) => Cleaning::of(bytes, holds).filter(|cleaning| {
                let found: u64 = cleaning.records.iter().filter_map(|(key, _)| holds(key)).map(u64::from).sum();
                found == oldest.live_bytes
            }),
            Err(error) => {
                tracing::error!(%error, file = oldest.number, "store file cannot be read");
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

impl<F: SegmentFile> Active<F> {
    /// Appends a frame and waits until it is durable.
    fn append(&mut self, frame: &[u8]) -> Result<(), LogError> {
        if let Err(error) = self.file.append(frame) {
            // What was written of it must not stand before what is written next, nor at the end of a file that another one
            // follows.
            self.file
                .truncate(self.bytes)
                .and_then(|()| self.file.sync())
                .map_err(|source| LogError::Failed { what: "a file cannot be cut", source })?;
            return Err(full_or("the log cannot be written")(error));
        }
        self.file.sync().map_err(|source| LogError::Failed { what: "fsync failed", source })?;
        self.bytes += frame.len() as u64;
        Ok(())
    }
}

/// A number that nobody can know before.
fn random() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() as u32
}
