//! The log against disks that lose what was not synced, tear what was written, are full, or fail.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use super::*;
use crate::broker::{Key, RecordBatch, append_record};

/// What a file holds now, and what of it a crash leaves.
#[derive(Debug, Clone, Default)]
struct FileState {
    bytes: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Debug, Default)]
struct DiskState {
    files: BTreeMap<u64, FileState>,
    /// The files that are there after a crash.
    synced: Vec<u64>,
    /// Bytes of all files together.
    capacity: usize,
    fails_sync: bool,
    /// Says that it synced, and did not.
    lies: bool,
}

/// A disk in memory.
#[derive(Debug, Clone)]
struct FaultyDisk(Arc<Mutex<DiskState>>);

struct FaultyFile {
    number: u64,
    disk: FaultyDisk,
}

impl FaultyDisk {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(DiskState { capacity: usize::MAX, ..DiskState::default() })))
    }

    fn with<T>(&self, act: impl FnOnce(&mut DiskState) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    /// The disk after a power cut: of what was not synced, `kept` says how many bytes arrived, and `flip` which of them
    /// is wrong.
    fn crash(&self, mut kept: impl FnMut(usize) -> usize, flip: Option<usize>) -> Self {
        self.with(|state| {
            let there = state.files.iter().filter(|(number, _)| state.synced.contains(number));
            let files = there.map(|(number, file)| {
                let common = file.synced.len().min(file.bytes.len());
                let mut bytes = file.synced.clone();
                if file.bytes.len() > common {
                    let more = kept(file.bytes.len() - common);
                    let mut torn = file.bytes[common..common + more].to_vec();
                    if let Some(byte) = flip.filter(|_| !torn.is_empty()).map(|at| at % more) {
                        torn[byte] ^= 0x55;
                    }
                    bytes.extend(torn);
                }
                (*number, FileState { synced: bytes.clone(), bytes })
            });
            let files: BTreeMap<_, _> = files.collect();
            let synced = files.keys().copied().collect();
            Self(Arc::new(Mutex::new(DiskState { files, synced, capacity: usize::MAX, ..DiskState::default() })))
        })
    }
}

impl Disk for FaultyDisk {
    type File = FaultyFile;

    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(self.with(|state| state.files.keys().copied().collect()))
    }

    fn create(&self, number: u64) -> io::Result<FaultyFile> {
        self.with(|state| state.files.insert(number, FileState::default()));
        Ok(FaultyFile { number, disk: self.clone() })
    }

    fn open(&self, number: u64) -> io::Result<FaultyFile> {
        Ok(FaultyFile { number, disk: self.clone() })
    }

    fn read(&self, number: u64) -> io::Result<Vec<u8>> {
        self.with(|state| state.files.get(&number).map(|file| file.bytes.clone())).ok_or(io::ErrorKind::NotFound.into())
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        self.with(|state| state.files.remove(&number));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state| {
            if !state.lies {
                state.synced = state.files.keys().copied().collect();
            }
        });
        Ok(())
    }
}

impl SegmentFile for FaultyFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.with(|state| {
            let used: usize = state.files.values().map(|file| file.bytes.len()).sum();
            let room = state.capacity.saturating_sub(used).min(bytes.len());
            let file = state.files.get_mut(&self.number).ok_or(io::ErrorKind::NotFound)?;
            file.bytes.extend_from_slice(&bytes[..room]);
            if room < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.with(|state| {
            if state.fails_sync {
                return Err(io::Error::other("the medium failed"));
            }
            let lies = state.lies;
            let file = state.files.get_mut(&self.number).ok_or(io::ErrorKind::NotFound)?;
            if !lies {
                file.synced = file.bytes.clone();
            }
            Ok(())
        })
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.disk.with(|state| {
            let file = state.files.get_mut(&self.number).ok_or(io::ErrorKind::NotFound)?;
            file.bytes.truncate(length as usize);
            Ok(())
        })
    }
}

fn key(number: u64) -> Key {
    let mut bytes = [0; Key::BYTES];
    bytes[0] = 7;
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    Key::from_bytes(bytes)
}

/// A batch of (key, value or removal).
fn batch(records: &[(u64, Option<&[u8]>)]) -> RecordBatch {
    let mut bytes = Vec::new();
    records.iter().for_each(|(number, value)| append_record(&mut bytes, key(*number), *value));
    RecordBatch::new(1, bytes)
}

const SMALL: LogLimits = LogLimits { file_bytes: 2_000, history_bytes: 4_000 };

fn open(disk: &FaultyDisk) -> (Log<FaultyDisk>, Model, u64) {
    let opened = Log::open(disk.clone(), SMALL).unwrap();
    let model = opened.stored.records().iter().map(|(key, value)| (key.item(), value.to_vec())).collect();
    (opened.log, model, opened.torn_bytes)
}

fn commit(log: &mut Log<FaultyDisk>, records: &[(u64, Option<&[u8]>)]) -> Result<(), LogError> {
    log.prepare(&[batch(records)]);
    log.write()
}

type Model = BTreeMap<u64, Vec<u8>>;

/// A generator that needs nothing: xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

fn apply(model: &mut Model, records: &[(u64, Option<Vec<u8>>)]) {
    for (number, value) in records {
        match value {
            Some(value) => model.insert(*number, value.clone()),
            None => model.remove(number),
        };
    }
}

/// Commits, crashes and reopens at random. Answers with what was found missing or resurrected after a crash.
fn live_and_crash(seed: u64, lies: bool) -> Option<String> {
    let mut random = Random(seed | 1);
    let mut disk = FaultyDisk::new();
    disk.with(|state| state.lies = lies);
    let mut log = open(&disk).0;
    let mut model = Model::new();
    for round in 0..60 {
        for _ in 0..random.below(12) {
            let records: Vec<(u64, Option<Vec<u8>>)> = (0..1 + random.below(8))
                .map(|_| {
                    let value = (random.below(3) > 0).then(|| vec![round as u8; random.below(120)]);
                    (random.below(25) as u64, value)
                })
                .collect();
            let borrowed: Vec<_> = records.iter().map(|(number, value)| (*number, value.as_deref())).collect();
            commit(&mut log, &borrowed).unwrap();
            apply(&mut model, &records);
        }
        // One commit more, of which nobody was told that it is durable: it may be there, or not, but not in part.
        let last = vec![(99, Some(vec![round as u8])), (random.below(25) as u64, None)];
        let borrowed: Vec<_> = last.iter().map(|(number, value)| (*number, value.as_deref())).collect();
        log.prepare(&[batch(&borrowed)]);
        disk.with(|state| state.fails_sync = true);
        let _unsynced = log.write();
        let flip = (random.below(3) == 0).then(|| random.below(1 << 20));
        disk = disk.crash(|unsynced| random.below(unsynced + 1), flip);
        disk.with(|state| state.lies = lies);
        let found = match Log::open(disk.clone(), SMALL) {
            Ok(opened) => {
                log = opened.log;
                opened.stored.records().iter().map(|(key, value)| (key.item(), value.to_vec())).collect::<Model>()
            }
            Err(error) => return Some(format!("round {round}: {error}")),
        };
        let mut with_last = model.clone();
        apply(&mut with_last, &last);
        if found == with_last {
            model = with_last;
        } else if found != model {
            return Some(format!("round {round}: {found:?}, expected {model:?}"));
        }
    }
    None
}

#[test]
fn what_was_committed_survives_any_crash_and_nothing_else_appears() {
    for seed in 1..=40 {
        assert_eq!(live_and_crash(seed, false), None, "seed {seed}");
    }
}

#[test]
fn a_missing_fsync_is_found() {
    assert!((1..=5).all(|seed| live_and_crash(seed, true).is_some()));
}

#[test]
fn a_tail_cut_anywhere_leaves_the_commits_before_it() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).0;
    commit(&mut log, &[(1, Some(b"one"))]).unwrap();
    let whole = disk.read(1).unwrap().len();
    commit(&mut log, &[(2, Some(b"two")), (1, None)]).unwrap();
    let bytes = disk.read(1).unwrap();
    for cut in whole..bytes.len() {
        for damaged in [false, true] {
            let torn = FaultyDisk::new();
            let mut file = torn.create(1).unwrap();
            file.append(&bytes[..cut]).unwrap();
            if damaged {
                file.append(&vec![0; bytes.len() - cut]).unwrap();
            }
            let (mut log, model, torn_bytes) = open(&torn);
            assert_eq!(model, Model::from([(1, b"one".to_vec())]), "cut at {cut}");
            let rest = torn.read(1).unwrap().len();
            assert_eq!((torn_bytes > 0, rest), (cut > whole || damaged, whole), "cut at {cut}");
            commit(&mut log, &[(3, Some(b"three"))]).unwrap();
            assert_eq!(open(&torn).1.len(), 2);
        }
    }
}

#[test]
fn damage_before_the_end_is_refused() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).0;
    for number in 0..3 {
        commit(&mut log, &[(number, Some(b"value"))]).unwrap();
    }
    let harm = |act: &dyn Fn(&mut Vec<u8>)| {
        let harmed = disk.crash(|all| all, None);
        harmed.with(|state| act(&mut state.files.get_mut(&1).unwrap().bytes));
        Log::open(harmed, SMALL).err().map(|error| error.to_string())
    };
    assert_eq!(harm(&|_| {}), None);
    let damaged = harm(&|bytes| bytes[40] ^= 1).unwrap();
    assert!(damaged.contains("file 1 is damaged at byte 16"), "{damaged}");
    let newer = harm(&|bytes| bytes[8] = 9).unwrap();
    assert!(newer.contains("written by a newer weir (format 9, this one knows 1)"), "{newer}");
    let foreign = harm(&|bytes| bytes[0] = b'x').unwrap();
    assert!(foreign.contains("no file of weir's store"), "{foreign}");
}

#[test]
fn a_gap_among_the_files_is_refused() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).0;
    for number in 0..30 {
        commit(&mut log, &[(number, Some(&[0; 300]))]).unwrap();
    }
    let files = disk.list().unwrap();
    assert!(files.len() > 2, "{files:?}");
    disk.remove(files[1]).unwrap();
    assert!(matches!(Log::open(disk, SMALL), Err(LogError::Missing { file: 2 })));
}

#[test]
fn a_full_disk_loses_nothing_and_goes_on_when_there_is_room() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).0;
    commit(&mut log, &[(1, Some(b"one"))]).unwrap();
    for more in [0, 1, 25, 60] {
        disk.with(|state| state.capacity = state.files.values().map(|file| file.bytes.len()).sum::<usize>() + more);
        log.prepare(&[batch(&[(2, Some(&[more as u8; 100]))])]);
        assert!(matches!(log.write(), Err(LogError::Full(_))));
        assert!(matches!(log.write(), Err(LogError::Full(_))), "still");
        assert_eq!(open(&disk.crash(|all| all, None)).1[&1], b"one");
        disk.with(|state| state.capacity = usize::MAX);
        log.write().unwrap();
        assert_eq!(open(&disk.crash(|all| all, None)).1[&2], [more as u8; 100]);
    }
}

#[test]
fn an_fsync_that_fails_is_never_tried_again() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).0;
    disk.with(|state| state.fails_sync = true);
    let error = commit(&mut log, &[(1, Some(b"one"))]).unwrap_err();
    assert_eq!(error.to_string(), "fsync failed: the medium failed");
    let (told, failed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None)));
    let (log, ..) = open(&disk.crash(|_| 0, None));
    disk.with(|state| state.fails_sync = true);
    let failing = disk.crash(|_| 0, None);
    drop(log);
    let (log, ..) = open(&failing);
    failing.with(|state| state.fails_sync = true);
    let seen = Arc::clone(&failed);
    let writer = Writer::start(log, Box::new(move |error| *seen.lock().unwrap() = Some(error.to_string()))).unwrap();
    let answers = Arc::clone(&told);
    crate::broker::RecordSink::tell(&writer, Box::new(move |_, kept| answers.lock().unwrap().push(kept)));
    crate::broker::RecordSink::keep(&writer, crate::broker::ShardId(0), batch(&[(1, Some(b"one"))]));
    writer.finish();
    assert_eq!(failed.lock().unwrap().as_deref(), Some("fsync failed: the medium failed"));
    assert!(told.lock().unwrap().is_empty(), "nothing was said to be durable");
}

#[test]
fn the_log_stays_within_twice_what_holds() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).0;
    // One old record that nobody touches, and many that come and go.
    commit(&mut log, &[(1_000, Some(b"old"))]).unwrap();
    for round in 0..2_000u64 {
        commit(&mut log, &[(round % 7, Some(&[round as u8; 90])), ((round + 3) % 7, None)]).unwrap();
        let size = log.size();
        let bound = 2 * size.live_bytes + SMALL.history_bytes + 2 * SMALL.file_bytes;
        assert!(size.bytes <= bound, "round {round}: {size:?}");
    }
    let (log, model, _) = open(&disk);
    assert_eq!(model[&1_000], b"old");
    assert_eq!(log.size().live_records, model.len() as u64);
}

#[test]
fn what_comes_and_goes_within_a_commit_is_not_written() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).0;
    let before = log.size().bytes;
    let batches = [batch(&[(1, Some(b"a")), (2, Some(b"b"))]), batch(&[(1, None), (2, None), (3, None)])];
    assert_eq!(log.prepare(&batches), 0);
    log.write().unwrap();
    assert_eq!(log.size().bytes, before);
    assert_eq!(log.prepare(&[batch(&[(1, Some(b"a"))]), batch(&[(1, Some(b"b"))])]), 1);
    log.write().unwrap();
    assert_eq!(open(&disk).1, Model::from([(1, b"b".to_vec())]));
}

#[test]
fn a_directory_is_one_processes_alone_and_its_trouble_is_told() {
    let tmp = tempfile::tempdir().unwrap();
    let first = super::open(tmp.path()).unwrap();
    let second = super::open(tmp.path()).err().unwrap().to_string();
    assert!(second.ends_with("store: another weir has it open"), "{second}");
    drop(first);
    drop(super::open(tmp.path()).unwrap());
    let file = tmp.path().join("store").join("000000000001.log");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[8] = 2;
    std::fs::write(&file, bytes).unwrap();
    let newer = super::open(tmp.path()).err().unwrap().to_string();
    assert!(newer.contains("store: file 1 was written by a newer weir"), "{newer}");
}
