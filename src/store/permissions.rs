//! Permissions of the data directory: it holds messages and sessions, which are for the broker's user only.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

const FILE: u32 = 0o600;
const DIRECTORY: u32 = 0o700;

/// Options that create a file which only its owner may read.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(FILE);
    options
}

/// Takes the rights of group and others from a directory and the files directly in it. A directory of another owner (a
/// mounted volume) stays as it is, with a line in the log.
pub fn restrict(directory: &Path) {
    if let Err(error) = restricted(directory) {
        tracing::warn!(path = %directory.display(), %error, "data directory permissions not restricted");
    }
}

fn restricted(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // A file may be removed meanwhile; links are not followed.
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            match set(&entry.path(), FILE) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    set(directory, DIRECTORY)
}

fn set(path: &Path, mode: u32) -> io::Result<()> {
    let now = fs::metadata(path)?.permissions().mode() & 0o777;
    // Never more than there was.
    if now & !mode == 0 { Ok(()) } else { fs::set_permissions(path, Permissions::from_mode(now & mode)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_and_new_files_are_for_their_owner_only() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
        fs::write(data.join("old"), "x").unwrap();
        fs::set_permissions(data.join("old"), Permissions::from_mode(0o644)).unwrap();
        private().create(true).truncate(true).write(true).open(data.join("new")).unwrap();
        restrict(&data);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let modes = [mode(&data), mode(&data.join("old")), mode(&data.join("new"))];
        assert_eq!(modes, [0o700, 0o600, 0o600]);
    }
}
