//! Whether a commit's changes were rolled back by later commits: by the contents of the files that it changed.

use std::collections::{BTreeMap, BTreeSet};

use super::git::{GitError, Repository};

/// The commits before the rolled back one whose contents are compared.
const HISTORY_MAX: usize = 200;

/// A file's content before and after a commit, as object ids; all zeros: there was no file.
struct Change {
    path: String,
    before: String,
    after: String,
}

impl Repository {
    /// Whether every file that `commit` changed has, at its descendant `at`, a content from before `commit` again. Only the files
    /// below [`Repository::prefix`] count. A commit that changed none of them cannot be rolled back.
    pub(super) fn is_rolled_back(&self, commit: &str, at: &str) -> Result<bool, GitError> {
        let changes = self.changes_of(commit)?;
        if changes.is_empty() || commit == at {
            return Ok(false);
        }
        let current = self.tree(at)?;
        let current_of = |change: &Change| {
            let path = change.path.strip_prefix(self.prefix.as_str()).unwrap_or(&change.path);
            current.get(path.trim_start_matches('/')).map(|entry| entry.id.as_str())
        };
        let has = |change: &Change, id: &str| current_of(change).map_or(is_zeros(id), |current| current == id);
        if changes.iter().any(|change| has(change, &change.after)) {
            return Ok(false);
        }
        if changes.iter().all(|change| has(change, &change.before)) {
            return Ok(true);
        }
        let earlier = self.contents_before(commit)?;
        Ok(changes.iter().all(|change| {
            has(change, &change.before)
                || earlier.get(&change.path).is_some_and(|ids| ids.iter().any(|id| has(change, id)))
        }))
    }

    /// What a commit changed, compared with its first parent.
    fn changes_of(&self, commit: &str) -> Result<Vec<Change>, GitError> {
        let paths = self.paths();
        let parent = self.resolve(&format!("{commit}^1"))?;
        let revisions = match &parent {
            Some(parent) => [parent.as_str(), commit],
            None => ["--root", commit],
        };
        let listing = ["diff-tree", "-r", "-z", "--raw", "--no-commit-id", "--no-renames", "--no-ext-diff"];
        let listed = self.run(&[&listing, &revisions[..], &["--", &paths]].concat(), None)?;
        Ok(parse_changes(&listed))
    }

    /// The contents that files had before a commit, by path, back to [`HISTORY_MAX`] commits.
    fn contents_before(&self, commit: &str) -> Result<BTreeMap<String, BTreeSet<String>>, GitError> {
        let (paths, count) = (self.paths(), format!("--max-count={HISTORY_MAX}"));
        let commits = self.run(&["rev-list", &count, &format!("{commit}^@"), "--", &paths], None)?;
        let listing = ["diff-tree", "--stdin", "-r", "-z", "-m", "--root", "--raw", "--no-commit-id", "--no-renames"];
        let listed = self.run(&[&listing[..], &["--no-ext-diff", "--", &paths]].concat(), Some(commits))?;
        let mut contents = BTreeMap::<String, BTreeSet<String>>::new();
        for change in parse_changes(&listed) {
            contents.entry(change.path).or_default().extend([change.before, change.after]);
        }
        Ok(contents)
    }

    /// The files below [`Repository::prefix`], as git selects paths.
    fn paths(&self) -> String {
        format!(":(top,literal){}", self.prefix)
    }
}

fn is_zeros(id: &str) -> bool {
    id.bytes().all(|byte| byte == b'0')
}

/// `diff-tree --raw -z`: `:<mode> <mode> <id> <id> <status>\0<path>\0`.
fn parse_changes(listing: &[u8]) -> Vec<Change> {
    let mut parts = listing.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    let mut changes = Vec::new();
    while let Some(part) = parts.next() {
        let Some(meta) = part.trim_start().strip_prefix(':') else { continue };
        let mut fields = meta.split_ascii_whitespace().skip(2);
        if let (Some(before), Some(after), Some(path)) = (fields.next(), fields.next(), parts.next()) {
            let (before, after) = (before.to_owned(), after.to_owned());
            changes.push(Change { path: path.into_owned(), before, after });
        }
    }
    changes
}
