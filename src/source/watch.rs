//! Hints that something changed: inotify through `notify`. Never more than hints: see the periodic pass.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Links that are followed on one path, as in Linux.
const LINKS_MAX: usize = 40;
/// Watches of one source: inotify's default limit is 8,192 per user on small machines. The periodic pass finds changes
/// elsewhere.
const WATCHES_MAX: usize = 4096;

/// Watches directories without their subdirectories, and counts events.
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    shared: Arc<WatchState>,
    /// Why watching does not work, or not fully; reported once.
    warning: Option<String>,
}

#[derive(Debug, Default)]
struct WatchState {
    events: AtomicU64,
    happened: Notify,
    /// Watched directories that were removed or renamed: the kernel has dropped their watches.
    lost: Mutex<Vec<PathBuf>>,
    /// Events were dropped (inotify's queue was full): any directory may have been lost.
    overflowed: AtomicBool,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("watched", &self.watched.len()).finish_non_exhaustive()
    }
}

/// Waits for events while another holds the [`Watch`].
#[derive(Debug, Clone)]
pub struct WatchEvents(Arc<WatchState>);

impl WatchEvents {
    /// Events so far.
    pub fn count(&self) -> u64 {
        self.0.events.load(Ordering::Acquire)
    }

    /// Returns once there were events since the last return.
    pub async fn happened(&self) {
        self.0.happened.notified().await;
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

impl Watch {
    /// Watches nothing yet. Where the system gives no watcher, there are no hints: the periodic pass remains.
    pub fn new() -> Self {
        let shared = Arc::new(WatchState::default());
        let theirs = Arc::clone(&shared);
        let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| theirs.record(event));
        let (watcher, warning) = match made {
            Ok(watcher) => (Some(watcher), None),
            Err(e) => (None, Some(format!("no file system events: {e}; changes are found by the periodic pass only"))),
        };
        Self { watcher, watched: BTreeSet::new(), shared, warning }
    }

    /// Where to wait for events.
    pub fn events(&self) -> WatchEvents {
        WatchEvents(Arc::clone(&self.shared))
    }

    /// The current problem with watching, each time once.
    pub fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    /// Watches `directory` from now on.
    pub fn add(&mut self, directory: &Path) {
        self.forget_lost();
        if self.watched.contains(directory) {
            return;
        }
        let Some(watcher) = &mut self.watcher else { return };
        if self.watched.len() >= WATCHES_MAX {
            self.warning.get_or_insert_with(|| {
                format!("more than {WATCHES_MAX} directories; changes in the rest are found by the periodic pass only")
            });
            return;
        }
        match watcher.watch(directory, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.watched.insert(directory.to_path_buf());
            }
            // Removed meanwhile, or not readable: the walk of the directory reports that.
            Err(e) if is_about_the_path(&e) => {}
            Err(e) => {
                self.warning.get_or_insert_with(|| {
                    format!("cannot watch {}: {e}; changes are found by the periodic pass only", directory.display())
                });
            }
        }
    }

    /// Watches none but `wanted` any longer.
    pub fn retain(&mut self, wanted: &BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        self.watched.retain(|path| {
            wanted.contains(path) || {
                // Fails if the directory was removed, and its watch with it.
                let _gone_already = watcher.unwatch(path);
                false
            }
        });
    }

    /// Forgets its watches, so that the next [`Watch::add`] asks the kernel again: a directory that was removed and
    /// created again may have the same inode, and only the kernel knows whether it is watched.
    pub fn renew(&mut self) {
        self.watched.clear();
    }

    fn forget_lost(&mut self) {
        if self.shared.overflowed.swap(false, Ordering::AcqRel) {
            self.renew();
        }
        let mut lost = self.shared.lost.lock().unwrap_or_else(PoisonError::into_inner);
        for path in lost.drain(..) {
            self.watched.remove(&path);
        }
    }
}

impl WatchState {
    fn record(&self, event: notify::Result<notify::Event>) {
        let hides_others = event.as_ref().map_or(true, notify::Event::need_rescan);
        if hides_others {
            self.overflowed.store(true, Ordering::Release);
        }
        if let Ok(event) = event {
            match event.kind {
                // Our own reading.
                EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write) => return,
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                    self.lost.lock().unwrap_or_else(PoisonError::into_inner).extend(event.paths);
                }
                _ => {}
            }
        }
        // An overflow, or an error, hides events: it counts as one.
        self.events.fetch_add(1, Ordering::AcqRel);
        self.happened.notify_one();
    }
}

fn is_about_the_path(e: &notify::Error) -> bool {
    match &e.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(io) => matches!(
            io.kind(),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::NotADirectory
        ),
        _ => false,
    }
}

/// The directories in which a change can make `path` mean another file: the parent of every symbolic link on the way
/// (swapping a link touches its parent alone), and the directory the file lies in at last.
pub(crate) fn directories_of(path: &Path) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    let Ok(path) = std::path::absolute(path) else { return directories };
    let mut rest: Vec<OsString> = segments(&path);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(segment) = rest.pop() {
        if segment == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&segment);
        match std::fs::read_link(&next) {
            Ok(target) if links < LINKS_MAX => {
                links += 1;
                directories.insert(at.clone());
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                rest.extend(segments(&target));
            }
            _ => at = next,
        }
    }
    directories.extend(at.parent().map(Path::to_path_buf));
    directories
}

/// A path's segments, last first.
fn segments(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_parent_of_every_link_on_the_path_is_watched() {
        let tmp = tempfile::tempdir().unwrap();
        let top = tmp.path().canonicalize().unwrap();
        for directory in ["mnt", "repo/rev-1/endpoints", "certs"] {
            std::fs::create_dir_all(top.join(directory)).unwrap();
        }
        symlink("../repo/current", top.join("mnt/link")).unwrap();
        symlink("rev-1", top.join("repo/current")).unwrap();
        let found = directories_of(&top.join("mnt/link/endpoints"));
        let expected = ["mnt", "repo", "repo/rev-1"].map(|name| top.join(name));
        assert_eq!(found, expected.into_iter().collect());
        assert_eq!(directories_of(&top.join("certs/a.pem")), [top.join("certs")].into_iter().collect());
    }

    /// Waits until there was an event since `before`.
    fn wait_for_more(watch: &Watch, before: u64) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while watch.events().count() == before {
            assert!(std::time::Instant::now() < deadline, "no event came");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[test]
    fn after_an_overflow_every_directory_is_watched_again() {
        let tmp = tempfile::tempdir().unwrap();
        let directory = tmp.path().join("d");
        std::fs::create_dir(&directory).unwrap();
        let mut watch = Watch::new();
        watch.add(&directory);
        // The directory is removed and created again, which is among the events that the kernel dropped.
        std::fs::remove_dir(&directory).unwrap();
        wait_for_more(&watch, 0);
        std::fs::create_dir(&directory).unwrap();
        while !watch.shared.lost.lock().unwrap().contains(&directory) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        watch.shared.lost.lock().unwrap().clear();
        let overflow = notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        let before = watch.events().count();
        watch.shared.record(Ok(overflow));
        assert_eq!(watch.events().count(), before + 1, "it is a hint");
        watch.add(&directory);
        let before = watch.events().count();
        std::fs::write(directory.join("file"), "").unwrap();
        wait_for_more(&watch, before);
    }

    #[test]
    fn a_loop_of_links_ends() {
        let tmp = tempfile::tempdir().unwrap();
        symlink("b", tmp.path().join("a")).unwrap();
        symlink("a", tmp.path().join("b")).unwrap();
        assert!(!directories_of(&tmp.path().join("a/x")).is_empty());
    }
}
