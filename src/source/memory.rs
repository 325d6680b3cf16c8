//! Documents that the program itself holds: they do not change while it runs.

use std::path::Path;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, mpsc};

use super::{SourceEvent, SourceHandle, SourceReading};
use weir_declare::config::{Revision, Snapshot, SourceFile};

/// The source's kind and location, in the status and in messages.
pub(crate) const MEMORY: &str = "memory";

/// One file of documents in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryFile {
    /// A path with an extension, as a file below a directory would have; default names derive from it: `lab.yaml`.
    pub path: String,
    /// YAML or JSON documents. Files that they refer to are relative to the working directory.
    pub text: String,
}

/// Serves `files`: sends them at once, and again on each request.
pub fn spawn_memory(files: Vec<MemoryFile>) -> SourceHandle {
    let (sender, events) = mpsc::channel(1);
    let resync_requested = Arc::new(Notify::new());
    let requested = Arc::clone(&resync_requested);
    let snapshot = snapshot(files);
    tokio::spawn(async move {
        while sender.send(SourceEvent::Read(Box::new(reading(snapshot.clone())))).await.is_ok() {
            tokio::select! {
                () = requested.notified() => {}
                () = sender.closed() => return,
            }
        }
    });
    SourceHandle::new(MEMORY, MEMORY.to_owned(), events, resync_requested)
}

fn snapshot(files: Vec<MemoryFile>) -> Snapshot {
    let mut hash = Sha256::new();
    let files = files.into_iter().map(|file| {
        for part in [&file.path, &file.text] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let path: Arc<str> = file.path.into();
        let content = Ok(file.text.into_bytes().into());
        SourceFile { shown: format!("{MEMORY}/{path}").into(), path, base: Arc::from(Path::new("")), content }
    });
    let files: Vec<SourceFile> = files.collect();
    let revision = Revision::Content { hash: HEXLOWER.encode(&hash.finalize()) };
    Snapshot { origin: Arc::from(MEMORY), revision, files }
}

fn reading(snapshot: Snapshot) -> SourceReading {
    SourceReading {
        snapshot,
        commit: None,
        unsettled: None,
        ignored: Vec::new(),
        notes: Vec::new(),
        store: None,
        read: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_request_is_followed_by_the_same_documents() {
        let file = MemoryFile { path: "a.yaml".into(), text: "endpoint: {port: 1}".into() };
        let mut source = spawn_memory(vec![file]);
        let mut revisions = Vec::new();
        for _ in 0..3 {
            let Some(SourceEvent::Read(reading)) = source.events.recv().await else { panic!("no reading") };
            assert_eq!(reading.snapshot.files[0].content.as_deref().unwrap(), b"endpoint: {port: 1}");
            revisions.push(reading.snapshot.revision.clone());
            source.request_resync();
        }
        assert!(revisions.windows(2).all(|pair| pair[0] == pair[1]), "{revisions:?}");
    }
}
