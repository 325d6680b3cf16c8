//! A power cut on a real file system: what was not fsynced is taken away.
//!
//! A library that is loaded into the broker (`power_cut.c`) notes how far each file was fsynced. When the broker is dead,
//! every file of its store is cut to that length; a file that never was fsynced is removed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::weir::Weir;

/// A disk whose power can be cut.
pub struct PowerCut {
    library: PathBuf,
    synced: PathBuf,
    sync_ms: u32,
}

impl PowerCut {
    /// Prepares it in `directory`; every fsync takes up to `sync_ms` longer.
    pub fn prepare(directory: &Path, sync_ms: u32) -> Self {
        let library = directory.join("power_cut.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/durability/power_cut.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&library, Path::new(source)])
            .args(["-ldl"])
            .output()
            .expect("a C compiler (cc) is installed");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        Self { library, synced: directory.join("synced"), sync_ms }
    }

    /// Makes `broker` run on this disk.
    pub fn load_into(&self, broker: Weir) -> Weir {
        broker
            .with_variable("LD_PRELOAD", &self.library)
            .with_variable("WEIR_TEST_SYNCED", &self.synced)
            .with_variable("WEIR_TEST_SYNC_MS", self.sync_ms.to_string())
    }

    /// Takes away what was not fsynced of the files in `store`, whose broker is dead. Answers with how many bytes that were.
    pub fn cut(&self, store: &Path) -> u64 {
        let notes = fs::read_to_string(&self.synced).unwrap_or_default();
        let note = |line: &str| {
            line.split_once(' ').and_then(|(inode, bytes)| Some((inode.parse().ok()?, bytes.parse().ok()?)))
        };
        let synced: HashMap<u64, u64> = notes.lines().filter_map(note).collect();
        let mut lost = 0;
        for entry in fs::read_dir(store).unwrap().map(Result::unwrap) {
            if entry.path().extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let metadata = entry.metadata().unwrap();
            match synced.get(&metadata.ino()) {
                Some(&bytes) => {
                    lost += metadata.len().saturating_sub(bytes);
                    let file = File::options().write(true).open(entry.path()).unwrap();
                    file.set_len(bytes.min(metadata.len())).unwrap();
                }
                None => {
                    lost += metadata.len();
                    fs::remove_file(entry.path()).unwrap();
                }
            }
        }
        lost
    }
}
