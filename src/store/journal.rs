//! A bounded list of entries in a file of JSON lines.

use std::collections::VecDeque;
use std::fs;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{StoreError, write};

/// A file of JSON lines, oldest first. It is rewritten when it has twice as many lines as `max_entries`.
#[derive(Debug)]
pub struct Journal<T> {
    path: PathBuf,
    max_entries: usize,
    lines: usize,
    /// How many of the newest entries are not in the file.
    unsaved: usize,
    entries: PhantomData<fn(T) -> T>,
}

/// A journal and its entries.
#[derive(Debug)]
pub struct OpenedJournal<T> {
    pub journal: Journal<T>,
    /// The newest entries, oldest first.
    pub entries: VecDeque<T>,
    /// Lines that could not be parsed: an incomplete write, damage, another version.
    pub skipped_lines: usize,
    /// The error, if the file could not be read.
    pub error: Option<StoreError>,
}

impl<T: Serialize + DeserializeOwned> Journal<T> {
    /// Reads the newest `max_entries` of the file at `path`; the first append creates it. Unparsable content is not an
    /// error, and reading never changes the file.
    pub fn open(path: &Path, max_entries: usize) -> OpenedJournal<T> {
        let (bytes, error) = match fs::read(path) {
            Ok(bytes) => (bytes, None),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => (Vec::new(), None),
            Err(source) => (Vec::new(), Some(StoreError::Io { path: path.to_path_buf(), source })),
        };
        let mut entries = VecDeque::new();
        let (mut lines, mut skipped_lines) = (0, 0);
        for line in bytes.rsplit(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            lines += 1;
            if entries.len() == max_entries {
                continue;
            }
            match serde_json::from_slice(line) {
                Ok(entry) => entries.push_front(entry),
                Err(_) => skipped_lines += 1,
            }
        }
        let journal = Self { path: path.to_path_buf(), max_entries, lines, unsaved: 0, entries: PhantomData };
        OpenedJournal { journal, entries, skipped_lines, error }
    }

    /// Appends the last entry of `all`, and earlier ones that could not be written. `all` are the entries to keep.
    ///
    /// The write failed; the next call, or [`Journal::save`], retries it.
    pub fn append(&mut self, all: &VecDeque<T>) -> Result<(), StoreError> {
        self.unsaved += 1;
        self.save(all)
    }

    /// Writes entries that could not be written before.
    ///
    /// The write failed again.
    pub fn save(&mut self, all: &VecDeque<T>) -> Result<(), StoreError> {
        self.unsaved = self.unsaved.min(all.len());
        if self.unsaved == 0 {
            return Ok(());
        }
        if self.lines + self.unsaved > self.max_entries.saturating_mul(2).max(1) {
            write::replace(&self.path, &self.encode_lines(all.iter())?)?;
            self.lines = all.len();
        } else {
            write::append(&self.path, &self.encode_lines(all.iter().skip(all.len() - self.unsaved))?)?;
            self.lines += self.unsaved;
        }
        self.unsaved = 0;
        Ok(())
    }

    /// Number of newest entries that are not in the file, because writes failed.
    pub fn unsaved(&self) -> usize {
        self.unsaved
    }

    fn encode_lines<'a>(&self, entries: impl Iterator<Item = &'a T>) -> Result<Vec<u8>, StoreError>
    where
        T: 'a,
    {
        let content = |e: serde_json::Error| StoreError::Content { path: self.path.clone(), message: e.to_string() };
        let mut bytes = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut bytes, entry).map_err(content)?;
            bytes.push(b'\n');
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// Has text with multi-byte characters, so that a cut can fall inside one.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Entry {
        number: usize,
        text: String,
    }

    fn entries(count: usize) -> VecDeque<Entry> {
        (0..count).map(|number| Entry { number, text: format!("Küche/温度 {number}") }).collect()
    }

    fn file_of(entries: &VecDeque<Entry>) -> Vec<u8> {
        entries.iter().flat_map(|entry| serde_json::to_vec(entry).unwrap().into_iter().chain([b'\n'])).collect()
    }

    /// Damaged files: description, bytes, indices of the entries that survive, and number of unparsable lines.
    fn damaged() -> Vec<(String, Vec<u8>, Vec<usize>, usize)> {
        let whole = file_of(&entries(5));
        let starts: Vec<usize> =
            std::iter::once(0).chain((1..whole.len()).filter(|at| whole[at - 1] == b'\n')).collect();
        let mut cases = Vec::new();
        let last = starts[4];
        for length in last..=whole.len() {
            // A line without its newline is still complete.
            let expected_entries = if length + 1 >= whole.len() { 5 } else { 4 };
            let skipped = usize::from(expected_entries == 4 && length > last);
            cases.push((
                format!("cut at {length}"),
                whole[..length].to_vec(),
                (0..expected_entries).collect(),
                skipped,
            ));
            // After a power cut a file may have its new length without its new content.
            let mut zeros = whole.clone();
            zeros[length..].fill(0);
            if length + 1 < whole.len() {
                cases.push((format!("zeros from {length}"), zeros, vec![0, 1, 2, 3], 1));
            }
        }
        for at in starts[2]..starts[3] - 1 {
            let mut bad = whole.clone();
            bad[at] = 0xff;
            cases.push((format!("no UTF-8 at {at}"), bad, vec![0, 1, 3, 4], 1));
        }
        cases.push(("empty".into(), Vec::new(), vec![], 0));
        cases.push(("zeros".into(), vec![0; whole.len()], vec![], 1));
        cases.push(("garbage".into(), (0..=255).cycle().take(2000).collect(), vec![], 9));
        cases.push(("only newlines".into(), vec![b'\n'; 9], vec![], 0));
        cases
    }

    #[test]
    fn damage_loses_only_the_damaged_lines() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("history.jsonl");
        let five = entries(5);
        for (damage, bytes, expected_entries, skipped) in damaged() {
            fs::write(&path, &bytes).unwrap();
            let mut opened = Journal::<Entry>::open(&path, 9);
            let mut expected: VecDeque<Entry> = expected_entries.iter().map(|at| five[*at].clone()).collect();
            assert!(opened.error.is_none(), "{damage}");
            assert_eq!(opened.entries, expected, "{damage}");
            assert_eq!(opened.skipped_lines, skipped, "{damage}");
            assert_eq!(fs::read(&path).unwrap(), bytes, "{damage}: reading changes nothing");
            expected.push_back(Entry { number: 5, text: "温度".into() });
            opened.journal.append(&expected).unwrap();
            let again = Journal::<Entry>::open(&path, 9);
            assert_eq!(again.entries, expected, "{damage}: what is appended stands on a line of its own");
            assert_eq!(again.skipped_lines, skipped, "{damage}");
        }
    }

    #[test]
    fn a_reopened_journal_has_the_newest_entries_and_a_bounded_file() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("history.jsonl");
        let mut all: VecDeque<u32> = VecDeque::new();
        for round in 0..3 {
            let opened = Journal::open(&path, 4);
            assert_eq!(opened.entries, all);
            let mut journal = opened.journal;
            for n in 0..7 {
                all.push_back(round * 100 + n);
                while all.len() > 4 {
                    all.pop_front();
                }
                journal.append(&all).unwrap();
            }
            assert!(fs::read_to_string(&path).unwrap().lines().count() <= 8);
        }
    }

    #[test]
    fn broken_lines_do_not_count_against_the_maximum() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("history.jsonl");
        fs::write(&path, "1\n2\nx\n3\n4\nx\n").unwrap();
        let opened = Journal::<u32>::open(&path, 3);
        assert_eq!((opened.entries, opened.skipped_lines), ([2, 3, 4].into(), 2));
    }

    #[test]
    fn entries_of_a_failed_write_are_written_by_the_next_append() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("history.jsonl");
        // Nothing can be written where a directory is.
        fs::create_dir(&path).unwrap();
        let mut opened = Journal::<u32>::open(&path, 4);
        assert!(opened.error.is_some() && opened.entries.is_empty());
        let mut all = VecDeque::new();
        for number in 0..3 {
            all.push_back(number);
            assert!(opened.journal.append(&all).is_err());
        }
        assert_eq!(opened.journal.unsaved(), 3);
        fs::remove_dir(&path).unwrap();
        all.push_back(3);
        opened.journal.append(&all).unwrap();
        assert_eq!(opened.journal.unsaved(), 0);
        assert_eq!(Journal::<u32>::open(&path, 4).entries, all);
    }
}
