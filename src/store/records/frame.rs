//! The file format of the log.
//!
//! A file begins with a header: [`MAGIC`], the format version, a salt, and a checksum of these. Frames follow. A frame
//! is one commit: a header (a magic number, the length of its records, the commit number, a checksum of these), a
//! checksum of the records, and the records as in a batch. Integers are little endian. The salt goes into the checksums
//! of frames, so that no client can send a payload that looks like a frame or a frame header.
//!
//! Version 1 has no checksum of the file header, and one checksum of a whole frame except its magic number and length.
//! Files of version 1 are read, but not appended to.

/// The first bytes of a log file.
pub(super) const MAGIC: &[u8; 8] = b"weir-log";
/// The version that is written, and the newest that can be read.
pub(super) const VERSION: u32 = 2;
/// Bytes of a file before its first frame.
pub(super) const FILE_HEADER: usize = 20;
/// Bytes of a frame before its records.
pub(super) const FRAME_HEADER: usize = 24;
const MARK: &[u8; 4] = b"wfrm";
/// Bytes of a frame that the header checksum covers.
const CHECKED_HEADER: usize = 16;
/// The same constants of version 1.
const FILE_HEADER_1: usize = 16;
const FRAME_HEADER_1: usize = 20;
/// Bound of the checksum work in the search for a later commit in a file of version 1, as a multiple of the tail's
/// length.
const SEARCH_FACTOR_1: u64 = 8;

/// Encodes a file header.
pub(super) fn file_header(salt: u32) -> [u8; FILE_HEADER] {
    let mut header = [0; FILE_HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&salt.to_le_bytes());
    let checksum = checksum(&header[..16], 0);
    header[16..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// The result of reading a file header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    Valid(FileFormat),
    /// Written by a newer version.
    Newer(u32),
    /// At most a header long and not a valid one, or all zeros: a crash left the file before anything was written to
    /// it.
    Unwritten,
    /// Damaged, or a file of another program.
    Damaged,
}

pub(super) fn read_file_header(bytes: &[u8]) -> Header {
    let broken = if bytes.len() <= FILE_HEADER || bytes.iter().all(|byte| *byte == 0) {
        Header::Unwritten
    } else {
        Header::Damaged
    };
    if bytes.len() < FILE_HEADER_1 || &bytes[..8] != MAGIC {
        return broken;
    }
    let (version, salt) = (u32_at(bytes, 8), u32_at(bytes, 12));
    let is_whole = match version {
        0 => false,
        1 => true,
        VERSION => bytes.len() >= FILE_HEADER && checksum(&bytes[..16], 0) == u32_at(bytes, 16),
        newer => return Header::Newer(newer),
    };
    if is_whole { Header::Valid(FileFormat { version, salt }) } else { broken }
}

/// Begins a frame: reserves its header; records are appended after it.
pub(super) fn begin(into: &mut Vec<u8>) {
    into.clear();
    into.resize(FRAME_HEADER, 0);
}

/// Completes a frame: writes the header for its records.
pub(super) fn finish(frame: &mut [u8], commit: u64, salt: u32) {
    let length = (frame.len() - FRAME_HEADER) as u32;
    frame[..4].copy_from_slice(MARK);
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    frame[8..16].copy_from_slice(&commit.to_le_bytes());
    let of_header = checksum(&frame[..CHECKED_HEADER], salt);
    frame[16..20].copy_from_slice(&of_header.to_le_bytes());
    let of_records = checksum(&frame[FRAME_HEADER..], of_header);
    frame[20..24].copy_from_slice(&of_records.to_le_bytes());
}

/// A decoded frame.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) commit: u64,
    pub(super) records: &'a [u8],
    /// Bytes of the whole frame.
    pub(super) len: usize,
}

/// The bytes after the last valid frame of the newest file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// The last commit, incomplete because of a crash.
    Torn,
    /// A commit that was complete once: damage.
    Damaged,
}

/// The format of a file's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileFormat {
    version: u32,
    pub(super) salt: u32,
}

impl FileFormat {
    /// Whether frames of this format may be appended.
    pub(super) fn is_written(self) -> bool {
        self.version == VERSION
    }

    /// Bytes of a file before its first frame.
    pub(super) fn header_len(self) -> usize {
        if self.version == 1 { FILE_HEADER_1 } else { FILE_HEADER }
    }

    /// The frame at the beginning of `bytes`; `None`: none, or an incomplete one.
    pub(super) fn read(self, bytes: &[u8]) -> Option<Frame<'_>> {
        if self.version == 1 {
            return read_1(bytes, self.salt);
        }
        let (header, records) = bytes.split_first_chunk()?;
        read_frame(header, records, self.salt)
    }

    /// Classifies the bytes after the frame of `commit`, the last valid one. A commit begins only when the previous one
    /// is durable, so a crash leaves one incomplete frame with nothing after it, and never a frame that is valid but
    /// for one bit of its header. `checked` counts the bytes that were checksummed.
    pub(super) fn classify_tail(self, tail: &[u8], commit: u64, is_first: bool, checked: &mut u64) -> Tail {
        let damaged = if self.version == 1 {
            is_first && self.has_damaged_salt(tail) || has_later_frame_1(tail, self.salt, commit, checked)
        } else {
            has_damaged_header(tail, self.salt) || has_later_header(tail, self.salt, commit, checked)
        };
        if damaged { Tail::Damaged } else { Tail::Torn }
    }

    /// Version 1 has no checksum of its salt: whether the file's first frame is valid with one bit of the salt flipped.
    fn has_damaged_salt(self, first: &[u8]) -> bool {
        (0..u32::BITS).any(|bit| read_1(first, self.salt ^ 1 << bit).is_some())
    }
}

type FrameHeader = [u8; FRAME_HEADER];

/// The commit number of a valid frame header.
fn commit_of(header: &FrameHeader, salt: u32) -> Option<u64> {
    let is_header = &header[..4] == MARK && checksum(&header[..CHECKED_HEADER], salt) == u32_at(header, 16);
    is_header.then(|| u64_at(header, 8))
}

/// The frame with this header; `rest`: the bytes after the header.
fn read_frame<'a>(header: &FrameHeader, rest: &'a [u8], salt: u32) -> Option<Frame<'a>> {
    let commit = commit_of(header, salt)?;
    let records = rest.get(..u32_at(header, 4) as usize)?;
    let is_whole = checksum(records, u32_at(header, 16)) == u32_at(header, 20);
    is_whole.then_some(Frame { commit, records, len: FRAME_HEADER + records.len() })
}

/// Whether `tail` begins with a frame that is valid but for one bit of its header.
fn has_damaged_header(tail: &[u8], salt: u32) -> bool {
    let Some((header, rest)) = tail.split_first_chunk::<FRAME_HEADER>() else { return false };
    let mut header = *header;
    (0..(CHECKED_HEADER + 4) * 8).any(|bit| {
        header[bit / 8] ^= 1 << (bit % 8);
        let is_whole = read_frame(&header, rest, salt).is_some();
        header[bit / 8] ^= 1 << (bit % 8);
        is_whole
    })
}

/// Whether `tail` contains the header of a later commit, not at its beginning.
fn has_later_header(tail: &[u8], salt: u32, commit: u64, checked: &mut u64) -> bool {
    marks(tail).filter(|at| *at > 0).any(|at| {
        *checked += CHECKED_HEADER as u64;
        let header = tail[at..].first_chunk();
        header.and_then(|header| commit_of(header, salt)).is_some_and(|later| later > commit)
    })
}

/// Positions of the frame magic number.
fn marks(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK).map(|(at, _)| at)
}

fn read_1(bytes: &[u8], salt: u32) -> Option<Frame<'_>> {
    let header = bytes.get(..FRAME_HEADER_1)?;
    if &header[..4] != MARK {
        return None;
    }
    let len = FRAME_HEADER_1.checked_add(u32_at(header, 4) as usize)?;
    let frame = bytes.get(..len)?;
    let is_whole = checksum(&frame[12..], salt) == u32_at(header, 8);
    is_whole.then(|| Frame { commit: u64_at(header, 12), records: &frame[FRAME_HEADER_1..], len })
}

/// Whether `tail` contains a valid frame of a later commit. The search is bounded, whatever payloads contain: by the
/// possible numbers of a later commit, and by the bytes that it checksums. Above the bound the tail counts as damaged,
/// which loses nothing.
fn has_later_frame_1(tail: &[u8], salt: u32, commit: u64, checked: &mut u64) -> bool {
    let last = commit.saturating_add((tail.len() / FRAME_HEADER_1) as u64 + 1);
    let is_later = |number: u64| number > commit && (commit == 0 || number <= last);
    let bound = *checked + tail.len() as u64 * SEARCH_FACTOR_1;
    for from in marks(tail).map(|at| &tail[at..]).filter(|from| from.len() >= FRAME_HEADER_1) {
        let len = FRAME_HEADER_1.saturating_add(u32_at(from, 4) as usize);
        if !is_later(u64_at(from, 12)) || len > from.len() {
            continue;
        }
        *checked += len as u64;
        if *checked > bound || read_1(from, salt).is_some() {
            return true;
        }
    }
    false
}

fn checksum(bytes: &[u8], salt: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
