//! A disk in memory that loses unsynced data, tears writes, is full, or fails.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use super::super::{Disk, SegmentFile};
use super::Random;

/// The content of a file now, and after a power failure.
#[derive(Debug, Clone, Default)]
struct FileState {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// Its contents since the last sync, oldest first: any of them may be on the disk.
    since: Vec<Vec<u8>>,
}

impl FileState {
    fn change(&mut self, act: impl FnOnce(&mut Vec<u8>)) {
        self.since.push(self.bytes.clone());
        act(&mut self.bytes);
    }
}

#[derive(Debug)]
struct DiskState {
    files: BTreeMap<u64, FileState>,
    /// Files removed since the last sync of the directory.
    removed: BTreeMap<u64, FileState>,
    /// The files that exist after a power failure.
    synced: BTreeSet<u64>,
    /// Bytes of all files together, and of the reserve.
    capacity: usize,
    reserved: usize,
    fault: Option<Fault>,
    /// Number of files created.
    created: usize,
    /// Whether a file was truncated, or nothing was written since it was opened, for [`Fault`].
    was_cut: bool,
    was_written: bool,
}

/// Faults of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// An fsync of a file fails.
    FailsSync,
    /// An fsync of the directory fails.
    FailsDirectorySync,
    /// A sync reports success without syncing.
    NeverSyncs,
    /// The same, only for the directory.
    NeverSyncsDirectory,
    /// The same until something is written: as if opening a log did not sync.
    NeverSyncsAtOpen,
    /// The same after a truncation: as if the log did not sync it.
    NeverSyncsCuts,
}

/// A disk in memory.
#[derive(Debug, Clone)]
pub(super) struct FaultyDisk(Arc<Mutex<DiskState>>);

pub(super) struct FaultyFile {
    number: u64,
    disk: FaultyDisk,
}

impl FaultyDisk {
    pub(super) fn new() -> Self {
        Self::with_files(BTreeMap::new())
    }

    fn with_files(files: BTreeMap<u64, FileState>) -> Self {
        let synced = files.keys().copied().collect();
        Self(Arc::new(Mutex::new(DiskState {
            files,
            removed: BTreeMap::new(),
            synced,
            capacity: usize::MAX,
            reserved: 0,
            fault: None,
            created: 0,
            was_cut: false,
            was_written: false,
        })))
    }

    fn with<T>(&self, act: impl FnOnce(&mut DiskState) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    pub(super) fn set_fault(&self, fault: Option<Fault>) {
        self.with(|state| state.fault = fault);
    }

    /// Limits the free space; `None`: unlimited.
    pub(super) fn set_room(&self, room: Option<usize>) {
        self.with(|state| state.capacity = room.map_or(usize::MAX, |room| state.used() + room));
    }

    pub(super) fn set_capacity(&self, bytes: usize) {
        self.with(|state| state.capacity = bytes);
    }

    /// Number of files created on it.
    pub(super) fn created(&self) -> usize {
        self.with(|state| state.created)
    }

    /// Adds a durable file.
    pub(super) fn put(&self, number: u64, bytes: &[u8]) {
        let file = FileState { bytes: bytes.to_vec(), synced: bytes.to_vec(), since: Vec::new() };
        self.with(|state| {
            state.files.insert(number, file);
            state.synced.insert(number);
        });
    }

    /// The contents of all files.
    pub(super) fn files(&self) -> BTreeMap<u64, Vec<u8>> {
        self.with(|state| state.files.iter().map(|(number, file)| (*number, file.bytes.clone())).collect())
    }

    /// The disk after the process is killed: written data is there, synced or not.
    pub(super) fn kill(&self) {
        self.with(|state| state.was_written = false);
    }

    /// The disk after a power failure that keeps everything that was written.
    pub(super) fn copy(&self) -> Self {
        let disk = Self::new();
        self.files().iter().for_each(|(number, bytes)| disk.put(*number, bytes));
        disk
    }

    /// The disk after a power failure: unsynced data may be there, missing, or torn.
    pub(super) fn cut_power(&self, random: &mut Random) -> Self {
        self.with(|state| {
            let (capacity, reserved) = (state.capacity, state.reserved);
            let mut files = BTreeMap::new();
            for (number, file) in state.files.iter().chain(&state.removed) {
                let is_settled = state.files.contains_key(number) == state.synced.contains(number);
                let is_there = if is_settled { state.files.contains_key(number) } else { random.below(2) == 0 };
                if is_there {
                    let bytes = file.after_power_cut(random);
                    files.insert(*number, FileState { synced: bytes.clone(), bytes, since: Vec::new() });
                }
            }
            let disk = Self::with_files(files);
            disk.with(|state| (state.capacity, state.reserved) = (capacity, reserved));
            disk
        })
    }
}

impl FileState {
    fn after_power_cut(&self, random: &mut Random) -> Vec<u8> {
        let at = random.below(self.since.len() + 1);
        let version = self.since.get(at).unwrap_or(&self.bytes);
        if self.since.is_empty() {
            return self.synced.clone();
        }
        let common = self.synced.iter().zip(version).take_while(|(a, b)| a == b).count();
        let mut bytes = version.clone();
        if bytes.len() > common {
            bytes.truncate(common + random.below(bytes.len() - common + 1));
        }
        let new = bytes.len() - common;
        match random.below(4) {
            0 if new > 0 => bytes[common + random.below(new)] ^= 0x55,
            1 if new > 0 => bytes[common + random.below(new)..].fill(0),
            _ => {}
        }
        bytes
    }
}

impl DiskState {
    fn used(&self) -> usize {
        self.files.values().map(|file| file.bytes.len()).sum::<usize>() + self.reserved
    }

    /// Whether a sync is effective.
    fn syncs(&self) -> bool {
        match self.fault {
            Some(Fault::NeverSyncs) => false,
            Some(Fault::NeverSyncsAtOpen) => self.was_written,
            Some(Fault::NeverSyncsCuts) => !self.was_cut,
            _ => true,
        }
    }
}

impl Disk for FaultyDisk {
    type File = FaultyFile;

    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(self.with(|state| state.files.keys().copied().collect()))
    }

    fn create(&self, number: u64) -> io::Result<FaultyFile> {
        self.with(|state| {
            state.created += 1;
            state.was_written = true;
            match state.files.get_mut(&number) {
                Some(file) => file.change(Vec::clear),
                None => {
                    state.files.insert(number, FileState::default());
                }
            }
        });
        Ok(FaultyFile { number, disk: self.clone() })
    }

    fn open(&self, number: u64) -> io::Result<FaultyFile> {
        Ok(FaultyFile { number, disk: self.clone() })
    }

    fn read(&self, number: u64) -> io::Result<Vec<u8>> {
        self.with(|state| state.files.get(&number).map(|file| file.bytes.clone())).ok_or(io::ErrorKind::NotFound.into())
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        self.with(|state| {
            let file = state.files.remove(&number).ok_or(io::ErrorKind::NotFound)?;
            state.removed.insert(number, file);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state| {
            if state.fault == Some(Fault::FailsDirectorySync) {
                return Err(io::Error::other("the medium failed"));
            }
            if state.syncs() && state.fault != Some(Fault::NeverSyncsDirectory) {
                state.synced = state.files.keys().copied().collect();
                state.removed.clear();
            }
            Ok(())
        })
    }

    fn reserved(&self) -> io::Result<u64> {
        Ok(self.with(|state| state.reserved as u64))
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.with(|state| {
            let more = (bytes as usize).saturating_sub(state.reserved);
            if more > state.capacity.saturating_sub(state.used()) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.reserved = bytes as usize;
            Ok(())
        })
    }
}

impl SegmentFile for FaultyFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.with(|state| {
            let room = state.capacity.saturating_sub(state.used()).min(bytes.len());
            (state.was_written, state.was_cut) = (true, false);
            let file = state.files.get_mut(&self.number).ok_or(io::ErrorKind::NotFound)?;
            file.change(|content| content.extend_from_slice(&bytes[..room]));
            if room < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.with(|state| {
            if state.fault == Some(Fault::FailsSync) {
                return Err(io::Error::other("the medium failed"));
            }
            let syncs = state.syncs();
            let file = state.files.get_mut(&self.number).ok_or(io::ErrorKind::NotFound)?;
            if syncs {
                file.synced = file.bytes.clone();
                file.since.clear();
            }
            Ok(())
        })
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.disk.with(|state| {
            state.was_cut = true;
            let file = state.files.get_mut(&self.number).ok_or(io::ErrorKind::NotFound)?;
            file.change(|content| content.truncate(length as usize));
            Ok(())
        })
    }
}
