//! What the log needs of a file system; a test's own may lose what was not synced, be full, or fail.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// A directory of numbered files that are appended to.
pub trait Disk: Send {
    type File: SegmentFile;

    /// The files there are, in order.
    fn list(&self) -> io::Result<Vec<u64>>;
    /// Makes an empty file. It is there after a crash once [`Disk::sync`] has returned.
    fn create(&self, number: u64) -> io::Result<Self::File>;
    /// Opens a file to append to it.
    fn open(&self, number: u64) -> io::Result<Self::File>;
    fn read(&self, number: u64) -> io::Result<Vec<u8>>;
    fn remove(&self, number: u64) -> io::Result<()>;
    /// Makes what was created and removed durable.
    fn sync(&self) -> io::Result<()>;
}

/// A file that is appended to.
pub trait SegmentFile: Send {
    /// Appends all bytes; on an error some of them may have been.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was appended durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts off what is behind `length` bytes.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// A directory of the file system.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
}

/// What the files are called.
const EXTENSION: &str = "log";

impl Directory {
    /// The directory at `path`, which is there.
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
                    io::Error::new(io::ErrorKind::InvalidData, format!("{}: no file of weir's", path.display()))
                })?);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn create(&self, number: u64) -> io::Result<AppendFile> {
        // One that a crash left before anything was written to it counts as not made.
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(self.file(number))?;
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
