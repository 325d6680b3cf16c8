//! A bounded list of entries, one line of JSON each, appended to.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
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
    file: File,
    entries: PhantomData<fn(T) -> T>,
}

impl<T: Serialize + DeserializeOwned> Journal<T> {
    /// Opens or makes the file; the newest `kept` entries come back. A line that is not understood (a write that a crash
    /// cut short, another version's) is left out.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path, kept: usize) -> Result<(Self, VecDeque<T>), StoreError> {
        let fail = |source| StoreError::Io { path: path.to_path_buf(), source };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(fail(e)),
        };
        let lines = text.lines().count();
        let newest = text.lines().skip(lines.saturating_sub(kept));
        let entries: VecDeque<T> = newest.filter_map(|line| serde_json::from_str(line).ok()).collect();
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(fail)?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n").map_err(fail)?;
        }
        Ok((Self { path: path.to_path_buf(), kept, lines, file, entries: PhantomData }, entries))
    }

    /// Adds `entry`; `all` are the entries to keep, it included.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn append(&mut self, entry: &T, all: &VecDeque<T>) -> Result<(), StoreError> {
        if self.lines >= self.kept.saturating_mul(2).max(1) {
            return self.rewrite(all);
        }
        let line = self.line(entry)?;
        self.file.write_all(&line).and_then(|()| self.file.sync_data()).map_err(|e| self.fail(e))?;
        self.lines += 1;
        Ok(())
    }

    fn rewrite(&mut self, all: &VecDeque<T>) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        for entry in all {
            bytes.extend(self.line(entry)?);
        }
        write::replace(&self.path, &bytes)?;
        self.file = OpenOptions::new().append(true).open(&self.path).map_err(|e| self.fail(e))?;
        self.lines = all.len();
        Ok(())
    }

    fn line(&self, entry: &T) -> Result<Vec<u8>, StoreError> {
        let content = |e: serde_json::Error| StoreError::Content { path: self.path.clone(), message: e.to_string() };
        let mut line = serde_json::to_vec(entry).map_err(content)?;
        line.push(b'\n');
        Ok(line)
    }

    fn fail(&self, source: std::io::Error) -> StoreError {
        StoreError::Io { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_entries_survive_and_the_file_stays_bounded() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("history.jsonl");
        let mut all: VecDeque<u32> = VecDeque::new();
        for round in 0..3 {
            let (mut journal, back) = Journal::open(&path, 4).unwrap();
            assert_eq!(back, all);
            for n in 0..7 {
                all.push_back(round * 100 + n);
                while all.len() > 4 {
                    all.pop_front();
                }
                journal.append(&(round * 100 + n), &all).unwrap();
            }
            assert!(fs::read_to_string(&path).unwrap().lines().count() <= 8);
        }
    }

    #[test]
    fn a_line_cut_short_is_left_out() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("history.jsonl");
        fs::write(&path, "1\n2\n{\"x").unwrap();
        let (mut journal, back) = Journal::<u32>::open(&path, 9).unwrap();
        assert_eq!(back, [1, 2]);
        journal.append(&3, &[1, 2, 3].into()).unwrap();
        assert_eq!(Journal::<u32>::open(&path, 9).unwrap().1, [1, 2, 3]);
    }
}
