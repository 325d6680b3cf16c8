//! Seeded random runs of a log: writes, full disks, kills, and power failures.

use super::disk::{Fault, FaultyDisk};
use super::{Model, Random, batch, model};
use crate::store::records::{LogLimits, RecordLog, RecordLogError};
use weir_broker::RecordBatch;

type Change = (u64, Option<Vec<u8>>);

/// Keys that are set and removed at random, and keys that only exist within a commit.
const KEYS: usize = 25;
const PASSING: u64 = 1_000;

struct Life {
    random: Random,
    disk: FaultyDisk,
    limits: LogLimits,
    log: RecordLog<FaultyDisk>,
    /// The records reported as durable.
    model: Model,
    fault: Option<Planted>,
    seen: Seen,
}

/// Injected faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Planted {
    Disk(Fault),
    /// An empty commit changes the salt, as if it created a file.
    EmptyCommitChangesSalt,
}

/// Statistics of a run.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    /// Files created.
    files: usize,
    restarts: usize,
    /// Commits on a full disk.
    full: usize,
    /// Empty commits.
    empty: usize,
}

fn opened(disk: &FaultyDisk, limits: LogLimits) -> Result<(RecordLog<FaultyDisk>, Model), String> {
    let opened = RecordLog::open(disk.clone(), limits).map_err(|error| error.to_string())?;
    Ok((opened.log, model(&opened.stored)))
}

fn apply(model: &mut Model, changes: &[Vec<Change>]) {
    for (number, value) in changes.iter().flatten() {
        match value {
            Some(value) => model.insert(*number, value.clone()),
            None => model.remove(number),
        };
    }
}

fn batches(changes: &[Vec<Change>]) -> Vec<RecordBatch> {
    changes.iter().map(|changes| batch(changes)).collect()
}

impl Life {
    fn new(seed: u64, fault: Option<Planted>) -> Result<Self, String> {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let disk = FaultyDisk::new();
        let file_bytes = 400 + random.below(2_000) as u64;
        let history_bytes = file_bytes * random.below(4) as u64;
        let limits = LogLimits { file_bytes, history_bytes, block_bytes: 1 + random.below(40) as u64 };
        let log = opened(&disk, limits)?.0;
        let life = Self { random, disk, limits, log, model: Model::new(), fault, seen: Seen::default() };
        life.disk.set_fault(life.disk_fault());
        Ok(life)
    }

    fn disk_fault(&self) -> Option<Fault> {
        match self.fault {
            Some(Planted::Disk(fault)) => Some(fault),
            _ => None,
        }
    }

    fn value(&mut self) -> Vec<u8> {
        vec![self.random.below(256) as u8; self.random.below(120)]
    }

    /// The changes of one commit; some or all exist only within it.
    fn changes(&mut self) -> Vec<Vec<Change>> {
        let mut changes = vec![Vec::new()];
        if self.random.below(3) > 0 {
            for _ in 0..1 + self.random.below(8) {
                let value = if self.random.below(3) > 0 { Some(self.value()) } else { None };
                changes[0].push((self.random.below(KEYS) as u64, value));
            }
        }
        if self.random.below(3) == 0 {
            // Large enough to reach past the end of a file.
            let bytes = self.random.below(self.limits.file_bytes as usize);
            changes[0].push((PASSING, Some(vec![1; bytes])));
            if self.random.below(2) == 0 {
                changes.push(Vec::new());
            }
            changes.last_mut().unwrap().push((PASSING, None));
        }
        changes
    }

    fn commit(&mut self, changes: &[Vec<Change>]) -> Result<bool, String> {
        match self.log.commit(&batches(changes)) {
            Ok(written) => {
                self.seen.empty += usize::from(written == 0);
                if written == 0 && self.fault == Some(Planted::EmptyCommitChangesSalt) {
                    self.log.change_salt();
                }
                apply(&mut self.model, changes);
                Ok(true)
            }
            Err(RecordLogError::Full(_)) => {
                self.seen.full += 1;
                Ok(false)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// The disk is full, and has space again, or the process ends before. A commit that failed is tried again, perhaps
    /// with more, or is dropped.
    fn fill(&mut self) -> Result<(), String> {
        self.disk.set_room(Some(self.random.below(400)));
        let mut changes = self.changes();
        let mut left = 40;
        while left > 0 && self.commit(&changes)? {
            changes = self.changes();
            left -= 1;
        }
        for _ in 0..self.random.below(4) {
            self.disk.set_room(Some(self.random.below(60)));
            if self.random.below(2) == 0 {
                changes.extend(self.changes());
            }
            match self.log.clean() {
                Ok(()) | Err(RecordLogError::Full(_)) => {}
                Err(error) => return Err(error.to_string()),
            }
            if self.commit(&changes)? {
                changes = self.changes();
            }
        }
        let stopping = self.random.below(3);
        if stopping == 0 {
            self.restart()?;
        }
        self.disk.set_room(None);
        self.log.refill().map_err(|error| error.to_string())?;
        if stopping == 1 && !self.commit(&changes)? {
            return Err("there is room, and it is said to be full".into());
        }
        Ok(())
    }

    /// The process is killed, or the power fails, perhaps during a commit; then another process opens the log.
    fn restart(&mut self) -> Result<(), String> {
        self.seen.restarts += 1;
        let mut with_last = self.model.clone();
        if self.random.below(2) == 0 {
            // The commit may be there or not, but not partially.
            let changes = self.changes();
            let fails = if self.random.below(4) == 0 { Fault::FailsDirectorySync } else { Fault::FailsSync };
            self.disk.set_fault(Some(fails));
            match self.log.commit(&batches(&changes)) {
                Ok(_) => {
                    apply(&mut self.model, &changes);
                    with_last = self.model.clone();
                }
                Err(_) => apply(&mut with_last, &changes),
            }
        }
        if self.random.below(2) == 0 {
            self.seen.files += self.disk.created();
            self.disk = self.disk.cut_power(&mut self.random);
        }
        self.disk.kill();
        self.disk.set_fault(self.disk_fault());
        let (log, found) = opened(&self.disk, self.limits)?;
        self.log = log;
        if self.random.below(2) == 0 {
            self.log.enable_reserve().map_err(|error| error.to_string())?;
        }
        if found == with_last {
            self.model = with_last;
        } else if found != self.model {
            let missing: Vec<&u64> = self.model.keys().filter(|key| !found.contains_key(key)).collect();
            return Err(format!("{} records found, {} expected; missing: {missing:?}", found.len(), self.model.len()));
        }
        Ok(())
    }

    fn live(&mut self, steps: usize) -> Result<(), String> {
        for step in 0..steps {
            let done = match self.random.below(12) {
                0 => self.fill(),
                1 => self.restart(),
                2 if self.log.wants_cleaning() => self.log.clean().map_err(|error| error.to_string()),
                _ => {
                    let changes = self.changes();
                    self.commit(&changes).map(|_| ())
                }
            };
            done.map_err(|error| format!("step {step}: {error}"))?;
        }
        self.seen.files += self.disk.created();
        Ok(())
    }
}

fn live(seed: u64, fault: Option<Planted>) -> Result<Seen, String> {
    let mut life = Life::new(seed, fault)?;
    life.live(400)?;
    Ok(life.seen)
}

#[test]
fn committed_records_survive_kills_power_failures_and_full_disks() {
    let mut seen = Seen::default();
    for seed in 1..=60 {
        let run = live(seed, None).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        seen.files += run.files;
        seen.restarts += run.restarts;
        seen.full += run.full;
        seen.empty += run.empty;
    }
    println!("{seen:?}");
    assert!(seen.files > 5_000 && seen.restarts > 1_000 && seen.full > 1_000 && seen.empty > 1_000, "{seen:?}");
}

#[test]
fn an_injected_fault_is_detected() {
    let faults = [
        Planted::EmptyCommitChangesSalt,
        Planted::Disk(Fault::NeverSyncs),
        Planted::Disk(Fault::NeverSyncsDirectory),
        Planted::Disk(Fault::NeverSyncsAtOpen),
        Planted::Disk(Fault::NeverSyncsCuts),
    ];
    for fault in faults {
        let found: Vec<String> = (1..=20).filter_map(|seed| live(seed, Some(fault)).err()).collect();
        println!("{fault:?}: found by {} of 20 seeds: {}", found.len(), found.first().map_or("", String::as_str));
        assert!(!found.is_empty(), "{fault:?}");
    }
}
