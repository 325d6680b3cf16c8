//! Runs git without executing anything that a repository's configuration or hooks name.
//!
//! The checked-out commit is read from git's own files in every pass. The tree and the author of a commit come from the
//! `git` program's plumbing, which executes no hooks, filters, pagers or drivers.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{Commit, CommitPresence};
use weir_declare::reconcile::Timestamp;

/// How long one run of `git` may take.
const RUN_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes taken from one run.
const OUTPUT_BYTES_MAX: u64 = 1 << 30;

/// Why git could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum GitError {
    #[error("there is no `git` program in PATH")]
    NoProgram,
    #[error("git {verb}: {message}")]
    Failed { verb: String, message: String },
}

/// A repository as found from a directory in it.
#[derive(Debug, Clone)]
pub(super) struct Repository {
    /// The directory of this work tree: `HEAD`, `index`, `index.lock`.
    pub(super) git_dir: PathBuf,
    /// The directory that all work trees share: objects and refs.
    pub(super) common_dir: PathBuf,
    /// The directory's path within the repository's tree: empty, or `deploy/endpoints`.
    pub(super) prefix: String,
}

impl Repository {
    /// The repository whose work tree contains `directory`, or the bare repository that `directory` is or lies below.
    /// The directory need not exist: another branch may be checked out.
    pub(super) fn discover(directory: &Path) -> Option<Repository> {
        let absolute = std::path::absolute(directory).ok()?;
        let there = absolute.ancestors().find(|path| path.exists())?;
        let missing = absolute.strip_prefix(there).ok()?;
        let directory = there.canonicalize().ok()?.join(missing);
        for top in directory.ancestors() {
            let dot_git = top.join(".git");
            let git_dir = match fs::metadata(&dot_git) {
                Ok(meta) if meta.is_dir() => dot_git,
                Ok(_) => pointed_to(&dot_git, top)?,
                Err(_) if top.join("objects").is_dir() && top.join("refs").is_dir() => top.to_path_buf(),
                Err(_) => continue,
            };
            let prefix = directory.strip_prefix(top).ok()?.to_str()?.to_owned();
            return Repository::at(git_dir, prefix);
        }
        None
    }

    fn at(git_dir: PathBuf, prefix: String) -> Option<Repository> {
        if !git_dir.join("HEAD").is_file() {
            return None;
        }
        let common_dir = match fs::read_to_string(git_dir.join("commondir")) {
            Ok(text) => git_dir.join(text.trim_end()),
            Err(_) => git_dir.clone(),
        };
        common_dir.join("objects").is_dir().then_some(Repository { git_dir, common_dir, prefix })
    }

    /// Whether git is running in the index just now.
    pub(super) fn index_lock(&self) -> Option<PathBuf> {
        let lock = self.git_dir.join("index.lock");
        fs::symlink_metadata(&lock).is_ok().then_some(lock)
    }

    /// The commit that is checked out; `None` before the first one.
    pub(super) fn head(&self) -> Result<Option<String>, GitError> {
        let head = fs::read_to_string(self.git_dir.join("HEAD")).unwrap_or_default();
        let head = head.trim_end();
        if is_object_id(head) {
            return Ok(Some(head.to_owned()));
        }
        let loose = head.strip_prefix("ref: ").filter(|name| !name.contains("..")).and_then(|name| self.read_ref(name));
        match loose {
            Some(id) => Ok(Some(id)),
            None => self.resolve("HEAD"), // other storage of refs, or a branch without a commit
        }
    }

    fn read_ref(&self, name: &str) -> Option<String> {
        for directory in [&self.git_dir, &self.common_dir] {
            if let Ok(text) = fs::read_to_string(directory.join(name)) {
                let id = text.trim_end();
                return is_object_id(id).then(|| id.to_owned());
            }
        }
        let packed = fs::read_to_string(self.common_dir.join("packed-refs")).ok()?;
        packed.lines().find_map(|line| {
            let (id, packed_name) = line.split_once(' ')?;
            (packed_name == name && is_object_id(id)).then(|| id.to_owned())
        })
    }

    /// The commit a name stands for; `None` where it stands for none.
    pub(super) fn resolve(&self, revision: &str) -> Result<Option<String>, GitError> {
        let wanted = format!("{revision}^{{commit}}");
        let output = self.run(&["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted], None);
        match output {
            Ok(bytes) => {
                let id = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                Ok(is_object_id(&id).then_some(id))
            }
            // --verify with --quiet fails without a message where there is no such commit.
            Err(GitError::Failed { message, .. }) if message.is_empty() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether `commit` is in the history of `of`; `None`: the repository does not have one of them.
    pub(super) fn presence(&self, commit: &str, of: &str) -> Result<Option<CommitPresence>, GitError> {
        let (Some(commit), Some(of)) = (self.resolve(commit)?, self.resolve(of)?) else { return Ok(None) };
        match self.run(&["merge-base", "--is-ancestor", &commit, &of], None) {
            Ok(_) if self.is_rolled_back(&commit, &of)? => Ok(Some(CommitPresence::RolledBack)),
            Ok(_) => Ok(Some(CommitPresence::Contained)),
            // It fails without a message where the answer is no.
            Err(GitError::Failed { message, .. }) if message.is_empty() => Ok(Some(CommitPresence::Absent)),
            Err(error) => Err(error),
        }
    }

    /// The names to suggest for an unknown revision: the local branches, newest first, ten at most.
    pub(super) fn branches(&self) -> Result<String, GitError> {
        let listing =
            ["for-each-ref", "--count=10", "--sort=-committerdate", "--format=%(refname:short)", "refs/heads"];
        let names = self.run(&listing, None)?;
        Ok(String::from_utf8_lossy(&names).split_whitespace().collect::<Vec<_>>().join(", "))
    }

    /// Author, time and subject of a commit.
    pub(super) fn commit(&self, id: &str) -> Result<Commit, GitError> {
        let bytes = self.run(&["cat-file", "commit", id], None)?;
        Ok(parse_commit(id, &String::from_utf8_lossy(&bytes)))
    }

    /// The files of a commit's tree below [`Repository::prefix`], by their path below it.
    pub(super) fn tree(&self, commit: &str) -> Result<HashMap<String, TreeEntry>, GitError> {
        let tree = format!("{commit}:{}", self.prefix);
        match self.run(&["ls-tree", "-r", "-z", "-l", "--full-tree", "--end-of-options", &tree], None) {
            Ok(bytes) => Ok(parse_tree(&bytes)),
            // The directory is not in this commit, so nothing in it is committed. Other errors show here too.
            Err(GitError::Failed { .. }) if self.is_absent(commit)? => Ok(HashMap::new()),
            Err(e) => Err(e),
        }
    }

    /// Whether [`Repository::prefix`] is not in the commit's tree, of which the commit itself can be read.
    pub(super) fn is_absent(&self, commit: &str) -> Result<bool, GitError> {
        if self.prefix.is_empty() {
            return Ok(false);
        }
        let top = format!("{commit}^{{tree}}");
        let listed = self.run(&["ls-tree", "-z", "--full-tree", &top, "--", &self.prefix], None)?;
        Ok(listed.is_empty())
    }

    /// The contents of blobs, in order.
    pub(super) fn blobs(&self, ids: &[String]) -> Result<Vec<Vec<u8>>, GitError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut wanted = ids.join("\n");
        wanted.push('\n');
        let output = self.run(&["cat-file", "--batch"], Some(wanted.into_bytes()))?;
        parse_batch(&output, ids.len()).ok_or_else(|| GitError::Failed {
            verb: "cat-file".into(),
            message: "a blob is missing or cut short".into(),
        })
    }

    /// Runs git's plumbing here. Everything that could make it execute something else is off.
    pub(super) fn run(&self, args: &[&str], input: Option<Vec<u8>>) -> Result<Vec<u8>, GitError> {
        let verb = args.first().copied().unwrap_or_default().to_owned();
        let fail = |message: String| GitError::Failed { verb: verb.clone(), message };
        let mut command = Command::new("git");
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("GIT_") {
                command.env_remove(key);
            }
        }
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("LC_ALL", "C")
            // The repository may be another user's (a side-car pulls it): reading it is the purpose.
            .args(["-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"])
            .args(["-c", "protocol.allow=never", "-c", "core.sshCommand=false", "--no-pager"])
            .arg("--git-dir")
            .arg(&self.git_dir)
            .args(args)
            .current_dir(&self.git_dir)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => GitError::NoProgram,
            _ => fail(e.to_string()),
        })?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            // Fails where git ends first; git's own message is the better one.
            thread::spawn(move || drop(stdin.write_all(&input)));
        }
        let stdout = read_apart(child.stdout.take());
        let stderr = read_apart(child.stderr.take());
        let Ok(output) = stdout.recv_timeout(RUN_TIME_MAX) else {
            let killed = child.kill().and_then(|()| child.wait());
            let ended = killed.map_or_else(|e| format!("; it cannot be killed: {e}"), |_| String::new());
            return Err(fail(format!("no answer within {} s{ended}", RUN_TIME_MAX.as_secs())));
        };
        let status = child.wait().map_err(|e| fail(e.to_string()))?;
        if status.success() {
            return output.map_err(|e| fail(e.to_string()));
        }
        let message = stderr.recv_timeout(RUN_TIME_MAX).ok().and_then(Result::ok).unwrap_or_default();
        Err(fail(String::from_utf8_lossy(&message).trim_end().replace('\n', "; ")))
    }
}

fn read_apart(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let outcome = match pipe {
            Some(pipe) => pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).map(|_| bytes),
            None => Ok(bytes),
        };
        // The receiver is dropped after a time-out.
        drop(sender.send(outcome));
    });
    receiver
}

/// The directory a `.git` file (a linked work tree, a submodule) points to.
fn pointed_to(dot_git: &Path, top: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(dot_git).ok()?;
    Some(top.join(text.strip_prefix("gitdir: ")?.trim_end()))
}

/// Whether `text` is a SHA-1 or SHA-256 object id in hexadecimal.
pub(super) fn is_object_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A file in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TreeEntry {
    /// Octal: `100644`, `100755`, `120000` (a symbolic link), `160000` (a submodule).
    pub mode: String,
    pub id: String,
    /// `None` for submodules.
    pub bytes: Option<u64>,
}

/// `ls-tree -z -l`: `<mode> <type> <id> <size>\t<path>\0`, the size padded with spaces or `-`.
fn parse_tree(listing: &[u8]) -> HashMap<String, TreeEntry> {
    listing
        .split(|&b| b == 0)
        .filter_map(|line| {
            let line = std::str::from_utf8(line).ok()?;
            let (meta, path) = line.split_once('\t')?;
            let mut fields = meta.split_ascii_whitespace();
            let (mode, _kind, id, size) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            let entry = TreeEntry { mode: mode.to_owned(), id: id.to_owned(), bytes: size.parse().ok() };
            Some((path.to_owned(), entry))
        })
        .collect()
}

/// `cat-file --batch`: `<id> blob <size>\n<content>\n` each.
fn parse_batch(mut output: &[u8], count: usize) -> Option<Vec<Vec<u8>>> {
    let mut blobs = Vec::with_capacity(count);
    for _ in 0..count {
        let end = output.iter().position(|&b| b == b'\n')?;
        let header = std::str::from_utf8(output.get(..end)?).ok()?;
        let size: usize = header.rsplit_once(' ')?.1.parse().ok()?;
        let rest = output.get(end + 1..)?;
        blobs.push(rest.get(..size)?.to_vec());
        output = rest.get(size + 1..)?;
    }
    Some(blobs)
}

/// A commit object's text: headers, an empty line, the message.
fn parse_commit(id: &str, text: &str) -> Commit {
    let (headers, message) = text.split_once("\n\n").unwrap_or((text, ""));
    let header = |name: &str| headers.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    // `Name <address> 1700000000 +0100`
    let person = |line: &str| line.rsplit_once('>').map_or(line.to_owned(), |(who, _)| format!("{who}>"));
    let seconds = |line: &str| {
        let time = line.rsplit_once('>').map_or("", |(_, time)| time.trim_start());
        time.split(' ').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or_default()
    };
    Commit {
        id: id.to_owned(),
        author: person(header("author ")),
        committed_at: Timestamp::from_unix_ms(seconds(header("committer ")).saturating_mul(1000)),
        subject: message.lines().next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_parsed_into_author_time_and_subject() {
        let text =
            "tree 1\nauthor Ada L <ada@x> 1 +0000\ncommitter Bob <b@x> 1700000000 +0100\n\nRaise the limit\n\nbody";
        let commit = parse_commit("c0ffee", text);
        assert_eq!(commit.author, "Ada L <ada@x>");
        assert_eq!(commit.committed_at, Timestamp::from_unix_ms(1_700_000_000_000));
        assert_eq!(commit.subject, "Raise the limit");
    }

    #[test]
    fn listings_and_batches_are_read() {
        let tree = parse_tree(b"100644 blob 01ab      7\ta b/c.yaml\x00160000 commit 02cd       -\tsub\x00");
        assert_eq!(tree["a b/c.yaml"], TreeEntry { mode: "100644".into(), id: "01ab".into(), bytes: Some(7) });
        assert_eq!(tree["sub"].bytes, None);
        assert_eq!(parse_batch(b"01 blob 3\na\nb\n02 blob 0\n\n", 2), Some(vec![b"a\nb".to_vec(), Vec::new()]));
        assert_eq!(parse_batch(b"01 missing\n", 1), None);
    }
}
