//! Reads the paths on the command line: directories, files, standard input, git revisions.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

use super::broker;
use crate::source::{DirectoryReader, GitRefReader};
use weir_declare::config::{FILE_SIZE_MAX, ReadError, Revision, Snapshot, SourceFile};

/// Reads directories, files, `-` and brokers' addresses as one set of documents.
///
/// # Errors
/// A path that is not there, or cannot be read at all. A file that cannot be read within a directory is part of the
/// snapshot, as unreadable.
pub(super) fn read_all(paths: &[PathBuf]) -> anyhow::Result<Snapshot> {
    read_noting(paths, &mut Vec::new())
}

/// [`read_all`], adding the ignored paths of directories to `ignored`.
///
/// # Errors
/// See [`read_all`].
pub(super) fn read_noting(paths: &[PathBuf], ignored: &mut Vec<String>) -> anyhow::Result<Snapshot> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(read(path, ignored)?);
    }
    let origin = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
    Ok(Snapshot { origin: Arc::from(origin), revision: Revision::Content { hash: String::new() }, files })
}

fn read(path: &Path, ignored: &mut Vec<String>) -> anyhow::Result<Vec<SourceFile>> {
    if let Some(url) = path.to_str().filter(|text| broker::is_url(text)) {
        return Ok(broker::declared(url)?.files);
    }
    if path == Path::new("-") {
        return read_stdin().map(|file| vec![file]);
    }
    let meta = path.metadata().with_context(|| path.display().to_string())?;
    if meta.is_dir() {
        let reading = DirectoryReader::new(path).read(None)?;
        ignored.extend(reading.ignored);
        return Ok(reading.snapshot.files);
    }
    if !meta.is_file() {
        bail!("{}: neither a file nor a directory", path.display());
    }
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let content = bounded(file).map_err(|error| ReadError { message: error.to_string() });
    Ok(vec![SourceFile {
        path: Arc::from(&*name),
        shown: Arc::from(path.display().to_string()),
        base: Arc::from(path.parent().unwrap_or(Path::new(""))),
        content,
    }])
}

fn read_stdin() -> anyhow::Result<SourceFile> {
    let content = bounded(std::io::stdin().lock()).context("standard input")?;
    Ok(SourceFile {
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
