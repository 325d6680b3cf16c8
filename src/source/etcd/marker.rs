//! The marker that a push writes beside the documents, and the digest of a set of documents.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::source::Commit;
use weir_declare::reconcile::Timestamp;

/// The marker's key below `endpoints/`. Hidden, so it is never a document; in the same range, so that it changes in the
/// same snapshot as the documents.
pub const MARKER_KEY: &str = ".push";
/// The format that the marker names.
const FORMAT: &str = "weir/push/v1";

/// The marker of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    pub format: String,
    pub state: PushState,
    /// [`documents_digest`] of all documents under the prefix once the push is through.
    pub digest: String,
    pub documents: usize,
    /// The revision that the push was planned against.
    pub base: i64,
    pub pushed_at: Timestamp,
    /// The commit of the pushed directory, where git has one.
    pub commit: Option<Commit>,
    /// Files differed from the commit.
    pub dirty: bool,
}

/// How far a push is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PushState {
    /// Its documents are being written, in several transactions.
    Begun,
    Complete,
}

/// Why a value is not a marker of a push.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("its format is {0:?}")]
    Format(String),
}

impl Marker {
    /// A marker of a set of `documents` with `digest`.
    pub fn new(state: PushState, digest: String, documents: usize, base: i64, pushed_at: Timestamp) -> Self {
        Self { format: FORMAT.to_owned(), state, digest, documents, base, pushed_at, commit: None, dirty: false }
    }

    /// Reads a marker's value.
    ///
    /// # Errors
    /// See [`MarkerError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, MarkerError> {
        let marker: Self = serde_json::from_slice(bytes)?;
        if marker.format == FORMAT { Ok(marker) } else { Err(MarkerError::Format(marker.format)) }
    }

    /// As it is stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings, numbers and times: serialization cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// SHA-256 of a document's bytes.
pub(super) fn content_hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A set of documents as bytes: over each one's path and `content_hash`, in the order of paths. Two stores with the
/// same digest declare the same.
pub fn documents_digest<'a>(documents: impl Iterator<Item = (&'a str, &'a [u8; 32])>) -> String {
    let mut hash = Sha256::new();
    hash.update(b"weir documents v1\n");
    for (path, content) in documents {
        hash.update(content);
        hash.update(path.as_bytes());
        hash.update([0]);
    }
    format!("d1-{}", HEXLOWER.encode(&hash.finalize()))
}

/// Whether a key below `endpoints/` holds a document: text, and no segment of it is hidden or empty at the end.
pub(super) fn document_path(key: &[u8]) -> Option<Arc<str>> {
    let path = std::str::from_utf8(key).ok()?;
    let visible = !path.is_empty() && !path.ends_with('/') && !path.split('/').any(|segment| segment.starts_with('.'));
    visible.then(|| Arc::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_back_and_another_format_is_refused() {
        let marker = Marker::new(PushState::Begun, "d1-00".into(), 3, 7, Timestamp::from_unix_ms(9));
        assert_eq!(Marker::parse(&marker.to_bytes()).unwrap(), marker);
        let other = Marker { format: "weir/push/v9".into(), ..marker };
        assert!(Marker::parse(&other.to_bytes()).unwrap_err().to_string().contains("v9"));
        assert!(Marker::parse(b"\xff\x00").is_err());
    }

    #[test]
    fn different_paths_or_contents_have_different_digests() {
        let (a, b) = (content_hash(b"a"), content_hash(b"b"));
        let sets = [
            vec![],
            vec![("x", &a)],
            vec![("x", &b)],
            vec![("y", &a)],
            vec![("x", &a), ("y", &b)],
            vec![("x", &b), ("y", &a)],
        ];
        let digests: std::collections::BTreeSet<String> =
            sets.iter().map(|set| documents_digest(set.iter().copied())).collect();
        assert_eq!(digests.len(), sets.len());
    }

    #[test]
    fn hidden_keys_and_keys_that_are_not_utf8_hold_no_document() {
        for (key, is) in [
            (&b"tenant-a"[..], true),
            (b"eu/tenant-a.yaml", true),
            (b"v1.2", true),
            (b"", false),
            (b".push", false),
            (b"eu/.hidden/a", false),
            (b"eu/", false),
            (b"\xff\xfe", false),
        ] {
            assert_eq!(document_path(key).is_some(), is, "{}", String::from_utf8_lossy(key));
        }
    }
}
