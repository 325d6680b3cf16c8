//! Documents that the program itself holds, and may replace.

use std::path::Path;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, mpsc, watch};

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

/// Serves `files`: sends them at once, on each request, and whenever they are replaced.
pub fn spawn_memory(mut files: watch::Receiver<Vec<MemoryFile>>) -> SourceHandle {
    let (sender, events) = mpsc::channel(1);
    let resync_requested = Arc::new(Notify::new());
    let requested = Arc::clone(&resync_requested);
    tokio::spawn(async move {
        loop {
            let snapshot = memory_snapshot(&files.borrow_and_update());
            if sender.send(SourceEvent::Read(Box::new(reading(snapshot)))).await.is_err() {
                return;
            }
            tokio::select! {
                () = requested.notified() => {}
                Ok(()) = files.changed() => {}
                () = sender.closed() => return,
            }
        }
    });
    SourceHandle::new(MEMORY, MEMORY.to_owned(), events, resync_requested)
}

/// `files` as a source reads them.
pub fn memory_snapshot(files: &[MemoryFile]) -> Snapshot {
    let mut hash = Sha256::new();
    let files = files.iter().map(|file| {
        for part in [&file.path, &file.text] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let path: Arc<str> = file.path.as_str().into();
        let content = Ok(file.text.as_bytes().into());
        SourceFile {
            free_ports: true,
            shown: format!("{MEMORY}/{path}").into(),
            path,
            base: Arc::from(Path::new("")),
            content,
        }
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
        absence_is_deletion: true,
        ignored: Vec::new(),
        notes: Vec::new(),
        store: None,
        read: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> MemoryFile {
        MemoryFile { path: "a.yaml".into(), text: text.into() }
    }

    async fn next(source: &mut SourceHandle) -> Snapshot {
        let Some(SourceEvent::Read(reading)) = source.events.recv().await else { panic!("no reading") };
        reading.snapshot
    }

    #[tokio::test]
    async fn every_request_is_followed_by_the_documents_and_so_is_a_replacement() {
        let (documents, receiver) = watch::channel(vec![file("endpoint: {port: 1}")]);
        let mut source = spawn_memory(receiver);
        let first = next(&mut source).await;
        assert_eq!(first.files[0].content.as_deref().unwrap(), b"endpoint: {port: 1}");
        source.request_resync();
        assert_eq!(next(&mut source).await.revision, first.revision);
        documents.send_replace(vec![file("endpoint: {port: 2}")]);
        let second = next(&mut source).await;
        assert_eq!(second.files[0].content.as_deref().unwrap(), b"endpoint: {port: 2}");
        assert_ne!(second.revision, first.revision);
    }
}
