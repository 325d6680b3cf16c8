//! A bounded list of entries, one line of JSON each, appended to.

use std::collections::VecDeque;
use std::fs;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{StoreError, write};

/// A file of JSON lines, oldest first. It is rewritten once it has twice as many lines as are kept.
#[derive(Debug)]
pub struct Journal<T> {
    path: PathBuf,
    kept: usize,
    lines: usize,
    /// How many of the newest entries are not in the file.
    unsaved: usize,
    entries: PhantomData<fn(T) -> T>,
}

/// A journal, and what its file holds.
#[derive(Debug)]
pub struct OpenedJournal<T> {
    pub journal: Journal<T>,
    /// The newest ones, oldest first.
    pub entries: VecDeque<T>,
    /// Lines between them, or after them, that are no entries: a write that was cut short, damage, another version's.
    pub skipped_lines: usize,
    /// Why the file cannot be read at all.
    pub error: Option<StoreError>,
}

impl<T: Serialize + DeserializeOwned> Journal<T> {
    /// Reads the newest `kept` entries of the file at `path`, which is made when something is appended. Nothing that
    /// stands in the file is an error, and reading changes nothing in it.
    pub fn open(path: &Path, kept: usize) -> OpenedJournal<T> {
        let (bytes, error) = match fs::read(path) {
            Ok(bytes) => (bytes, None),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => (Vec::new(), None),
            Err(source) => (Vec::new(), Some(StoreError::Io { path: path.to_path_buf(), source })),
        };
        let mut entries = VecDeque::new();
        let (mut lines, mut skipped_lines) = (0, 0);
        for line in bytes.rsplit(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            lines += 1;
            if entries.len() == kept {
                continue;
            }
            match serde_json::from_slice(line) {
                Ok(entry) => entries.push_front(entry),
                Err(_) => skipped_lines += 1,
            }
        }
        let journal = Self { path: path.to_path_buf(), kept, lines, unsaved: 0, entries: PhantomData };
        OpenedJournal { journal, entries, skipped_lines, error }
    }

    /// Writes the last of `all`, which is new, and those before it that could not be written. `all` are the entries to
    /// keep.
    ///
    /// # Errors
    /// They cannot be written; the next call, or [`Journal::save`], tries again.
    pub fn append(&mut self, all: &VecDeque<T>) -> Result<(), StoreError> {
        self.unsaved += 1;
        self.save(all)
    }

    /// Writes what could not be written before.
    ///
    /// # Errors
    /// It still cannot be written.
    pub fn save(&mut self, all: &VecDeque<T>) -> Result<(), StoreError> {
        self.unsaved = self.unsaved.min(all.len());
        if self.unsaved == 0 {
            return Ok(());
        }
        if self.lines + self.unsaved > self.kept.saturating_mul(2).max(1) {
            write::replace(&self.path, &self.lines_of(all.iter())?)?;
            self.lines = all.len();
        } else {
            write::append(&self.path, &self.lines_of(all.iter().skip(all.len() - self.unsaved))?)?;
            self.lines += self.unsaved;
        }
        self.unsaved = 0;
        Ok(())
    }

    /// How many of the newest entries are not in the file, because they could not be written.
    pub fn unsaved(&self) -> usize {
        self.unsaved
    }

    fn lines_of<'a>(&self, entries: impl Iterator<Item = &'a T>) -> Result<Vec<u8>, StoreError>
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

    /// With text in which a cut can fall inside a character.
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

    /// What the file holds, damaged in some way; which of five entries are left, and how many lines are not understood.
    fn damaged() -> Vec<(String, Vec<u8>, Vec<usize>, usize)> {
        let whole = file_of(&entries(5));
        let starts: Vec<usize> =
            std::iter::once(0).chain((1..whole.len()).filter(|at| whole[at - 1] == b'\n')).collect();
        let mut cases = Vec::new();
        let last = starts[4];
        for length in last..=whole.len() {
            // Without its newline alone, the line is still whole.
            let left = if length + 1 >= whole.len() { 5 } else { 4 };
            let skipped = usize::from(left == 4 && length > last);
            cases.push((format!("cut at {length}"), whole[..length].to_vec(), (0..left).collect(), skipped));
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
    fn damage_costs_the_damaged_lines_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("history.jsonl");
        let five = entries(5);
        for (damage, bytes, left, skipped) in damaged() {
            fs::write(&path, &bytes).unwrap();
            let mut opened = Journal::<Entry>::open(&path, 9);
            let mut expected: VecDeque<Entry> = left.iter().map(|at| five[*at].clone()).collect();
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
    fn the_newest_entries_survive_and_the_file_stays_bounded() {
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
    fn of_a_file_with_broken_lines_as_many_whole_ones_come_back() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("history.jsonl");
        fs::write(&path, "1\n2\nx\n3\n4\nx\n").unwrap();
        let opened = Journal::<u32>::open(&path, 3);
        assert_eq!((opened.entries, opened.skipped_lines), ([2, 3, 4].into(), 2));
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
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
