//! The lines of a password file, judged whole: one bad line refuses all of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use ring::hmac;

use super::PasswordHash;

/// A line of a file of records, `user:record`. SCRAM's file has the same form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::auth) struct Line<'a> {
    /// Counts from 1.
    pub(in crate::auth) number: usize,
    pub(in crate::auth) user: &'a str,
    pub(in crate::auth) record: &'a str,
}

/// What is wrong with a file of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordError {
    /// `None`: the file as a whole.
    pub line: Option<usize>,
    pub message: String,
}

impl RecordError {
    /// With the file's name in front.
    pub fn in_file(&self, file: &str) -> String {
        match self.line {
            Some(line) => format!("{file}:{line}: {}", self.message),
            None => format!("{file}: {}", self.message),
        }
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_file("line"))
    }
}

/// Splits a file into its lines. Empty lines and those that begin with `#` are left out.
///
/// # Errors
/// The first line that is none; or that there is no line at all, as when a write is in progress.
pub(in crate::auth) fn lines(content: &[u8]) -> Result<Vec<Line<'_>>, RecordError> {
    let whole = |message: &str| RecordError { line: None, message: message.to_owned() };
    let text = std::str::from_utf8(content).map_err(|_| whole("not UTF-8"))?;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let error = |message: &str| RecordError { line: Some(number), message: message.to_owned() };
        let (user, record) = line.split_once(':').ok_or_else(|| error("no `user:hash`; is the file half written?"))?;
        if user.is_empty() || user.chars().any(char::is_control) {
            return Err(error("no user name that a client could give"));
        }
        lines.push(Line { number, user, record: record.trim_end() });
    }
    if lines.is_empty() {
        return Err(whole(
            "there is no user in it; is it still being written? To let nobody in, take it out of the chain",
        ));
    }
    Ok(lines)
}

/// Password hashes by user.
pub struct PasswordFile {
    records: Vec<(Box<str>, PasswordHash)>,
    by_user: HashMap<Box<str>, usize>,
}

impl PasswordFile {
    /// Parses a whole file.
    ///
    /// # Errors
    /// The first bad line. Nothing of such a file is used.
    pub fn parse(content: &[u8]) -> Result<Self, RecordError> {
        let mut records: Vec<(Box<str>, PasswordHash)> = Vec::new();
        let mut by_user = HashMap::new();
        for line in lines(content)? {
            let error = |message: String| RecordError { line: Some(line.number), message };
            match by_user.entry(Box::from(line.user)) {
                Entry::Occupied(_) => return Err(error(format!("{:?} stands here a second time", line.user))),
                Entry::Vacant(place) => {
                    place.insert(records.len());
                }
            }
            records.push((line.user.into(), PasswordHash::parse(line.record).map_err(error)?));
        }
        Ok(Self { records, by_user })
    }

    /// Users and hashes, as written.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &PasswordHash)> {
        self.records.iter().map(|(user, hash)| (&**user, hash))
    }

    /// A user's place and hash.
    pub fn find(&self, user: &str) -> Option<(usize, &PasswordHash)> {
        let index = *self.by_user.get(user)?;
        self.records.get(index).map(|(_, hash)| (index, hash))
    }

    /// The hash to compute for a name that is not in the file: the same one each time it is asked, so that the time it
    /// takes tells nothing, in files that mix kinds of hashes neither.
    pub fn stand_in_for(&self, user: &str) -> Option<&PasswordHash> {
        // The first record is the key: it is not known outside, and stays the same.
        let (_, first) = self.records.first()?;
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, first.to_string().as_bytes()), user.as_bytes());
        let spread = tag.as_ref().iter().take(4).fold(0, |spread, byte| (spread << 8) | usize::from(*byte));
        self.records.get(spread % self.records.len()).map(|(_, hash)| hash)
    }
}
