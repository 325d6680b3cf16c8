//! Password files: `user:record` lines. One bad line refuses the whole file.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::hash::Scheme;
use super::{PasswordHash, PasswordHashError};
use crate::auth::backends::decoy::DecoyClasses;
use crate::auth::backends::scram::{SaslprepError, ScramRecordError};

/// A line `user:record`. SCRAM's file has the same form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::auth) struct RecordLine<'a> {
    /// Counts from 1.
    pub(in crate::auth) number: usize,
    pub(in crate::auth) user: &'a str,
    pub(in crate::auth) record: &'a str,
}

/// Why a file of records cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.in_file("line"))]
pub struct RecordError {
    /// `None`: the file as a whole.
    pub line: Option<usize>,
    pub problem: RecordProblem,
}

/// An error in a line, or in the whole file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordProblem {
    #[error("not UTF-8")]
    NotUtf8,
    #[error("it has no users; wait until it is complete, or remove it from the chain to reject all its clients")]
    Empty,
    #[error("the line is not `user:hash`; is the file complete?")]
    NoColon,
    #[error("the user name is not one that a client can send")]
    UserName,
    #[error("{0:?} is listed twice")]
    Duplicate(String),
    #[error(transparent)]
    Hash(#[from] PasswordHashError),
    #[error(transparent)]
    Scram(#[from] ScramRecordError),
    #[error("the user name {0:?}: {1}")]
    Saslprep(String, SaslprepError),
}

impl RecordError {
    /// The error after the file's name: `FILE:LINE: PROBLEM`.
    pub fn in_file(&self, file: &str) -> String {
        match self.line {
            Some(line) => format!("{file}:{line}: {}", self.problem),
            None => format!("{file}: {}", self.problem),
        }
    }
}

/// Splits a file into its records. Empty lines and those that begin with `#` are skipped.
///
/// # Errors
/// The first line that is not a record; or that there is none at all, as when a write is in progress.
pub(in crate::auth) fn records(content: &[u8]) -> Result<Vec<RecordLine<'_>>, RecordError> {
    let whole = |problem| RecordError { line: None, problem };
    let text = std::str::from_utf8(content).map_err(|_| whole(RecordProblem::NotUtf8))?;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let error = |problem| RecordError { line: Some(number), problem };
        let (user, record) = line.split_once(':').ok_or_else(|| error(RecordProblem::NoColon))?;
        if user.is_empty() || user.chars().any(char::is_control) {
            return Err(error(RecordProblem::UserName));
        }
        lines.push(RecordLine { number, user, record: record.trim_end() });
    }
    if lines.is_empty() { Err(whole(RecordProblem::Empty)) } else { Ok(lines) }
}

/// Password hashes by user.
pub struct PasswordFile {
    records: Vec<(Box<str>, PasswordHash)>,
    by_user: HashMap<Box<str>, usize>,
    decoys: DecoyClasses<Scheme>,
}

impl PasswordFile {
    /// Parses a whole file.
    ///
    /// # Errors
    /// The first bad line. Nothing of such a file is used.
    pub fn parse(content: &[u8]) -> Result<Self, RecordError> {
        let mut hashes: Vec<(Box<str>, PasswordHash)> = Vec::new();
        let mut by_user = HashMap::new();
        for line in records(content)? {
            let error = |problem| RecordError { line: Some(line.number), problem };
            match by_user.entry(Box::from(line.user)) {
                Entry::Occupied(_) => return Err(error(RecordProblem::Duplicate(line.user.to_owned()))),
                Entry::Vacant(place) => {
                    place.insert(hashes.len());
                }
            }
            let hash = PasswordHash::parse(line.record).map_err(|problem| error(problem.into()))?;
            hashes.push((line.user.into(), hash));
        }
        // The first record serves as a secret.
        let secret = hashes.first().map(|(_, hash)| hash.to_string()).unwrap_or_default();
        let decoys = DecoyClasses::new(secret.as_bytes(), hashes.iter().map(|(_, hash)| hash.scheme()));
        Ok(Self { records: hashes, by_user, decoys })
    }

    /// Users and hashes, as written.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &PasswordHash)> {
        self.records.iter().map(|(user, hash)| (&**user, hash))
    }

    /// A user's index in the file, and the hash.
    pub fn find(&self, user: &str) -> Option<(usize, &PasswordHash)> {
        let index = *self.by_user.get(user)?;
        self.records.get(index).map(|(_, hash)| (index, hash))
    }

    /// The hash to compute for a name that is not in the file, and its score among those of other files. Its cost is the
    /// same for each attempt, so that the time reveals nothing, even in files that mix kinds of hashes.
    pub(super) fn decoy_for(&self, user: &str) -> Option<(PasswordHash, f64)> {
        let (scheme, score) = self.decoys.choose(user)?;
        Some((PasswordHash::decoy(*scheme), score))
    }
}
