//! A store's log with bytes changed anywhere before its last commit: it opens with all of its records, or it reports that it
//! is damaged. (A change of the last commit looks like a crash amid it.)
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use weir_broker::{RecordBatch, RecordKey, append_record};
use weirmq::store::records::{Disk, LogLimits, RecordLog, SegmentFile};

type Files = Rc<RefCell<BTreeMap<u64, Vec<u8>>>>;

#[derive(Clone, Default)]
struct Memory(Files);
struct File(u64, Files);

// SAFETY: a fuzz target has one thread.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Send for File {}

impl Disk for Memory {
    type File = File;

    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(self.0.borrow().keys().copied().collect())
    }

    fn create(&self, number: u64) -> io::Result<File> {
        self.0.borrow_mut().insert(number, Vec::new());
        self.open(number)
    }

    fn open(&self, number: u64) -> io::Result<File> {
        Ok(File(number, Rc::clone(&self.0)))
    }

    fn read(&self, number: u64) -> io::Result<Vec<u8>> {
        self.0.borrow().get(&number).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        self.0.borrow_mut().remove(&number);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn reserved(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn reserve(&self, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
}

impl SegmentFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.1.borrow_mut().entry(self.0).or_default().extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.1.borrow_mut().entry(self.0).or_default().truncate(length as usize);
        Ok(())
    }
}

const LIMITS: LogLimits = LogLimits { file_bytes: 300, history_bytes: 600, block_bytes: 16 };

type Model = BTreeMap<[u8; RecordKey::BYTES], Vec<u8>>;

fn open(disk: &Memory) -> Option<(RecordLog<Memory>, Model)> {
    let opened = RecordLog::open(disk.clone(), LIMITS).ok()?;
    let model = opened.stored.records().iter().map(|(key, value)| (key.to_bytes(), value.to_vec())).collect();
    Some((opened.log, model))
}

/// The newest file, and its length.
fn end(disk: &Memory) -> (u64, usize) {
    disk.0.borrow().last_key_value().map_or((0, 0), |(number, bytes)| (*number, bytes.len()))
}

fuzz_target!(|bytes: &[u8]| {
    let (commits, damage) = bytes.split_at(bytes.len() / 2);
    let disk = Memory::default();
    let Some((mut log, mut model)) = open(&disk) else { panic!("an empty log opens") };
    let mut before_last = (0, 0);
    for (number, change) in (1..).zip(commits.chunks(4)) {
        let (key, value) =
            (RecordKey::from_bytes([7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, change[0] % 8]), &change[1..]);
        let value = (!value.is_empty()).then_some(value);
        let mut records = Vec::new();
        append_record(&mut records, key, value);
        let before = end(&disk);
        log.commit(&[RecordBatch::new(number, records)]).expect("memory takes it");
        if end(&disk) != before {
            before_last = before;
        }
        match value {
            Some(value) => model.insert(key.to_bytes(), value.to_vec()),
            None => model.remove(&key.to_bytes()),
        };
    }
    drop(log);
    let newest = end(&disk).0;
    let last_begins = if before_last.0 == newest { before_last.1 } else { 0 };
    for change in damage.chunks_exact(4) {
        let mut files = disk.0.borrow_mut();
        let count = files.len().max(1);
        let Some((number, file)) = files.iter_mut().nth(usize::from(change[0]) % count) else { continue };
        let at = usize::from(change[1]) * 256 + usize::from(change[2]);
        if *number == newest && at >= last_begins {
            continue;
        }
        if let Some(byte) = file.get_mut(at) {
            *byte ^= change[3];
        }
    }
    if let Some((_, found)) = open(&disk) {
        assert!(found == model, "it opened with something else than its records");
    }
});
