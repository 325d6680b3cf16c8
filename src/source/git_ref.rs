//! `--git-ref`: the files committed at a ref of a local repository, independent of the work tree.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::directory::follow;
use super::git::{GitError, Repository, TreeEntry};
use super::walk::{ReadMode, is_document_path};
use super::watch::Watch;
use super::{Commit, SourceError, SourceHandle, SourceReading};
use weir_declare::config::{ReadError, Revision, Snapshot, SourceFile};

/// As in a directory: larger files are refused unread.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// Mode of a symbolic link in a tree.
const MODE_SYMLINK: &str = "120000";

/// Reads a directory as it is committed at a ref.
#[derive(Debug)]
pub struct GitRefReader {
    directory: PathBuf,
    revision: String,
    /// The last commit's files: a commit never changes.
    known: Option<(Commit, Vec<SourceFile>, Vec<String>)>,
    blobs: HashMap<String, Arc<[u8]>>,
}

impl GitRefReader {
    /// A reader of `directory` as of `revision` (a branch, a tag, `HEAD~1`, an id), in the repository that `directory`
    /// lies in. A bare repository's own path means the top of the tree.
    pub fn new(directory: &Path, revision: &str) -> Self {
        Self { directory: directory.to_path_buf(), revision: revision.to_owned(), known: None, blobs: HashMap::new() }
    }

    /// Reads the committed files.
    ///
    /// # Errors
    /// No repository, no such revision, the directory is not in it, or git cannot be asked.
    pub fn read(&mut self, watch: Option<&mut Watch>) -> Result<SourceReading, SourceError> {
        let shown = self.directory.display().to_string();
        let repository = Repository::discover(&self.directory)
            .ok_or_else(|| SourceError::new(format!("{shown}: not in a git repository")))?;
        if let Some(watch) = watch {
            let wanted = self.places(&repository);
            wanted.iter().for_each(|directory| watch.add(directory));
            watch.retain(&wanted);
        }
        let at = format!("{shown} at {}", self.revision);
        let fail = |e: GitError| SourceError::new(format!("{at}: {e}"));
        let Some(id) = repository.resolve(&self.revision).map_err(fail)? else {
            let branches = repository.branches().map_err(fail)?;
            let has = if branches.is_empty() { String::new() } else { format!("; its branches: {branches}") };
            return Err(SourceError::new(format!(
                "{shown}: the repository has no commit called {:?}{has}",
                self.revision
            )));
        };
        if self.known.as_ref().is_none_or(|(commit, ..)| commit.id != id) {
            if repository.is_absent(&id).map_err(fail)? {
                return Err(SourceError::new(format!("{shown}: not a directory at {} ({id})", self.revision)));
            }
            let commit = repository.commit(&id).map_err(fail)?;
            let tree = repository.tree(&id).map_err(fail)?;
            let (files, ignored) = self.files(&repository, tree).map_err(fail)?;
            self.known = Some((commit, files, ignored));
        }
        let Some((commit, files, ignored)) = &self.known else {
            return Err(SourceError::new(format!("{shown}: nothing was read")));
        };
        Ok(SourceReading {
            snapshot: Snapshot {
                origin: Arc::from(format!("{shown} at {}", self.revision)),
                revision: Revision::Git { commit: id, dirty: false, content: None },
                files: files.clone(),
            },
            commit: Some(commit.clone()),
            unsettled: None,
            absence_is_deletion: false,
            ignored: ignored.clone(),
            notes: Vec::new(),
            store: None,
            read: None,
        })
    }

    /// Where a ref's move shows.
    fn places(&self, repository: &Repository) -> BTreeSet<PathBuf> {
        let refs = repository.common_dir.join("refs");
        let mut places: BTreeSet<PathBuf> =
            [&repository.git_dir, &repository.common_dir, &refs].into_iter().cloned().collect();
        places.extend(["heads", "tags", "remotes"].map(|kind| refs.join(kind)));
        places.insert(repository.common_dir.join("reftable"));
        let below = if self.revision.starts_with("refs/") { String::new() } else { "heads/".to_owned() };
        let name = refs.join(below + self.revision.trim_start_matches("refs/"));
        places.extend(name.parent().map(Path::to_path_buf));
        places
    }

    fn files(
        &mut self,
        repository: &Repository,
        tree: HashMap<String, TreeEntry>,
    ) -> Result<(Vec<SourceFile>, Vec<String>), GitError> {
        let (documents, others): (Vec<_>, Vec<_>) = tree.into_iter().partition(|(path, _)| is_document_path(path));
        let mut wanted: Vec<String> = documents
            .iter()
            .filter(|(_, entry)| refusal(entry).is_none() && !self.blobs.contains_key(&entry.id))
            .map(|(_, entry)| entry.id.clone())
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let fetched = repository.blobs(&wanted)?;
        self.blobs.extend(wanted.into_iter().zip(fetched.into_iter().map(Arc::from)));
        let mut used = HashMap::with_capacity(documents.len());
        let mut files = Vec::with_capacity(documents.len());
        for (path, entry) in documents {
            let content = match (refusal(&entry), self.blobs.get(&entry.id)) {
                (None, Some(bytes)) => {
                    used.insert(entry.id, Arc::clone(bytes));
                    Ok(Arc::clone(bytes))
                }
                (Some(message), _) => Err(ReadError { message }),
                (None, None) => Err(ReadError { message: "git did not return it".into() }),
            };
            let place = self.directory.join(&path);
            files.push(SourceFile {
                free_ports: false,
                shown: Arc::from(place.display().to_string()),
                base: Arc::from(place.parent().unwrap_or(&self.directory)),
                path: Arc::from(path),
                content,
            });
        }
        self.blobs = used;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut ignored: Vec<String> = others.into_iter().map(|(path, _)| path).collect();
        ignored.sort_unstable();
        ignored.truncate(200);
        Ok((files, ignored))
    }
}

fn refusal(entry: &TreeEntry) -> Option<String> {
    match entry.bytes {
        _ if entry.mode == MODE_SYMLINK => Some("a symbolic link; with a git ref, commit the file itself".into()),
        None => Some("a submodule where a file is expected".into()),
        Some(bytes) if bytes > FILE_BYTES_MAX => {
            Some(format!("the file has {bytes} bytes, a declaration has at most {FILE_BYTES_MAX}; split it"))
        }
        Some(_) => None,
    }
}

/// Follows a ref: reads its commit at once, whenever the ref moves, on request, and periodically.
pub fn spawn_git_ref(directory: &Path, revision: &str, resync: Duration) -> SourceHandle {
    let (sender, events) = mpsc::channel(1);
    let resync_requested = Arc::new(Notify::new());
    let location = format!("{} at {revision}", directory.display());
    let mut reader = GitRefReader::new(directory, revision);
    // A commit is known by its id, so both modes are the same.
    let read = move |watch: &mut Watch, _: ReadMode| reader.read(Some(watch));
    tokio::spawn(follow(read, || None, resync, Arc::clone(&resync_requested), sender));
    SourceHandle::new("git", location, events, resync_requested)
}
