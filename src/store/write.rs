//! Writes to files so that a crash, a full disk or a failed write leaves what was there before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::StoreError;

/// Replaces `path` by `bytes`: whoever reads it, also after a crash, finds the old or the new content.
///
/// # Errors
/// It cannot be written; the old content is still there, and nothing is left of the new one.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let fail = |source| StoreError::Io { path: path.to_path_buf(), source };
    let new = path.with_extension("new");
    let written = write_synced(&new, bytes).and_then(|()| fs::rename(&new, path));
    if let Err(error) = written {
        // A part of it would take room on a disk that has none. The first error is the one to tell.
        let _left = fs::remove_file(&new);
        return Err(fail(error));
    }
    sync_directory_of(path).map_err(fail)
}

/// Appends lines to `path`, in one write. A line that an earlier write left incomplete is ended first.
///
/// # Errors
/// They cannot be written; the file is cut back to its length before.
pub(super) fn append(path: &Path, lines: &[u8]) -> Result<(), StoreError> {
    let fail = |source| StoreError::Io { path: path.to_path_buf(), source };
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(fail)?;
    let before = file.metadata().map_err(fail)?.len();
    if let Err(error) = append_synced(&mut file, before, lines) {
        if let Err(error) = file.set_len(before) {
            // Readers skip the incomplete line, and the next append ends it.
            tracing::warn!(path = %path.display(), %error, "cannot cut back a failed append");
        }
        return Err(fail(error));
    }
    if before == 0 { sync_directory_of(path).map_err(fail) } else { Ok(()) }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn append_synced(file: &mut File, length: u64, lines: &[u8]) -> io::Result<()> {
    let mut last = [b'\n'];
    if let Some(at) = length.checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    if last == [b'\n'] {
        file.write_all(lines)?;
    } else {
        file.write_all(&[b"\n", lines].concat())?;
    }
    file.sync_data()
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
