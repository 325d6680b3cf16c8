//! The file system interface of the log. Tests have one that loses unsynced data, is full, or fails.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;

use crate::store::permissions::private;

/// A directory of numbered append-only files.
pub trait Disk: Send {
    type File: SegmentFile;

    /// The numbers of the files, ascending.
    fn list(&self) -> io::Result<Vec<u64>>;
    /// Creates an empty file. It survives a crash after [`Disk::sync`].
    fn create(&self, number: u64) -> io::Result<Self::File>;
    /// Opens a file for appending.
    fn open(&self, number: u64) -> io::Result<Self::File>;
    fn read(&self, number: u64) -> io::Result<Vec<u8>>;
    fn remove(&self, number: u64) -> io::Result<()>;
    /// Makes file creations and removals durable.
    fn sync(&self) -> io::Result<()>;
    /// Size of the reserve: allocated bytes that no other file can use.
    fn reserved(&self) -> io::Result<u64>;
    /// Resizes the reserve. If the disk has no room for it, the reserve is unchanged.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
}

/// An append-only file.
pub trait SegmentFile: Send {
    /// Appends all bytes; after an error, a part of them may be written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes the appended bytes durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Truncates the file to `length` bytes.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// A directory of the file system.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
}

/// The extension of log files.
const EXTENSION: &str = "log";
/// The file that holds the reserve.
const RESERVE: &str = "reserve";
/// The unit of [`MetadataExt::blocks`].
const STAT_BLOCK_BYTES: u64 = 512;

impl Directory {
    /// The directory at `path`, which must exist.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    fn file(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:012}.{EXTENSION}"))
    }
}

impl Disk for Directory {
    type File = AppendFile;

    fn list(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
                numbers.push(number.ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{}: not a file of the store: remove it from the directory", path.display()),
                    )
                })?);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn create(&self, number: u64) -> io::Result<AppendFile> {
        // A file that a crash left empty is reused.
        let file = private().write(true).create(true).truncate(true).open(self.file(number))?;
        Ok(AppendFile { file })
    }

    fn open(&self, number: u64) -> io::Result<AppendFile> {
        let mut file = OpenOptions::new().write(true).open(self.file(number))?;
        file.seek(io::SeekFrom::End(0))?;
        Ok(AppendFile { file })
    }

    fn read(&self, number: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.file(number))?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        fs::remove_file(self.file(number))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn reserved(&self) -> io::Result<u64> {
        let file = match OpenOptions::new().write(true).open(self.path.join(RESERVE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other?,
        };
        let metadata = file.metadata()?;
        if metadata.blocks() * STAT_BLOCK_BYTES < metadata.len() {
            // A sparse copy, which reserves no space.
            file.set_len(0)?;
            return Ok(0);
        }
        Ok(metadata.len())
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let file = private().write(true).create(true).truncate(false).open(self.path.join(RESERVE))?;
        let before = file.metadata()?.len();
        if bytes <= before {
            // Some file systems free the space only after a sync.
            return file.set_len(bytes).and_then(|()| file.sync_all());
        }
        // Checked first, since a failing allocation is expensive for the file system.
        let stat = fstatvfs(&file)?;
        if stat.f_blocks > 0 && stat.f_bavail.saturating_mul(stat.f_frsize) < bytes - before {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let allocated = allocate(&file, before, bytes);
        if allocated.is_err() {
            file.set_len(before)?;
        }
        allocated
    }
}

/// Extends a file with allocated blocks.
fn allocate(mut file: &File, before: u64, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), before, bytes - before) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        other => return Ok(other?),
    }
    file.seek(io::SeekFrom::Start(before))?;
    io::copy(&mut io::repeat(0).take(bytes - before), &mut file)?;
    file.sync_data()
}

/// A file of a [`Directory`].
#[derive(Debug)]
pub struct AppendFile {
    file: File,
}

impl SegmentFile for AppendFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.seek(io::SeekFrom::Start(length)).map(|_| ())
    }
}
