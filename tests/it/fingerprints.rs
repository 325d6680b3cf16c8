//! Reading a directory by file fingerprints finds the same content as reading every file, whatever changes and however
//! quickly.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use weirmq::source::{DirectoryReader, SourceReading};

use crate::seeded_random::{self, SeededRandom};

fn shown(reading: &SourceReading) -> Vec<(String, Result<Vec<u8>, String>)> {
    let content = |file: &weir_declare::config::SourceFile| match &file.content {
        Ok(bytes) => Ok(bytes.to_vec()),
        Err(error) => Err(error.message.clone()),
    };
    reading.snapshot.files.iter().map(|file| (file.path.to_string(), content(file))).collect()
}

/// Does one thing to one of a few files; all contents have the same size.
fn disturb(root: &Path, outside: &Path, random: &mut SeededRandom) -> String {
    let path = root.join(format!("{}.yaml", random.below(4)));
    let text = format!("{:04}", random.below(10_000));
    let what = random.below(9);
    let outcome = match what {
        // In place, by the same inode.
        0..=2 => fs::write(&path, &text),
        // In place, and the time of modification put back.
        3 => fs::metadata(&path).and_then(|before| before.modified()).and_then(|modified| {
            fs::write(&path, &text)?;
            File::options().write(true).open(&path)?.set_times(FileTimes::new().set_modified(modified))
        }),
        // Renamed over, with a time of modification of long ago.
        4 => fs::write(root.join(".new"), &text).and_then(|()| {
            let long_ago = SystemTime::now() - Duration::from_secs(86_400);
            File::options().write(true).open(root.join(".new"))?.set_times(FileTimes::new().set_modified(long_ago))?;
            fs::rename(root.join(".new"), &path)
        }),
        // A link to a file elsewhere, which is written to as well.
        5 => fs::write(outside, &text).and_then(|()| {
            let _was_there = fs::remove_file(&path);
            symlink(outside, &path)
        }),
        6 => fs::remove_file(&path),
        7 => fs::remove_file(&path).and_then(|()| symlink("nowhere", &path)),
        _ => fs::set_permissions(&path, fs::Permissions::from_mode(0o600)),
    };
    format!("{what} on {} with {text}: {outcome:?}", path.display())
}

#[test]
fn reading_by_fingerprints_equals_reading_every_file() {
    let seed = seeded_random::seed();
    let mut random = SeededRandom::new(seed);
    let tmp = tempfile::tempdir().unwrap();
    let (root, outside) = (tmp.path().join("endpoints.d"), tmp.path().join("outside"));
    fs::create_dir(&root).unwrap();
    let mut reader = DirectoryReader::new(&root);
    let mut done = Vec::new();
    for _ in 0..2_000 {
        for _ in 0..=random.below(2) {
            done.push(disturb(&root, &outside, &mut random));
        }
        // At times long enough for a stamp to count.
        if random.below(20) == 0 {
            std::thread::sleep(Duration::from_millis(30));
        }
        let refreshed = shown(&reader.refresh(None).unwrap());
        let anew = shown(&DirectoryReader::new(&root).read(None).unwrap());
        let last = &done[done.len().saturating_sub(8)..];
        assert_eq!(refreshed, anew, "seed {seed}, after {last:#?}");
    }
}
