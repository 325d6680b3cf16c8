//! Tests of the log on disks that lose unsynced data, tear writes, are full, or fail.

mod damage;
mod disk;
mod full;
mod life;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use self::disk::{Fault, FaultyDisk};
use super::*;
use weir_broker::{RecordBatch, RecordKey, append_record};

fn key(number: u64) -> RecordKey {
    let mut bytes = [0; RecordKey::BYTES];
    bytes[0] = 7;
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    RecordKey::from_bytes(bytes)
}

/// A batch of (key, value or removal).
fn batch<V: AsRef<[u8]>>(records: &[(u64, Option<V>)]) -> RecordBatch {
    numbered_batch(1, records)
}

fn numbered_batch<V: AsRef<[u8]>>(number: u64, records: &[(u64, Option<V>)]) -> RecordBatch {
    let mut bytes = Vec::new();
    records.iter().for_each(|(item, value)| append_record(&mut bytes, key(*item), value.as_ref().map(V::as_ref)));
    RecordBatch::new(number, bytes)
}

/// The live records of a log, by the item of their keys.
type Model = BTreeMap<u64, Vec<u8>>;

fn model(stored: &weir_broker::StoredRecords) -> Model {
    stored.records().iter().map(|(key, value)| (key.item(), value.to_vec())).collect()
}

const SMALL: LogLimits = LogLimits { file_bytes: 2_000, history_bytes: 4_000, block_bytes: 16 };

fn open(disk: &FaultyDisk) -> (RecordLog<FaultyDisk>, Model, u64) {
    let opened = RecordLog::open(disk.clone(), SMALL).unwrap();
    (opened.log, model(&opened.stored), opened.torn_bytes)
}

fn commit(log: &mut RecordLog<FaultyDisk>, records: &[(u64, Option<&[u8]>)]) -> Result<(), RecordLogError> {
    log.commit(&[batch(records)]).map(|_| ())
}

/// A deterministic random generator: xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

#[test]
fn a_log_truncated_anywhere_keeps_the_complete_commits() {
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
fn damage_before_the_end_is_an_error() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).0;
    for number in 0..3 {
        commit(&mut log, &[(number, Some(b"value"))]).unwrap();
    }
    let harm = |act: &dyn Fn(&mut Vec<u8>)| {
        let harmed = disk.copy();
        let mut bytes = harmed.read(1).unwrap();
        act(&mut bytes);
        harmed.put(1, &bytes);
        RecordLog::open(harmed, SMALL).err().map(|error| error.to_string())
    };
    assert_eq!(harm(&|_| {}), None);
    let damaged = harm(&|bytes| bytes[40] ^= 1).unwrap();
    assert!(damaged.contains("file 1 is damaged at byte 20"), "{damaged}");
    let newer = harm(&|bytes| bytes[8] = 9).unwrap();
    assert!(newer.contains("written by a newer weir (format 9, this one supports 2)"), "{newer}");
    let foreign = harm(&|bytes| bytes[0] = b'x').unwrap();
    assert!(foreign.contains("is not a file of the store"), "{foreign}");
}

#[test]
fn a_missing_file_is_an_error() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).0;
    for number in 0..30 {
        commit(&mut log, &[(number, Some(&[0; 300]))]).unwrap();
    }
    let files = disk.list().unwrap();
    assert!(files.len() > 2, "{files:?}");
    disk.remove(files[1]).unwrap();
    assert!(matches!(RecordLog::open(disk, SMALL), Err(RecordLogError::Missing { file: 2 })));
}

#[test]
fn a_commit_on_a_full_disk_changes_nothing_and_succeeds_when_there_is_space() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).0;
    commit(&mut log, &[(1, Some(b"one"))]).unwrap();
    for more in [0, 1, 25, 60] {
        disk.set_room(Some(more));
        let value = [more as u8; 100];
        assert!(matches!(commit(&mut log, &[(2, Some(&value))]), Err(RecordLogError::Full(_))));
        assert!(matches!(commit(&mut log, &[(2, Some(&value))]), Err(RecordLogError::Full(_))), "still");
        assert_eq!(open(&disk.copy()).1[&1], b"one");
        disk.set_room(None);
        commit(&mut log, &[(2, Some(&value))]).unwrap();
        assert_eq!(open(&disk.copy()).1[&2], [more as u8; 100]);
    }
}

#[test]
fn a_failed_fsync_is_not_retried() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).0;
    commit(&mut log, &[(0, Some(b"before"))]).unwrap();
    disk.set_fault(Some(Fault::FailsSync));
    let error = commit(&mut log, &[(1, Some(b"one"))]).unwrap_err();
    assert_eq!(error.to_string(), "fsync failed: the medium failed");
    let (acks, failed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None)));
    let (log, ..) = open(&disk.copy());
    disk.set_fault(Some(Fault::FailsSync));
    let failing = disk.copy();
    drop(log);
    let (log, ..) = open(&failing);
    failing.set_fault(Some(Fault::FailsSync));
    let seen = Arc::clone(&failed);
    let writer =
        StoreWriter::start(log, Box::new(move |error| *seen.lock().unwrap() = Some(error.to_string()))).unwrap();
    let answers = Arc::clone(&acks);
    weir_broker::RecordSink::on_ack(&writer, Box::new(move |_, ack| answers.lock().unwrap().push(ack)));
    weir_broker::RecordSink::append(&writer, weir_broker::ShardId(0), batch(&[(1, Some(b"one"))]));
    writer.finish();
    assert_eq!(failed.lock().unwrap().as_deref(), Some("fsync failed: the medium failed"));
    assert!(acks.lock().unwrap().is_empty(), "nothing was said to be durable");
}

#[test]
fn the_log_stays_within_twice_the_live_bytes() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).0;
    // One old record that never changes, and many that are added and removed.
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
fn records_added_and_removed_within_a_commit_are_not_written() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).0;
    let before = log.size().bytes;
    let batches = [batch(&[(1, Some(b"a")), (2, Some(b"b"))]), batch::<&[u8]>(&[(1, None), (2, None), (3, None)])];
    assert_eq!(log.commit(&batches).unwrap(), 0);
    assert_eq!(log.size().bytes, before);
    assert_eq!(log.commit(&[batch(&[(1, Some(b"a"))]), batch(&[(1, Some(b"b"))])]).unwrap(), 1);
    assert_eq!(open(&disk).1, Model::from([(1, b"b".to_vec())]));
}

#[test]
fn a_store_in_use_or_of_a_newer_version_is_refused_with_its_path() {
    let tmp = tempfile::tempdir().unwrap();
    let first = super::open(tmp.path()).unwrap();
    let second = super::open(tmp.path()).err().unwrap().to_string();
    assert!(second.ends_with("store: another weir process uses it: stop that process first"), "{second}");
    drop(first);
    super::open(tmp.path()).unwrap().log.commit(&[batch(&[(1, Some(b"one"))])]).unwrap();
    let file = tmp.path().join("store").join("000000000001.log");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[8] = 3;
    std::fs::write(&file, bytes).unwrap();
    let newer = super::open(tmp.path()).err().unwrap().to_string();
    assert!(newer.contains("store: file 1 was written by a newer weir"), "{newer}");
}
