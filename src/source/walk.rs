//! Reads a directory of documents, whatever is in it: links, loops, pipes, devices, files that change underneath.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::fingerprint::{self, Fingerprint};
use weir_declare::config::{ReadError, SourceFile};

/// Bytes read of one file; the validator refuses larger files.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// Directories below one another.
const DEPTH_MAX: usize = 32;
/// Files that may hold documents.
const FILES_MAX: usize = 100_000;
/// Entries of all kinds: a directory of a million photographs is a mistake, not a declaration.
const ENTRIES_MAX: usize = 1_000_000;

/// The result of a walk.
#[derive(Debug, Default)]
pub(super) struct WalkResult {
    pub files: Vec<SourceFile>,
    /// The target of each file that is a symbolic link itself, by the file's path below the root.
    pub links: HashMap<Arc<str>, PathBuf>,
    /// Ignored paths, as shown.
    pub ignored: Vec<String>,
    /// A file changed while it was read.
    pub changed_while_read: Option<String>,
    /// Directories to watch: those that were read, and those that symbolic links lead through.
    pub watch: BTreeSet<PathBuf>,
}

/// How to read a file that the last walk has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadMode {
    /// It is read again.
    Full,
    /// It is read again unless it has the stamp that it had when it was read.
    Changed,
}

/// The files of the last walk. An unchanged file keeps its allocation, so that the parser's cache can compare pointers
/// first.
#[derive(Debug, Default)]
pub(super) struct FileCache {
    by_path: HashMap<Arc<str>, WalkedFile>,
}

#[derive(Debug)]
struct WalkedFile {
    file: SourceFile,
    /// `None`: it may have been written to since without showing it.
    fingerprint: Option<Fingerprint>,
}

/// Reads everything below `root`. `shown_root` is how messages call it. `entering` is called before a directory is
/// listed: the moment to watch it, so that nothing happens between the watch and the listing. Symbolic links may lead to
/// places below `root` and below the directories `linked`.
///
/// # Errors
/// The root itself cannot be listed.
pub(super) fn walk(
    root: &Path,
    shown_root: &str,
    linked: &[PathBuf],
    mode: ReadMode,
    cache: &mut FileCache,
    on_directory: &mut dyn FnMut(&Path),
) -> io::Result<WalkResult> {
    let reachable = std::iter::once(root).chain(linked.iter().map(PathBuf::as_path));
    let mut walker = Walker {
        result: WalkResult::default(),
        reachable: reachable.filter_map(|directory| directory.canonicalize().ok()).collect(),
        mode,
        now: fingerprint::now(),
        next_cache: HashMap::with_capacity(cache.by_path.len()),
        previous: std::mem::take(&mut cache.by_path),
        visiting: HashSet::new(),
        entries: 0,
        on_directory,
    };
    let outcome = walker.directory(root, "", shown_root, 0);
    cache.by_path = std::mem::take(&mut walker.next_cache);
    outcome?;
    walker.result.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(walker.result)
}

struct Walker<'a> {
    result: WalkResult,
    /// Where symbolic links may lead, themselves without links.
    reachable: Vec<PathBuf>,
    mode: ReadMode,
    /// When the walk began, by [`fingerprint::now`]: nothing was read before.
    now: Duration,
    previous: HashMap<Arc<str>, WalkedFile>,
    /// For the next walk.
    next_cache: HashMap<Arc<str>, WalkedFile>,
    /// Device and inode of the directories on the way down: a link back to one of them is a loop.
    visiting: HashSet<(u64, u64)>,
    entries: usize,
    on_directory: &'a mut dyn FnMut(&Path),
}

impl Walker<'_> {
    /// `below` is the path below the root with a trailing slash, or empty.
    fn directory(&mut self, path: &Path, below: &str, shown: &str, depth: usize) -> io::Result<()> {
        let meta = fs::metadata(path)?;
        let key = (meta.dev(), meta.ino());
        if !self.visiting.insert(key) {
            return Err(io::Error::other("a symbolic link leads back to a directory above it"));
        }
        (self.on_directory)(path);
        self.result.watch.insert(path.to_path_buf());
        let outcome = self.entries_of(path, below, shown, depth);
        self.visiting.remove(&key);
        outcome
    }

    fn entries_of(&mut self, path: &Path, below: &str, shown: &str, depth: usize) -> io::Result<()> {
        let mut entries = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
        self.entries += entries.len();
        if self.entries > ENTRIES_MAX {
            return Err(io::Error::other(format!("more than {ENTRIES_MAX} directory entries")));
        }
        entries.sort_by_cached_key(fs::DirEntry::file_name);
        let base: Arc<Path> = Arc::from(path);
        for entry in entries {
            let name = entry.file_name();
            let shown = format!("{shown}/{}", name.to_string_lossy());
            let Some(name) = name.to_str() else {
                self.result.ignored.push(format!("{shown} (its name is not UTF-8)"));
                continue;
            };
            if name.starts_with('.') {
                self.result.ignored.push(shown);
                continue;
            }
            let below = format!("{below}{name}");
            // The metadata of a plain file is read after it is opened.
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                self.file(&entry.path(), &base, below, shown)?;
            } else {
                self.entry(&entry.path(), &base, below, shown, depth)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, base: &Arc<Path>, below: String, shown: String, depth: usize) -> io::Result<()> {
        let wanted = is_document_name(&below);
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
                // It was listed a moment ago: files are being written here.
                self.result
                    .changed_while_read
                    .get_or_insert_with(|| format!("{shown} vanished while the directory was read"));
                return Ok(());
            }
            Err(e) => {
                self.link_directories(path);
                let message = if e.kind() == io::ErrorKind::NotFound {
                    "a dangling symbolic link".to_owned()
                } else {
                    describe(&e)
                };
                // An unreadable entry may be a directory: the documents below it are held as well.
                let below = if wanted { below } else { format!("{below}/") };
                return self.unreadable(base, below, shown, message);
            }
        };
        let is_link = fs::symlink_metadata(path).is_ok_and(|own| own.file_type().is_symlink());
        if is_link {
            self.link_directories(path);
            if (meta.is_dir() || meta.is_file()) && !self.is_reachable(path) {
                if !wanted && !meta.is_dir() {
                    self.result.ignored.push(shown);
                    return Ok(());
                }
                let below = if wanted { below } else { format!("{below}/") };
                let message =
                    "a symbolic link that leads out of the directory; --allow-files DIR allows what is below DIR";
                return self.unreadable(base, below, shown, message.to_owned());
            }
        }
        if meta.is_dir() {
            if wanted {
                return self.unreadable(base, below, shown, "a directory where a file is expected".into());
            }
            let read = if depth >= DEPTH_MAX {
                Err(io::Error::other(format!("more than {DEPTH_MAX} directories below one another")))
            } else {
                self.directory(path, &format!("{below}/"), &shown, depth + 1)
            };
            return match read {
                Ok(()) => Ok(()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    self.result.changed_while_read.get_or_insert_with(|| format!("{shown} vanished while it was read"));
                    Ok(())
                }
                Err(e) => self.unreadable(base, format!("{below}/"), shown, describe(&e)),
            };
        }
        if wanted
            && is_link
            && let Ok(target) = fs::read_link(path)
        {
            self.result.links.insert(Arc::from(below.as_str()), target);
        }
        self.file(path, base, below, shown)
    }

    /// Reads an entry that is not a directory.
    fn file(&mut self, path: &Path, base: &Arc<Path>, below: String, shown: String) -> io::Result<()> {
        if !is_document_name(&below) {
            self.result.ignored.push(shown);
            return Ok(());
        }
        let previous = self.previous.remove(below.as_str());
        if self.mode == ReadMode::Changed
            && let Some(known) = &previous
            && known.fingerprint.is_some_and(|fingerprint| {
                fs::metadata(path).is_ok_and(|meta| Fingerprint::from_metadata(&meta) == fingerprint)
            })
        {
            let WalkedFile { file, fingerprint } = known;
            return self.push_cached(SourceFile { base: same_base(&file.base, base), ..file.clone() }, *fingerprint);
        }
        let ReadDocument { bytes, fingerprint } = match read_document(path, self.now) {
            Ok(Some(document)) => document,
            Ok(None) => {
                self.result.changed_while_read.get_or_insert_with(|| format!("{shown} was written while it was read"));
                return self.unreadable(base, below, shown, "it was written while it was read".to_owned());
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
                self.result
                    .changed_while_read
                    .get_or_insert_with(|| format!("{shown} vanished while the directory was read"));
                return Ok(());
            }
            Err(e) => return self.unreadable(base, below, shown, describe(&e)),
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            let message = "the file is empty; delete it to delete what it declared";
            return self.unreadable(base, below, shown, message.to_owned());
        }
        let file = match previous {
            Some(WalkedFile { file, .. }) if file.content.as_ref().is_ok_and(|known| **known == *bytes) => {
                SourceFile { base: same_base(&file.base, base), ..file }
            }
            _ => SourceFile {
                free_ports: false,
                path: Arc::from(below),
                shown: Arc::from(shown),
                base: Arc::clone(base),
                content: Ok(Arc::from(bytes)),
            },
        };
        self.push_cached(file, fingerprint)
    }

    /// A file with content, which the next walk remembers.
    fn push_cached(&mut self, file: SourceFile, fingerprint: Option<Fingerprint>) -> io::Result<()> {
        self.next_cache.insert(Arc::clone(&file.path), WalkedFile { file: file.clone(), fingerprint });
        self.push(file)
    }

    /// Records an unreadable path. A `path` that ends in a slash stands for everything below it.
    fn unreadable(&mut self, base: &Arc<Path>, path: String, shown: String, message: String) -> io::Result<()> {
        self.push(SourceFile {
            free_ports: false,
            path: Arc::from(path),
            shown: Arc::from(shown),
            base: Arc::clone(base),
            content: Err(ReadError { message }),
        })
    }

    fn push(&mut self, file: SourceFile) -> io::Result<()> {
        if self.result.files.len() >= FILES_MAX {
            return Err(io::Error::other(format!("more than {FILES_MAX} files")));
        }
        self.result.files.push(file);
        Ok(())
    }

    fn is_reachable(&self, link: &Path) -> bool {
        link.canonicalize().is_ok_and(|real| self.reachable.iter().any(|directory| real.starts_with(directory)))
    }

    fn link_directories(&mut self, link: &Path) {
        for directory in super::watch::directories_of(link) {
            (self.on_directory)(&directory);
            self.result.watch.insert(directory);
        }
    }
}

/// The known allocation, where it is equal.
fn same_base(known: &Arc<Path>, now: &Arc<Path>) -> Arc<Path> {
    Arc::clone(if known.as_os_str() == now.as_os_str() { known } else { now })
}

/// Whether a file of this name may hold documents.
pub(super) fn is_document_name(path: &str) -> bool {
    matches!(path.rsplit_once('.'), Some((stem, "yaml" | "yml" | "json")) if !stem.is_empty() && !stem.ends_with('/'))
}

/// Whether a file at `path` below a root is one the walk would read: neither it nor a directory above it is hidden.
pub(super) fn is_document_path(path: &str) -> bool {
    is_document_name(path) && !path.split('/').any(|segment| segment.starts_with('.'))
}

fn not_a_file(kind: fs::FileType) -> Option<&'static str> {
    match () {
        () if kind.is_file() => None,
        () if kind.is_fifo() => Some("a pipe"),
        () if kind.is_socket() => Some("a socket"),
        () if kind.is_char_device() || kind.is_block_device() => Some("a device"),
        () => Some("something else"),
    }
}

struct ReadDocument {
    bytes: Vec<u8>,
    fingerprint: Option<Fingerprint>,
}

/// Reads a regular file whole, after `now`. `None`: it changed meanwhile.
fn read_document(path: &Path, now: Duration) -> io::Result<Option<ReadDocument>> {
    // O_NONBLOCK: the open must not wait for a writer if the file has become a pipe meanwhile.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
    let before = file.metadata()?;
    if let Some(kind) = not_a_file(before.file_type()) {
        return Err(io::Error::other(format!("{kind} where a file is expected")));
    }
    if before.len() > FILE_BYTES_MAX {
        return Err(too_large(before.len()));
    }
    // One read is enough, unless the file becomes longer or shorter meanwhile: that is seen below.
    let mut bytes = vec![0; usize::try_from(before.len()).unwrap_or(0) + 1];
    let read = loop {
        match file.read(&mut bytes) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            outcome => break outcome?,
        }
    };
    bytes.truncate(read);
    let changed_while_read = changed(&before, &file, bytes.len() as u64)?;
    Ok((!changed_while_read).then(|| ReadDocument { bytes, fingerprint: Fingerprint::settled(&before, now) }))
}

fn changed(before: &fs::Metadata, file: &File, read: u64) -> io::Result<bool> {
    let after = file.metadata()?;
    let state = |meta: &fs::Metadata| (meta.len(), meta.mtime(), meta.mtime_nsec());
    Ok(state(before) != state(&after) || after.len() != read)
}

fn too_large(bytes: u64) -> io::Error {
    io::Error::other(format!(
        "the file has {bytes} bytes or more, a declaration has at most {FILE_BYTES_MAX}; split it"
    ))
}

/// An error without Rust's ` (os error 13)`.
pub(super) fn describe(e: &io::Error) -> String {
    if e.raw_os_error() == Some(libc::ELOOP) {
        return "a symbolic link that leads back to itself".into();
    }
    match e.kind() {
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::NotFound => "no such file or directory".into(),
        _ => {
            let text = e.to_string();
            text.split(" (os error").next().unwrap_or(&text).to_lowercase()
        }
    }
}
