//! Crash-safe file writes: a crash, a full disk or a failed write leaves the previous content.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::StoreError;
use super::permissions::private;

/// Replaces the content of `path` by `bytes`: a reader, also after a crash, sees the old or the new content.
///
/// The write failed; the old content is unchanged, and no temporary file remains.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let fail = |source| StoreError::Io { path: path.to_path_buf(), source };
    let new = path.with_extension("new");
    let written = write_synced(&new, bytes).and_then(|()| fs::rename(&new, path));
    if let Err(error) = written {
        // A partial file would use space on a full disk. The first error is the one to report.
        let _left = fs::remove_file(&new);
        return Err(fail(error));
    }
    sync_directory_of(path).map_err(fail)
}

/// Appends lines to `path` in one write. If an earlier write left an incomplete line, a newline ends it first.
///
/// The write failed; the file is truncated to its previous length.
pub(super) fn append(path: &Path, lines: &[u8]) -> Result<(), StoreError> {
    let fail = |source| StoreError::Io { path: path.to_path_buf(), source };
    let mut file = private().create(true).read(true).append(true).open(path).map_err(fail)?;
    let before = file.metadata().map_err(fail)?.len();
    if let Err(error) = append_synced(&mut file, before, lines) {
        if let Err(error) = file.set_len(before) {
            // Readers skip the incomplete line, and the next append ends it.
            tracing::warn!(path = %path.display(), %error, "truncating a failed append failed");
        }
        return Err(fail(error));
    }
    if before == 0 { sync_directory_of(path).map_err(fail) } else { Ok(()) }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = private().create(true).truncate(true).write(true).open(path)?;
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
