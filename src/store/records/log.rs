//! The log: every commit is one frame at its end, and each key's newest record is what holds.
//!
//! Files are cleaned from the oldest on: what still holds of it is written again at the end, then the file goes. So a
//! record that says "removed" is needed only as long as it lies in the log, and the log stays within twice what holds.

use std::collections::VecDeque;
use std::io;

use hashbrown::HashMap;

use super::disk::{Disk, SegmentFile};
use super::frame::{self, FILE_HEADER, FRAME_HEADER, Header};
use crate::broker::{Key, RecordBatch, Records, Stored, append_record};

/// How large the log may grow.
#[derive(Debug, Clone, Copy)]
pub struct LogLimits {
    /// Bytes after which another file is begun.
    pub file_bytes: u64,
    /// Bytes of history that are kept before cleaning begins, beside as many as hold.
    pub history_bytes: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { file_bytes: 32 << 20, history_bytes: 64 << 20 }
    }
}

/// Bytes that cleaning adds to a commit, beside twice what the commit has itself.
const CLEAN_BYTES: usize = 256 << 10;

/// Why the log cannot go on, or not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Nothing is lost: to be tried again when there is room.
    #[error("the disk is full: {0}")]
    Full(io::Error),
    /// What is on the disk is not known any more.
    #[error("{what}: {source}")]
    Failed { what: &'static str, source: io::Error },
    #[error("file {file} was written by a newer weir (format {found}, this one knows {known}): start that one", known = frame::VERSION)]
    Newer { file: u64, found: u32 },
    #[error(
        "file {file} is damaged at byte {at}, and whole commits follow: restore a backup, or move the directory away"
    )]
    Damaged { file: u64, at: usize },
    #[error("file {file} is no file of weir's store")]
    Foreign { file: u64 },
    #[error("file {file} is missing")]
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
struct Place {
    segment: u64,
    /// Bytes of the record.
    len: u32,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    number: u64,
    bytes: u64,
    live_bytes: u64,
}

/// Cleaning under way: records of the oldest file that held when it began.
#[derive(Debug)]
struct Cleaning {
    bytes: Vec<u8>,
    /// Key, and the range of its value.
    left: Vec<(Key, std::ops::Range<usize>)>,
}

/// How a record in a batch weighs in the log.
fn size_of(value: &[u8]) -> u32 {
    (Key::BYTES + 4 + value.len()) as u32
}

/// An open log.
pub struct Log<D: Disk> {
    disk: D,
    limits: LogLimits,
    file: D::File,
    /// Oldest first; the last is written to.
    segments: VecDeque<Segment>,
    /// What the last file will have once the frame is written, where that is to be another one than it is now.
    begins_segment: bool,
    index: HashMap<Key, Place>,
    live_bytes: u64,
    commit: u64,
    /// Of the file that is written to.
    salt: u32,
    /// The commit that is being written.
    frame: Vec<u8>,
    cleaning: Option<Cleaning>,
    /// Scratch: the newest record of each key in a commit.
    newest: HashMap<Key, (u32, usize)>,
}

/// What came of opening a log.
pub struct Opened<D: Disk> {
    pub log: Log<D>,
    pub stored: Stored,
    /// Bytes at the end that were no whole commit: a crash cut it short, and nobody was told that it was durable.
    pub torn_bytes: u64,
}

impl<D: Disk> Log<D> {
    /// Opens the log on a disk, or begins it.
    ///
    /// # Errors
    /// It cannot be read, or is not to be trusted: nothing was changed then.
    pub fn open(disk: D, limits: LogLimits) -> Result<Opened<D>, LogError> {
        let failed = |what| move |source| LogError::Failed { what, source };
        let numbers = disk.list().map_err(failed("the store's directory cannot be read"))?;
        let mut reading = Reading::default();
        for (at, &number) in numbers.iter().enumerate() {
            if let Some(before) = at.checked_sub(1).map(|before| numbers[before])
                && before + 1 != number
            {
                return Err(LogError::Missing { file: before + 1 });
            }
            let bytes = disk.read(number).map_err(failed("a file of the store cannot be read"))?;
            reading.read(number, &bytes, at + 1 == numbers.len())?;
        }
        let Reading { mut segments, index, commit, torn_bytes, mut salt } = reading;
        let file = match segments.back() {
            Some(last) if last.bytes > 0 => {
                let mut file = disk.open(last.number).map_err(failed("a file of the store cannot be opened"))?;
                if torn_bytes > 0 {
                    file.truncate(last.bytes)
                        .and_then(|()| file.sync())
                        .map_err(failed("a file of the store cannot be cut"))?;
                }
                file
            }
            _ => {
                let number = segments.pop_back().map_or(1, |unwritten| unwritten.number);
                segments.push_back(Segment { number, bytes: FILE_HEADER as u64, live_bytes: 0 });
                salt = random();
                begin_file(&disk, number, salt).map_err(failed("the store cannot be written"))?
            }
        };
        let mut places = HashMap::with_capacity(index.len());
        let mut records = Vec::with_capacity(index.len());
        for (key, (place, value)) in index {
            places.insert(key, place);
            records.push((key, value));
        }
        let mut log = Log {
            disk,
            limits,
            file,
            segments,
            begins_segment: false,
            index: places,
            live_bytes: 0,
            commit,
            salt,
            frame: Vec::new(),
            cleaning: None,
            newest: HashMap::new(),
        };
        let places: Vec<Place> = log.index.values().copied().collect();
        places.into_iter().for_each(|place| log.weigh(place, true));
        Ok(Opened { log, stored: Stored::new(records), torn_bytes })
    }

    /// Puts batches together to one commit, and what cleaning moves. To be followed by [`Log::write`]. Of several records
    /// with one key the newest alone is kept, and what comes and goes within the commit never reaches the disk. Answers
    /// with how many records it writes.
    pub fn prepare(&mut self, batches: &[RecordBatch]) -> usize {
        frame::begin(&mut self.frame);
        self.newest.clear();
        for (batch, records) in batches.iter().enumerate() {
            for (place, (key, _)) in records.records().enumerate() {
                self.newest.insert(key, (batch as u32, place));
            }
        }
        let mut segment = self.segments.back().map_or(1, |last| last.number);
        let size: usize = batches.iter().map(RecordBatch::size).sum();
        let end = self.segments.back().map_or(0, |last| last.bytes);
        self.begins_segment = end + size as u64 > self.limits.file_bytes && end > FILE_HEADER as u64;
        if self.begins_segment {
            segment += 1;
            self.salt = random();
            self.segments.push_back(Segment { number: segment, bytes: FILE_HEADER as u64, live_bytes: 0 });
        }
        let mut written = 0;
        for (batch, records) in batches.iter().enumerate() {
            for (place, (key, value)) in records.records().enumerate() {
                if self.newest.get(&key) != Some(&(batch as u32, place)) {
                    continue;
                }
                let before = self.index.remove(&key);
                before.into_iter().for_each(|before| self.weigh(before, false));
                if value.is_none() && before.is_none() {
                    continue;
                }
                append_record(&mut self.frame, key, value);
                written += 1;
                if let Some(value) = value {
                    let place = Place { segment, len: size_of(value) };
                    self.index.insert(key, place);
                    self.weigh(place, true);
                }
            }
        }
        self.clean(segment, CLEAN_BYTES + 2 * size);
        if self.frame.len() > FRAME_HEADER {
            frame::finish(&mut self.frame, self.commit + 1, self.salt);
        }
        written
    }

    /// Writes what was prepared, and waits until it is durable. After [`LogError::Full`] it may be called again.
    ///
    /// # Errors
    /// See [`LogError`]; after anything but `Full` the log is not to be used any more.
    pub fn write(&mut self) -> Result<(), LogError> {
        if self.frame.len() > FRAME_HEADER {
            if self.begins_segment {
                let number = self.segments.back().map_or(1, |last| last.number);
                self.file = begin_file(&self.disk, number, self.salt).map_err(full_or("a file cannot be begun"))?;
                self.begins_segment = false;
            }
            let end = self.segments.back().map_or(0, |last| last.bytes);
            if let Err(error) = self.file.append(&self.frame) {
                // What was written of it must not stand before what is written next.
                self.file.truncate(end).map_err(|source| LogError::Failed { what: "a file cannot be cut", source })?;
                return Err(full_or("the log cannot be written")(error));
            }
            self.file.sync().map_err(|source| LogError::Failed { what: "fsync failed", source })?;
            self.commit += 1;
            if let Some(last) = self.segments.back_mut() {
                last.bytes += self.frame.len() as u64;
            }
            self.frame.clear();
        }
        if self.cleaning.as_ref().is_some_and(|cleaning| cleaning.left.is_empty()) {
            self.cleaning = None;
        }
        self.drop_dead()
    }

    /// Whether cleaning has something to do though there be nothing to commit.
    pub fn wants_cleaning(&self) -> bool {
        let bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        self.segments.len() > 1 && bytes > 2 * self.live_bytes + self.limits.history_bytes
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

    /// Removes files at the front of which nothing holds any more. Also what makes room when the disk is full.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn drop_dead(&mut self) -> Result<(), LogError> {
        while self.segments.len() > 1
            && self.cleaning.is_none()
            && self.segments.front().is_some_and(|s| s.live_bytes == 0)
        {
            // The directory is synced before the next one goes: were an older file to come back without the newer one
            // that says what was removed of it, so would what it held.
            let Some(dead) = self.segments.front().map(|segment| segment.number) else { break };
            self.disk
                .remove(dead)
                .and_then(|()| self.disk.sync())
                .map_err(|source| LogError::Failed { what: "a file cannot be removed", source })?;
            self.segments.pop_front();
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

    /// Moves up to `budget` bytes of what holds of the oldest file into the commit.
    fn clean(&mut self, segment: u64, budget: usize) {
        if self.cleaning.is_none() && self.wants_cleaning() {
            self.cleaning = self.begin_cleaning();
        }
        let Some(mut cleaning) = self.cleaning.take() else { return };
        let Some(oldest) = self.segments.front().map(|oldest| oldest.number) else { return };
        let until = self.frame.len() + budget;
        while self.frame.len() < until
            && let Some((key, range)) = cleaning.left.pop()
        {
            let Some(place) = self.index.get(&key).copied().filter(|place| place.segment == oldest) else { continue };
            append_record(&mut self.frame, key, Some(&cleaning.bytes[range]));
            self.weigh(place, false);
            let place = Place { segment, ..place };
            self.index.insert(key, place);
            self.weigh(place, true);
        }
        self.cleaning = Some(cleaning);
    }

    /// What holds of the oldest file. A file that cannot be read now is tried again with the next commit.
    fn begin_cleaning(&self) -> Option<Cleaning> {
        let oldest = self.segments.front()?.number;
        let bytes = match self.disk.read(oldest) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, file = oldest, "a file of the store cannot be read, and not be cleaned");
                return None;
            }
        };
        let Header::Good { salt } = frame::read_file_header(&bytes) else { return None };
        let mut newest = HashMap::new();
        let mut at = FILE_HEADER;
        while let Some(frame) = bytes.get(at..).and_then(|from| frame::read(from, salt)) {
            let end = at + frame.len;
            let mut records = Records::of(frame.records);
            while let Some((key, value)) = records.next() {
                let value_end = end - records.rest();
                match value {
                    Some(value) => newest.insert(key, value_end - value.len()..value_end),
                    None => newest.remove(&key),
                };
            }
            at = end;
        }
        newest.retain(|key, _| self.index.get(key).is_some_and(|place| place.segment == oldest));
        Some(Cleaning { bytes, left: newest.into_iter().collect() })
    }
}

/// Begins a file: after this it is there, with its header, whatever happens.
fn begin_file<D: Disk>(disk: &D, number: u64, salt: u32) -> io::Result<D::File> {
    let mut file = disk.create(number)?;
    file.append(&frame::file_header(salt))?;
    file.sync()?;
    disk.sync()?;
    Ok(file)
}

/// A number that nobody can know before.
fn random() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() as u32
}

/// A disk that is full is no failure: it is told apart by what the system says.
fn full_or(what: &'static str) -> impl Fn(io::Error) -> LogError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LogError::Full(source),
        _ => LogError::Failed { what, source },
    }
}

/// A log while it is read.
#[derive(Default)]
struct Reading {
    segments: VecDeque<Segment>,
    index: HashMap<Key, (Place, Box<[u8]>)>,
    commit: u64,
    torn_bytes: u64,
    salt: u32,
}

impl Reading {
    fn read(&mut self, number: u64, bytes: &[u8], is_last: bool) -> Result<(), LogError> {
        match frame::read_file_header(bytes) {
            Header::Good { salt } => self.salt = salt,
            Header::Newer(found) => return Err(LogError::Newer { file: number, found }),
            Header::Unwritten if is_last => {
                self.segments.push_back(Segment { number, bytes: 0, live_bytes: 0 });
                return Ok(());
            }
            Header::Unwritten | Header::Foreign => return Err(LogError::Foreign { file: number }),
        }
        let mut at = FILE_HEADER;
        while let Some(frame) = frame::read(&bytes[at..], self.salt) {
            if self.commit != 0 && frame.commit != self.commit + 1 {
                return Err(LogError::Damaged { file: number, at });
            }
            self.commit = frame.commit;
            let mut records = Records::of(frame.records);
            for (key, value) in records.by_ref() {
                match value {
                    Some(value) => {
                        let place = Place { segment: number, len: size_of(value) };
                        self.index.insert(key, (place, value.into()));
                    }
                    None => {
                        self.index.remove(&key);
                    }
                }
            }
            if records.rest() > 0 {
                return Err(LogError::Damaged { file: number, at });
            }
            at += frame.len;
        }
        let rest = &bytes[at..];
        if !rest.is_empty() && (!is_last || frame::has_later_frame(rest, self.salt, self.commit)) {
            return Err(LogError::Damaged { file: number, at });
        }
        self.torn_bytes = rest.len() as u64;
        self.segments.push_back(Segment { number, bytes: at as u64, live_bytes: 0 });
        Ok(())
    }
}
