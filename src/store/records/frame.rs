//! The form of the log's files.
//!
//! A file begins with [`MAGIC`], the format's version and a salt, and goes on with frames. A frame is one commit: its mark,
//! the length of its records, a checksum, the commit's number, and records as in a batch. Integers are little endian. The
//! salt goes into the checksums: no client can send a payload that would be taken for a frame.

/// What a file of the log begins with.
pub(super) const MAGIC: &[u8; 8] = b"weir-log";
/// The version that is written, and the newest that is read.
pub(super) const VERSION: u32 = 1;
/// Bytes of a file before its first frame.
pub(super) const FILE_HEADER: usize = 16;
/// Bytes of a frame before its records.
pub(super) const FRAME_HEADER: usize = 20;
const MARK: &[u8; 4] = b"wfrm";

/// The bytes a file begins with.
pub(super) fn file_header(salt: u32) -> [u8; FILE_HEADER] {
    let mut header = [0; FILE_HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..].copy_from_slice(&salt.to_le_bytes());
    header
}

/// What a file's beginning says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    Good {
        salt: u32,
    },
    /// Written by a newer version.
    Newer(u32),
    /// Shorter than a header, or nothing but zeros: a crash left it so.
    Unwritten,
    Foreign,
}

pub(super) fn read_file_header(bytes: &[u8]) -> Header {
    let Some(header) = bytes.get(..FILE_HEADER) else { return Header::Unwritten };
    if header.iter().all(|byte| *byte == 0) {
        return Header::Unwritten;
    }
    if &header[..8] != MAGIC {
        return Header::Foreign;
    }
    match u32_at(header, 8) {
        version if version > VERSION => Header::Newer(version),
        _ => Header::Good { salt: u32_at(header, 12) },
    }
}

/// Leaves room for a frame's header; the records are appended behind it.
pub(super) fn begin(into: &mut Vec<u8>) {
    into.clear();
    into.resize(FRAME_HEADER, 0);
}

/// Writes the header of a frame that is complete but for it.
pub(super) fn finish(frame: &mut [u8], commit: u64, salt: u32) {
    let length = (frame.len() - FRAME_HEADER) as u32;
    frame[..4].copy_from_slice(MARK);
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    frame[12..20].copy_from_slice(&commit.to_le_bytes());
    let checksum = checksum(&frame[12..], salt);
    frame[8..12].copy_from_slice(&checksum.to_le_bytes());
}

/// A frame that was read.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) commit: u64,
    pub(super) records: &'a [u8],
    /// Bytes of the whole frame.
    pub(super) len: usize,
}

/// The frame that `bytes` begin with; `None`: none, or one that is not whole.
pub(super) fn read(bytes: &[u8], salt: u32) -> Option<Frame<'_>> {
    let header = bytes.get(..FRAME_HEADER)?;
    if &header[..4] != MARK {
        return None;
    }
    let len = FRAME_HEADER.checked_add(u32_at(header, 4) as usize)?;
    let frame = bytes.get(..len)?;
    let commit = u64::from(u32_at(header, 12)) | u64::from(u32_at(header, 16)) << 32;
    (checksum(&frame[12..], salt) == u32_at(header, 8)).then_some(Frame {
        commit,
        records: &frame[FRAME_HEADER..],
        len,
    })
}

/// Whether a whole frame of a later commit begins anywhere in `bytes`: then what is before it was not merely cut short.
pub(super) fn has_later_frame(bytes: &[u8], salt: u32, commit: u64) -> bool {
    let starts = bytes.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    starts.map(|(at, _)| &bytes[at..]).any(|from| read(from, salt).is_some_and(|frame| frame.commit > commit))
}

fn checksum(bytes: &[u8], salt: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte))
}
