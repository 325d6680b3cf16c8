//! A directory of documents, in a git work tree or not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use super::debounce::{index_locked, wait_until_settled};
use super::git::Repository;
use super::walk::{FileCache, ReadMode, describe, walk};
use super::watch::{Watch, WatchEvents, directories_of};
use super::work_tree::WorkTree;
use super::{SourceError, SourceEvent, SourceHandle, SourceReading};
use crate::random;
use weir_declare::config::Snapshot;

/// Ignored paths that are listed.
const IGNORED_SHOWN_MAX: usize = 200;

/// How to read a directory.
#[derive(Debug, Clone)]
pub struct DirectoryOptions {
    /// As configured; may be a symbolic link, and is resolved in every pass.
    pub root: PathBuf,
    /// Directories that symbolic links may lead to, beside the root itself.
    pub linked: Vec<PathBuf>,
    /// About how long without an event until everything is read all the same (half of it to one and a half).
    pub resync: Duration,
}

/// Reads a directory repeatedly; unchanged files are not parsed again.
#[derive(Debug)]
pub struct DirectoryReader {
    root: PathBuf,
    linked: Vec<PathBuf>,
    shown: String,
    cache: FileCache,
    work_tree: WorkTree,
    /// The repository of the directory, as of the last reading.
    repository: Option<Repository>,
}

impl DirectoryReader {
    /// A reader of `root`.
    pub fn new(root: &Path) -> Self {
        let shown = root.display().to_string();
        let shown = if shown.len() > 1 { shown.trim_end_matches('/').to_owned() } else { shown };
        Self {
            root: root.to_path_buf(),
            linked: Vec::new(),
            shown,
            cache: FileCache::default(),
            work_tree: WorkTree::default(),
            repository: None,
        }
    }

    /// Has symbolic links lead to places below `linked`, too.
    #[must_use]
    pub fn with_linked(self, linked: Vec<PathBuf>) -> Self {
        Self { linked, ..self }
    }

    /// Reads everything. With `watch`, every directory is watched from before it is read, and others no longer.
    ///
    /// # Errors
    /// The directory does not exist, or cannot be listed.
    pub fn read(&mut self, watch: Option<&mut Watch>) -> Result<SourceReading, SourceError> {
        self.read_in(watch, ReadMode::Full)
    }

    /// Lists everything, and reads the files whose fingerprint has changed since the last reading.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub fn refresh(&mut self, watch: Option<&mut Watch>) -> Result<SourceReading, SourceError> {
        self.read_in(watch, ReadMode::Changed)
    }

    fn read_in(&mut self, mut watch: Option<&mut Watch>, mode: ReadMode) -> Result<SourceReading, SourceError> {
        let mut wanted = self.way_to_root();
        if let Some(watch) = watch.as_deref_mut() {
            wanted.iter().for_each(|directory| watch.add(directory));
        }
        let fail = |e: &std::io::Error| SourceError::new(format!("{}: {}", self.shown, describe(e)));
        let root = self.root.canonicalize().map_err(|e| fail(&e))?;
        if !root.is_dir() {
            return Err(SourceError::new(format!("{}: not a directory", self.shown)));
        }
        let mut on_directory = |directory: &Path| {
            if let Some(watch) = watch.as_deref_mut() {
                watch.add(directory);
            }
        };
        let walked =
            walk(&root, &self.shown, &self.linked, mode, &mut self.cache, &mut on_directory).map_err(|e| fail(&e))?;
        self.repository = Repository::discover(&root);
        if let Some(repository) = &self.repository {
            on_directory(&repository.git_dir);
            wanted.insert(repository.git_dir.clone());
        }
        let (revision, commit, note) = self.work_tree.revision(self.repository.as_ref(), &walked.files, &walked.links);
        wanted.extend(walked.watch);
        let mut notes: Vec<String> = note.into_iter().collect();
        if let Some(watch) = watch {
            watch.retain(&wanted);
            notes.extend(watch.take_warning());
        }
        Ok(SourceReading {
            snapshot: Snapshot { origin: Arc::from(self.shown.as_str()), revision, files: walked.files },
            commit,
            unsettled: walked.changed_while_read.or_else(|| index_locked(&|| self.lock())),
            absence_is_deletion: false,
            ignored: shortened(walked.ignored),
            notes,
            store: None,
            read: None,
        })
    }

    /// The directories in which the root can be replaced, created or removed. Where the root is absent, its nearest
    /// parent.
    fn way_to_root(&self) -> BTreeSet<PathBuf> {
        let mut wanted = directories_of(&self.root);
        if !self.root.exists()
            && let Ok(absolute) = std::path::absolute(&self.root)
        {
            wanted.extend(absolute.ancestors().find(|path| path.is_dir()).map(Path::to_path_buf));
        }
        wanted
    }

    fn lock(&self) -> Option<PathBuf> {
        self.repository.as_ref().and_then(Repository::index_lock)
    }
}

fn shortened(mut ignored: Vec<String>) -> Vec<String> {
    let more = ignored.len().saturating_sub(IGNORED_SHOWN_MAX);
    if more > 0 {
        ignored.truncate(IGNORED_SHOWN_MAX);
        ignored.push(format!("... and {more} more"));
    }
    ignored
}

/// Follows a directory: reads it at once, then after each change once writes have stopped, on request, and
/// periodically.
pub fn spawn_directory(options: DirectoryOptions) -> SourceHandle {
    let (sender, events) = mpsc::channel(1);
    let resync_requested = Arc::new(Notify::new());
    let location = options.root.display().to_string();
    let mut reader = DirectoryReader::new(&options.root).with_linked(options.linked);
    let lock_reader = options.root.clone();
    let read = move |watch: &mut Watch, mode: ReadMode| reader.read_in(Some(watch), mode);
    let lock = move || {
        let root = lock_reader.canonicalize().ok()?;
        Repository::discover(&root)?.index_lock()
    };
    tokio::spawn(follow(read, lock, options.resync, Arc::clone(&resync_requested), sender));
    SourceHandle::new("directory", location, events, resync_requested)
}

/// Reads at once and then on every hint until the receiver is closed. After a hint it reads changed files only; on
/// request and periodically it reads all files.
pub(super) async fn follow<R, L>(
    read: R,
    lock: L,
    resync: Duration,
    resync_requested: Arc<Notify>,
    sender: mpsc::Sender<SourceEvent>,
) where
    R: FnMut(&mut Watch, ReadMode) -> Result<SourceReading, SourceError> + Send + 'static,
    L: Fn() -> Option<PathBuf>,
{
    let watch = Watch::new();
    let events = watch.events();
    let mut reader_and_watch = Some((read, watch));
    let mut unsettled = index_locked(&lock);
    let mut mode = ReadMode::Full;
    let mut resync_at = tokio::time::Instant::now() + jittered(resync);
    loop {
        let Some((mut read, mut watch)) = reader_and_watch.take() else {
            debug_assert!(false, "the reader was not put back");
            return;
        };
        let before = events.count();
        let task = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let mut outcome = read(&mut watch, mode);
            if let Ok(reading) = &mut outcome {
                reading.read = Some((begun, Instant::now()));
            }
            (read, watch, outcome)
        });
        let Ok((read, watch, outcome)) = task.await else {
            // A panic in the reader is a bug; the live state stays, and the status shows the error.
            let message = "the source's reader failed; restart the broker and report this";
            drop(sender.send(SourceEvent::Failed(SourceError::new(message))).await);
            return;
        };
        reader_and_watch = Some((read, watch));
        let mut is_unsettled = false;
        let event = match outcome {
            Ok(mut reading) => {
                if unsettled.is_none() && events.count() != before {
                    unsettled = Some("files changed during the read; they are read again".into());
                }
                reading.unsettled = unsettled.take().or(reading.unsettled);
                is_unsettled = reading.unsettled.is_some();
                SourceEvent::Read(Box::new(reading))
            }
            Err(error) => SourceEvent::Failed(error),
        };
        if sender.send(event).await.is_err() {
            return;
        }
        (unsettled, mode) = tokio::select! {
            () = sender.closed() => return,
            // A reading made during writes is repeated when they have stopped.
            again = wait_until_settled(&events, &resync_requested, &lock), if is_unsettled => after_hint(again),
            () = events.happened(), if !is_unsettled => after_hint(wait_until_settled(&events, &resync_requested, &lock).await),
            () = resync_requested.notified(), if !is_unsettled => (index_locked(&lock), ReadMode::Full),
            () = tokio::time::sleep_until(resync_at) => {
                if let Some((_, watch)) = &mut reader_and_watch {
                    watch.renew();
                }
                resync_at = tokio::time::Instant::now() + jittered(resync);
                (wait_for_git(&events, &resync_requested, &lock).await, ReadMode::Full)
            }
        };
    }
}

/// After unfinished writes, change times are no proof: all files are read.
fn after_hint(unsettled: Option<String>) -> (Option<String>, ReadMode) {
    let mode = if unsettled.is_some() { ReadMode::Full } else { ReadMode::Changed };
    (unsettled, mode)
}

/// The periodic pass waits for git, too.
async fn wait_for_git(
    events: &WatchEvents,
    resync_requested: &Notify,
    lock: &impl Fn() -> Option<PathBuf>,
) -> Option<String> {
    if lock().is_some() { wait_until_settled(events, resync_requested, lock).await } else { None }
}

/// Half of `period` to one and a half, so that a fleet does not read in step.
pub(crate) fn jittered(period: Duration) -> Duration {
    let thousandths = random::number().ok().and_then(|number| u32::try_from(number % 1001).ok()).unwrap_or(500);
    period / 2 + period * thousandths / 1000
}
