//! The revision of a directory: the checked-out commit, and whether the files are those of the commit.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use super::Commit;
use super::git::{GitError, Repository, TreeEntry};
use super::walk::is_document_path;
use weir_declare::config::{Revision, SourceFile};

/// Mode of a symbolic link in a tree: its blob is the link's target.
const MODE_SYMLINK: &str = "120000";

/// Knows the last commit's tree, so that git is asked once per commit.
#[derive(Debug, Default)]
pub(super) struct WorkTree {
    known: Option<KnownCommit>,
    /// Blob ids by path, valid while the content is the same allocation.
    ids: HashMap<Arc<str>, (Arc<[u8]>, String)>,
}

#[derive(Debug)]
struct KnownCommit {
    git_dir: PathBuf,
    prefix: String,
    commit: Commit,
    tree: HashMap<String, TreeEntry>,
}

impl WorkTree {
    /// The revision of `files`, which were read from `directory` (canonical); its commit; a note about an error.
    pub(super) fn revision(
        &mut self,
        repository: Option<&Repository>,
        files: &[SourceFile],
        links: &HashMap<Arc<str>, PathBuf>,
    ) -> (Revision, Option<Commit>, Option<String>) {
        let hash = content_hash(files);
        let Some(repository) = repository else { return (Revision::Content { hash }, None, None) };
        match self.load_commit(repository) {
            Ok(Some(commit)) => {
                let dirty = !self.is_committed(files, links);
                let content = dirty.then_some(hash);
                (Revision::Git { commit: commit.id.clone(), dirty, content }, Some(commit), None)
            }
            Ok(None) => (Revision::Content { hash }, None, None),
            Err(e) => {
                let note = format!("the revision is a hash of the files, not a commit: {e}");
                (Revision::Content { hash }, None, Some(note))
            }
        }
    }

    /// The checked-out commit; git runs only if it is another one than at the last call.
    fn load_commit(&mut self, repository: &Repository) -> Result<Option<Commit>, GitError> {
        let Some(head) = repository.head()? else { return Ok(None) };
        if let Some(known) = &self.known
            && known.commit.id == head
            && known.git_dir == repository.git_dir
            && known.prefix == repository.prefix
        {
            return Ok(Some(known.commit.clone()));
        }
        let commit = repository.commit(&head)?;
        let tree = repository.tree(&head)?.into_iter().filter(|(path, _)| is_document_path(path)).collect();
        let (git_dir, prefix) = (repository.git_dir.clone(), repository.prefix.clone());
        self.known = Some(KnownCommit { git_dir, prefix, commit: commit.clone(), tree });
        Ok(Some(commit))
    }

    /// Whether the documents are exactly those of the commit, file by file.
    fn is_committed(&mut self, files: &[SourceFile], links: &HashMap<Arc<str>, PathBuf>) -> bool {
        let Some(known) = &self.known else { return false };
        let mut ids = HashMap::with_capacity(files.len());
        let mut same = files.len() == known.tree.len();
        for file in files {
            let Ok(content) = &file.content else {
                same = false;
                continue;
            };
            let Some(entry) = known.tree.get(&*file.path) else {
                same = false;
                continue;
            };
            if entry.mode == MODE_SYMLINK {
                same &= links.get(&file.path).is_some_and(|target| is_blob(target_bytes(target), &entry.id));
                continue;
            }
            let id = match self.ids.remove(&file.path) {
                Some((of, id)) if Arc::ptr_eq(&of, content) => id,
                _ => matching_id(content, &entry.id),
            };
            same &= id == entry.id;
            ids.insert(Arc::clone(&file.path), (Arc::clone(content), id));
        }
        self.ids = ids;
        same
    }
}

fn target_bytes(target: &Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt;
    target.as_os_str().as_bytes()
}

fn is_blob(content: &[u8], id: &str) -> bool {
    blob_id(content, id.len()) == id
}

/// The content's blob id; where a checkout has turned line ends into CRLF, the id it has in the repository.
fn matching_id(content: &[u8], wanted: &str) -> String {
    let id = blob_id(content, wanted.len());
    if id == wanted || !content.contains(&b'\r') {
        return id;
    }
    let mut unix = Vec::with_capacity(content.len());
    for (at, &byte) in content.iter().enumerate() {
        if byte != b'\r' || content.get(at + 1) != Some(&b'\n') {
            unix.push(byte);
        }
    }
    blob_id(&unix, wanted.len())
}

/// git's name for a blob: a hash of `blob <length>\0<content>`, SHA-1 (40 digits) or SHA-256 (64).
fn blob_id(content: &[u8], digits: usize) -> String {
    let header = format!("blob {}\0", content.len());
    if digits == 64 {
        HEXLOWER.encode(&Sha256::new().chain_update(header).chain_update(content).finalize())
    } else {
        HEXLOWER.encode(&Sha1::new().chain_update(header).chain_update(content).finalize())
    }
}

/// A hash over all files, in any order.
pub(super) fn content_hash(files: &[SourceFile]) -> String {
    let mut sorted: Vec<&SourceFile> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    let mut hash = Sha256::new();
    for file in sorted {
        let (tag, bytes) = match &file.content {
            Ok(bytes) => (b'f', &**bytes),
            Err(e) => (b'!', e.message.as_bytes()),
        };
        for part in [&[tag][..], file.path.as_bytes(), bytes] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    HEXLOWER.encode(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blob_ids_equal_those_of_git() {
        assert_eq!(blob_id(b"hello world", 40), "95d09f2b10159347eece71399a7e2e907ea3df4f");
        assert_eq!(blob_id(b"", 64), "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813");
        assert_eq!(matching_id(b"a\r\nb\r\n", &blob_id(b"a\nb\n", 40)), blob_id(b"a\nb\n", 40));
    }
}
