//! Reads the paths on the command line: directories, files, standard input, git revisions.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

use super::broker;
use super::references::linked_directories;
use crate::references::{is_below, real_path};
use crate::source::{DirectoryReader, GitRefReader};
use weir_declare::config::{FILE_SIZE_MAX, ReadError, Revision, Snapshot, SourceFile};

/// Reads directories, files, `-` and brokers' addresses as one set of documents.
///
/// # Errors
/// A path that is not there, or cannot be read at all. A file that cannot be read within a directory is part of the
/// snapshot, as unreadable.
pub(super) fn read_all(paths: &[PathBuf]) -> anyhow::Result<Snapshot> {
    read_noting(paths, &linked_directories(), &mut Vec::new())
}

/// [`read_all`], adding the ignored paths of directories to `ignored`. Symbolic links may lead to `linked`, too.
///
/// # Errors
/// See [`read_all`].
pub(super) fn read_noting(
    paths: &[PathBuf],
    linked: &[PathBuf],
    ignored: &mut Vec<String>,
) -> anyhow::Result<Snapshot> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(read(path, linked, ignored)?);
    }
    let origin = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
    Ok(Snapshot { origin: Arc::from(origin), revision: Revision::Content { hash: String::new() }, files })
}

fn read(path: &Path, linked: &[PathBuf], ignored: &mut Vec<String>) -> anyhow::Result<Vec<SourceFile>> {
    if let Some(url) = path.to_str().filter(|text| broker::is_url(text)) {
        return Ok(broker::declared(url)?.files);
    }
    if path == Path::new("-") {
        return read_stdin().map(|file| vec![file]);
    }
    let meta = path.metadata().with_context(|| path.display().to_string())?;
    if meta.is_dir() {
        let reading = DirectoryReader::new(path).with_linked(linked.to_vec()).read(None)?;
        ignored.extend(reading.ignored);
        return Ok(reading.snapshot.files);
    }
    if !meta.is_file() {
        bail!("{}: neither a file nor a directory", path.display());
    }
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    if path.is_symlink() && !stays_beside(&file, path, linked)? {
        bail!(
            "{}: a symbolic link that leads out of its directory; --allow-files DIR allows what is below DIR",
            path.display()
        );
    }
    let content = bounded(file).map_err(|error| ReadError { message: error.to_string() });
    Ok(vec![SourceFile {
        free_ports: false,
        path: Arc::from(&*name),
        shown: Arc::from(path.display().to_string()),
        base: Arc::from(path.parent().unwrap_or(Path::new(""))),
        content,
    }])
}

/// Whether an opened file lies below the directory of its name, or below one that links may lead to.
fn stays_beside(file: &std::fs::File, path: &Path, linked: &[PathBuf]) -> anyhow::Result<bool> {
    let real = real_path(file, path).with_context(|| path.display().to_string())?;
    let beside = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(std::iter::once(beside).chain(linked.iter().map(PathBuf::as_path)).any(|directory| is_below(&real, directory)))
}

fn read_stdin() -> anyhow::Result<SourceFile> {
    let content = bounded(std::io::stdin().lock()).context("standard input")?;
    Ok(SourceFile {
        free_ports: false,
        path: Arc::from("stdin.yaml"),
        shown: Arc::from("<stdin>"),
        base: Arc::from(Path::new("")),
        content: Ok(content),
    })
}

/// Reads at most one byte more than a file may have.
fn bounded(reader: impl Read) -> std::io::Result<Arc<[u8]>> {
    let mut bytes = Vec::new();
    reader.take(FILE_SIZE_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// Reads one operand of `diff`: a path, `-`, a broker's http://HOST:PORT, or `git:REVISION` of the directory `beside`.
///
/// # Errors
/// It cannot be read.
pub(super) fn read_operand(operand: &str, beside: Option<&Path>) -> anyhow::Result<Snapshot> {
    let Some(revision) = operand.strip_prefix("git:") else {
        return read_all(&[PathBuf::from(operand)]);
    };
    // `git:REVISION:PATH`, or the same directory at another revision.
    let (revision, path) = match revision.split_once(':') {
        Some((revision, path)) => (revision, Some(Path::new(path))),
        None => (revision, beside),
    };
    let Some(path) = path else {
        bail!("{operand}: of which directory? Write git:REVISION:PATH");
    };
    Ok(GitRefReader::new(path, revision).read(None)?.snapshot)
}
