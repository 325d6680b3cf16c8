//! The store's log beside fjall, on the disk of the temporary directory: a queue's records that come and go.
//!
//! `cargo bench --bench store`. Each round puts so many records in a commit and removes those of the commit before, with an
//! fsync each. Of either: records and their removals per second, CPU per record, and bytes that reached the block device
//! for each byte that was to be kept.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a bench that cannot write fails

use std::time::{Duration, Instant};

use fjall::{Database, KeyspaceCreateOptions, PersistMode};
use weir_broker::{RecordBatch, RecordKey, append_record};
use weirmq::store::records::{Directory, LogLimits, RecordLog};

const VALUE: [u8; 100] = [7; 100];
const ROUND: Duration = Duration::from_secs(3);

fn key(number: u64) -> RecordKey {
    let mut bytes = [0; RecordKey::BYTES];
    bytes[0] = 4;
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    RecordKey::from_bytes(bytes)
}

/// CPU of the process, all threads.
fn cpu() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(spent.tv_sec).unwrap(), u32::try_from(spent.tv_nsec).unwrap())
}

/// Bytes that this process has caused to be written to devices.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

/// Runs `commit` of (first number, how many) for a while.
fn measure(name: &str, per_commit: u64, mut commit: impl FnMut(u64, u64)) {
    let (begun, cpu_before, written_before) = (Instant::now(), cpu(), written());
    let mut commits = 0;
    while begun.elapsed() < ROUND {
        commit(commits * per_commit, per_commit);
        commits += 1;
    }
    let (spent, seconds) = (cpu() - cpu_before, begun.elapsed().as_secs_f64());
    // Each record is put once and removed once.
    let records = (2 * commits * per_commit) as f64;
    let kept = (commits * per_commit) as f64 * (RecordKey::BYTES + VALUE.len()) as f64;
    println!(
        "{name:<6} {per_commit:>4} per commit: {:>9.0} records/s, {:>6.2} us CPU per record, {:>5.1} bytes written per byte",
        records / seconds,
        spent.as_secs_f64() * 1e6 / records,
        (written() - written_before) as f64 / kept
    );
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    for per_commit in [1, 64, 512, 4096] {
        let place = tempfile::tempdir_in(".").unwrap();
        let mut log = RecordLog::open(Directory::new(place.path()), LogLimits::default()).unwrap().log;
        measure("log", per_commit, |first, count| {
            let mut bytes = Vec::new();
            for number in first..first + count {
                append_record(&mut bytes, key(number), Some(&VALUE));
                if number >= count {
                    append_record(&mut bytes, key(number - count), None);
                }
            }
            log.commit(&[RecordBatch::new(1, bytes)]).unwrap();
        });
        let place = tempfile::tempdir_in(".").unwrap();
        let database = Database::builder(place.path()).manual_journal_persist(true).worker_threads(1).open().unwrap();
        let records = database.keyspace("records", KeyspaceCreateOptions::default).unwrap();
        measure("fjall", per_commit, |first, count| {
            let mut batch = database.batch();
            for number in first..first + count {
                batch.insert(&records, key(number).to_bytes(), VALUE);
                if number >= count {
                    batch.remove(&records, key(number - count).to_bytes());
                }
            }
            batch.commit().unwrap();
            database.persist(PersistMode::SyncData).unwrap();
        });
    }
}
