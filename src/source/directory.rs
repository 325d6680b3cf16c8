//! A directory of documents, in a git work tree or not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use super::git::Repository;
use super::quiet::{settle, still_locked};
use super::walk::{Contents, Look, describe, walk};
use super::watch::{Events, Watch, directories_of};
use super::work_tree::WorkTree;
use super::{Reading, SourceError, SourceEvent, SourceHandle};
use crate::random;
use weir_declare::config::Snapshot;

/// What is left aside is listed up to this many paths.
const IGNORED_SHOWN_MAX: usize = 200;

/// How to read a directory.
#[derive(Debug, Clone)]
pub struct DirectoryOptions {
    /// As the user wrote it; may be a symbolic link, and is resolved anew on every pass.
    pub root: PathBuf,
    /// About how long without an event until everything is read all the same (half of it to one and a half).
    pub resync: Duration,
}

/// Reads a directory, again and again, cheaply where little changed.
#[derive(Debug)]
pub struct DirectoryReader {
    root: PathBuf,
    shown: String,
    contents: Contents,
    work_tree: WorkTree,
    /// git's directory of the work tree, as of the last reading.
    repository: Option<Repository>,
}

impl DirectoryReader {
    /// A reader of `root`.
    pub fn new(root: &Path) -> Self {
        let shown = root.display().to_string();
        let shown = if shown.len() > 1 { shown.trim_end_matches('/').to_owned() } else { shown };
        Self {
            root: root.to_path_buf(),
            shown,
            contents: Contents::default(),
            work_tree: WorkTree::default(),
            repository: None,
        }
    }

    /// Reads everything. With `watch`, what was read is watched from before it was read, and nothing else any longer.
    ///
    /// # Errors
    /// The directory is not there, or cannot be listed.
    pub fn read(&mut self, watch: Option<&mut Watch>) -> Result<Reading, SourceError> {
        self.look(watch, Look::Closely)
    }

    /// Looks at everything, and reads what was written to since it was read last, as far as the file system tells.
    ///
    /// # Errors
    /// As of [`Self::read`].
    pub fn refresh(&mut self, watch: Option<&mut Watch>) -> Result<Reading, SourceError> {
        self.look(watch, Look::AtStamps)
    }

    fn look(&mut self, mut watch: Option<&mut Watch>, look: Look) -> Result<Reading, SourceError> {
        let mut wanted = self.way_to_root();
        if let Some(watch) = watch.as_deref_mut() {
            wanted.iter().for_each(|directory| watch.add(directory));
        }
        let fail = |e: &std::io::Error| SourceError::new(format!("{}: {}", self.shown, describe(e)));
        let root = self.root.canonicalize().map_err(|e| fail(&e))?;
        if !root.is_dir() {
            return Err(SourceError::new(format!("{}: not a directory", self.shown)));
        }
        let mut entering = |directory: &Path| {
            if let Some(watch) = watch.as_deref_mut() {
                watch.add(directory);
            }
        };
        let walked = walk(&root, &self.shown, look, &mut self.contents, &mut entering).map_err(|e| fail(&e))?;
        self.repository = Repository::discover(&root);
        if let Some(repository) = &self.repository {
            entering(&repository.git_dir);
            wanted.insert(repository.git_dir.clone());
        }
        let (revision, commit, note) = self.work_tree.revision(self.repository.as_ref(), &walked.files, &walked.links);
        wanted.extend(walked.watch);
        let mut notes: Vec<String> = note.into_iter().collect();
        if let Some(watch) = watch {
            watch.retain(&wanted);
            notes.extend(watch.take_trouble());
        }
        Ok(Reading {
            snapshot: Snapshot { origin: Arc::from(self.shown.as_str()), revision, files: walked.files },
            commit,
            unsettled: walked.moving.or_else(|| still_locked(&|| self.lock())),
            ignored: shortened(walked.ignored),
            notes,
            store: None,
            read: None,
        })
    }

    /// Where the root can be swapped, come back or go. Of a root that is not there, the nearest directory that is.
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

/// Follows a directory: reads it at once, then whenever something in it has changed and come to rest, when nudged, and
/// now and then.
pub fn spawn_directory(options: DirectoryOptions) -> SourceHandle {
    let (tell, events) = mpsc::channel(1);
    let nudge = Arc::new(Notify::new());
    let location = options.root.display().to_string();
    let mut reader = DirectoryReader::new(&options.root);
    let lock_reader = options.root.clone();
    let read = move |watch: &mut Watch, look: Look| reader.look(Some(watch), look);
    let lock = move || {
        let root = lock_reader.canonicalize().ok()?;
        Repository::discover(&root)?.index_lock()
    };
    tokio::spawn(follow(read, lock, options.resync, Arc::clone(&nudge), tell));
    SourceHandle::new("directory", location, events, nudge)
}

/// Reads at once and then on every hint, until nobody listens. A hint makes it look for what was written to; what it is
/// asked for, and what is due now and then however many hints there are, is read closely.
pub(super) async fn follow<R, L>(
    read: R,
    lock: L,
    resync: Duration,
    nudge: Arc<Notify>,
    tell: mpsc::Sender<SourceEvent>,
) where
    R: FnMut(&mut Watch, Look) -> Result<Reading, SourceError> + Send + 'static,
    L: Fn() -> Option<PathBuf>,
{
    let watch = Watch::new();
    let events = watch.events();
    let mut tools = Some((read, watch));
    let mut unsettled = still_locked(&lock);
    let mut look = Look::Closely;
    let mut resync_at = tokio::time::Instant::now() + jittered(resync);
    loop {
        let Some((mut read, mut watch)) = tools.take() else { return };
        let before = events.count();
        let task = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let mut outcome = read(&mut watch, look);
            if let Ok(reading) = &mut outcome {
                reading.read = Some((begun, Instant::now()));
            }
            (read, watch, outcome)
        });
        let Ok((read, watch, outcome)) = task.await else {
            // A panic in the reader is a bug; what is live stays, and the status tells.
            let message = "the source's reader failed; restart the broker and report this";
            drop(tell.send(SourceEvent::Trouble(SourceError::new(message))).await);
            return;
        };
        tools = Some((read, watch));
        let mut restless = false;
        let event = match outcome {
            Ok(mut reading) => {
                if unsettled.is_none() && events.count() != before {
                    unsettled = Some("files changed while they were read".into());
                }
                reading.unsettled = unsettled.take().or(reading.unsettled);
                restless = reading.unsettled.is_some();
                SourceEvent::Read(Box::new(reading))
            }
            Err(error) => SourceEvent::Trouble(error),
        };
        if tell.send(event).await.is_err() {
            return;
        }
        (unsettled, look) = tokio::select! {
            () = tell.closed() => return,
            // What was read amid changes is read again once they are over.
            again = settle(&events, &nudge, &lock), if restless => after_hint(again),
            () = events.happened(), if !restless => after_hint(settle(&events, &nudge, &lock).await),
            () = nudge.notified(), if !restless => (still_locked(&lock), Look::Closely),
            () = tokio::time::sleep_until(resync_at) => {
                if let Some((_, watch)) = &mut tools {
                    watch.renew();
                }
                resync_at = tokio::time::Instant::now() + jittered(resync);
                (settled_now(&events, &nudge, &lock).await, Look::Closely)
            }
        };
    }
}

/// Where whoever writes did not come to rest, or was not waited for, times of change tell less.
fn after_hint(unsettled: Option<String>) -> (Option<String>, Look) {
    let look = if unsettled.is_some() { Look::Closely } else { Look::AtStamps };
    (unsettled, look)
}

/// The periodic pass waits for git, too.
async fn settled_now(events: &Events, nudge: &Notify, lock: &impl Fn() -> Option<PathBuf>) -> Option<String> {
    if lock().is_some() { settle(events, nudge, lock).await } else { None }
}

/// Half of `period` to one and a half, so that a fleet does not read in step.
pub(crate) fn jittered(period: Duration) -> Duration {
    let thousandths = random::number().ok().and_then(|number| u32::try_from(number % 1001).ok()).unwrap_or(500);
    period / 2 + period * thousandths / 1000
}
