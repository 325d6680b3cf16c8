//! A store's log whose files were changed anywhere: it opens with what some prefix of its commits left, or it says that it is
//! damaged; it never opens with anything else.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use weir_broker::{Key, RecordBatch, append_record};
use weirmq::store::records::{Disk, Log, LogLimits, SegmentFile};

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

type Model = BTreeMap<[u8; Key::BYTES], Vec<u8>>;

fn open(disk: &Memory) -> Option<(Log<Memory>, Model)> {
    let opened = Log::open(disk.clone(), LIMITS).ok()?;
    let model = opened.stored.records().iter().map(|(key, value)| (key.to_bytes(), value.to_vec())).collect();
    Some((opened.log, model))
}

fuzz_target!(|bytes: &[u8]| {
    let (commits, damage) = bytes.split_at(bytes.len() / 2);
    let disk = Memory::default();
    let Some((mut log, mut model)) = open(&disk) else { panic!("an empty log opens") };
    let mut prefixes = vec![model.clone()];
    for (number, change) in (1..).zip(commits.chunks(4)) {
        let (key, value) = (Key::from_bytes([7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, change[0] % 8]), &change[1..]);
        let value = (!value.is_empty()).then_some(value);
        let mut records = Vec::new();
        append_record(&mut records, key, value);
        log.commit(&[RecordBatch::new(number, records)]).expect("memory takes it");
        match value {
            Some(value) => model.insert(key.to_bytes(), value.to_vec()),
            None => model.remove(&key.to_bytes()),
        };
        prefixes.push(model.clone());
    }
    drop(log);
    for change in damage.chunks_exact(4) {
        let mut files = disk.0.borrow_mut();
        let count = files.len();
        let Some(file) = files.values_mut().nth(usize::from(change[0]) % count.max(1)) else { continue };
        let at = usize::from(change[1]) * 256 + usize::from(change[2]);
        match file.get_mut(at) {
            Some(byte) => *byte ^= change[3],
            None => file.truncate(at.checked_rem(file.len().max(1)).unwrap_or(0)),
        }
    }
    if let Some((_, found)) = open(&disk) {
        assert!(prefixes.contains(&found), "it opened with what no prefix of its commits left");
    }
});
