//! Reads a log when it is opened, and checks its files.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::disk::{Disk, SegmentFile};
use super::frame::{self, FILE_HEADER, FileFormat, Header, Tail};
use super::log::{RecordLocation, RecordLogError, Segment, record_len};
use weir_broker::{RecordIter, RecordKey};

/// The content of a log.
#[derive(Default)]
pub(super) struct LogReplay {
    pub(super) segments: VecDeque<Segment>,
    pub(super) index: HashMap<RecordKey, (RecordLocation, Box<[u8]>)>,
    /// The number of the newest commit.
    pub(super) commit: u64,
    /// Bytes at the end that are cut off.
    pub(super) torn_bytes: u64,
    /// Format of the newest file.
    format: Option<FileFormat>,
    /// Files at the end that were created, and never written to.
    unwritten: Vec<u64>,
}

/// The file to append to and its salt; `None`: the next commit creates a new one.
pub(super) type Newest<F> = Option<(F, u32)>;

impl LogReplay {
    /// Reads all files, without changes.
    pub(super) fn read<D: Disk>(disk: &D) -> Result<Self, RecordLogError> {
        let read = |number| disk.read(number).map_err(failed("reading a file of the store failed"));
        let mut numbers = disk.list().map_err(failed("reading the store directory failed"))?;
        if let Some(gap) = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
            return Err(RecordLogError::Missing { file: gap[0] + 1 });
        }
        let mut replay = Self::default();
        let mut newest = None;
        while let Some(number) = numbers.pop() {
            let bytes = read(number)?;
            if frame::read_file_header(&bytes) != Header::Unwritten {
                newest = Some((number, bytes));
                break;
            }
            replay.unwritten.push(number);
            replay.torn_bytes += bytes.len().saturating_sub(FILE_HEADER) as u64;
        }
        for number in numbers {
            replay.apply_file(number, &read(number)?, false)?;
        }
        if let Some((number, bytes)) = newest {
            replay.apply_file(number, &bytes, true)?;
        }
        Ok(replay)
    }

    fn apply_file(&mut self, number: u64, bytes: &[u8], is_newest: bool) -> Result<(), RecordLogError> {
        let format = match frame::read_file_header(bytes) {
            Header::Valid(format) => format,
            Header::Newer(found) => return Err(RecordLogError::Newer { file: number, found }),
            Header::Unwritten | Header::Damaged => return Err(RecordLogError::Header { file: number }),
        };
        let mut at = format.header_len();
        while let Some(frame) = format.read(&bytes[at..]) {
            if self.commit != 0 && frame.commit != self.commit + 1 {
                return Err(RecordLogError::Damaged { file: number, at });
            }
            self.commit = frame.commit;
            self.apply_records(number, frame.records).ok_or(RecordLogError::Damaged { file: number, at })?;
            at += frame.len;
        }
        let tail = &bytes[at..];
        let is_first = at == format.header_len();
        let is_torn = || is_newest && format.classify_tail(tail, self.commit, is_first, &mut 0) == Tail::Torn;
        if !tail.is_empty() && !is_torn() {
            return Err(RecordLogError::Damaged { file: number, at });
        }
        self.torn_bytes += tail.len() as u64;
        self.format = Some(format);
        self.segments.push_back(Segment { number, bytes: at as u64, live_bytes: 0 });
        Ok(())
    }

    /// Applies the records of a commit; `None`: they are not valid.
    fn apply_records(&mut self, segment: u64, bytes: &[u8]) -> Option<()> {
        let mut records = RecordIter::new(bytes);
        for (key, value) in records.by_ref() {
            match value {
                Some(value) => {
                    let location = RecordLocation { segment, len: record_len(value) };
                    self.index.insert(key, (location, value.into()));
                }
                None => {
                    self.index.remove(&key);
                }
            }
        }
        (records.rest() == 0).then_some(())
    }

    /// Cuts off an incomplete commit, removes files never written to, and syncs what was read: an earlier process may
    /// have ended before it was durable, and state that clients see must survive a power failure.
    pub(super) fn make_durable<D: Disk>(&self, disk: &D) -> Result<Newest<D::File>, RecordLogError> {
        for number in &self.unwritten {
            disk.remove(*number).map_err(failed("removing a file of the store failed"))?;
        }
        let mut newest = None;
        if let (Some(last), Some(format)) = (self.segments.back(), self.format) {
            let mut file = disk.open(last.number).map_err(failed("opening a file of the store failed"))?;
            if self.torn_bytes > 0 {
                file.truncate(last.bytes).map_err(failed("truncating a file of the store failed"))?;
            }
            file.sync().map_err(failed("syncing a file of the store failed"))?;
            newest = format.is_written().then_some((file, format.salt));
        }
        disk.sync().map_err(failed("syncing the store directory failed"))?;
        Ok(newest)
    }
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> RecordLogError {
    move |source| RecordLogError::Failed { what, source }
}
