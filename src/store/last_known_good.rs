//! The last known good declarations, for a start without a source.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use super::{StoreError, write};
use weir_declare::config::{LastGood, LastGoodWriter};
use weir_declare::reconcile::Timestamp;

/// The file `last-known-good.json` in the data directory.
#[derive(Debug, Clone)]
pub struct LastKnownGoodFile {
    path: PathBuf,
    /// A cache of the written declarations; shared by all clones.
    keeper: Arc<Mutex<LastGoodWriter>>,
}

/// The file's content.
#[derive(Debug, Clone)]
pub struct Saved {
    /// The source of the declarations. Declarations of another source must not be used.
    pub source: String,
    pub revision: String,
    pub saved_at: Timestamp,
    pub previous: LastGood,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Form {
    source: String,
    revision: String,
    saved_at: Timestamp,
    declarations: serde_json::Value,
}

impl LastKnownGoodFile {
    /// The file in a data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join("last-known-good.json"), keeper: Arc::default() }
    }

    /// Replaces the file's content.
    ///
    /// The write failed; the previous content is unchanged.
    pub fn save(&self, saved: &Saved) -> Result<(), StoreError> {
        let content = |e: serde_json::Error| StoreError::Content { path: self.path.clone(), message: e.to_string() };
        let head = serde_json::json!({ "source": saved.source, "revision": saved.revision, "savedAt": saved.saved_at });
        let mut text = serde_json::to_string(&head).map_err(content)?;
        text.truncate(text.trim_end_matches('}').len());
        text.push_str(",\"declarations\":");
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner).write(&saved.previous, &mut text);
        text.push_str("}\n");
        write::replace(&self.path, text.as_bytes())
    }

    /// Reads the file; `None`: it does not exist.
    ///
    /// # Errors
    /// It cannot be read or parsed.
    pub fn load(&self) -> Result<Option<Saved>, StoreError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { path: self.path.clone(), source }),
        };
        let content = |message: String| StoreError::Content { path: self.path.clone(), message };
        let form: Form = serde_json::from_slice(&bytes).map_err(|e| content(e.to_string()))?;
        let previous = LastGood::from_json(&form.declarations).map_err(|e| content(e.to_string()))?;
        Ok(Some(Saved { source: form.source, revision: form.revision, saved_at: form.saved_at, previous }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_declarations_are_read_back_and_damage_is_an_error() {
        let tmp = tempfile::tempdir().unwrap();
        let file = LastKnownGoodFile::new(tmp.path());
        assert!(file.load().unwrap().is_none());
        let saved = Saved {
            source: "directory /etc/weir".into(),
            revision: "abc".into(),
            saved_at: Timestamp::from_unix_ms(5),
            previous: LastGood::default(),
        };
        file.save(&saved).unwrap();
        let back = file.load().unwrap().unwrap();
        assert_eq!((back.source, back.revision, back.saved_at), (saved.source, saved.revision, saved.saved_at));
        let whole = fs::read(&file.path).unwrap();
        let cuts = (0..whole.len()).map(|length| whole[..length].to_vec());
        let zeros = (0..whole.len()).map(|from| [&whole[..from], &vec![0; whole.len() - from]].concat());
        let no_utf8 = whole.iter().position(|byte| *byte == b'a').map(|at| {
            let mut bytes = whole.clone();
            bytes[at] = 0xff;
            bytes
        });
        for bytes in cuts.chain(zeros).chain(no_utf8) {
            // The final newline is not significant.
            if bytes.trim_ascii_end() == whole.trim_ascii_end() {
                continue;
            }
            fs::write(&file.path, &bytes).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            let error = file.load().expect_err(&text);
            assert!(error.to_string().contains("last-known-good.json"), "{text}: {error}");
        }
    }

    #[test]
    fn a_failed_save_keeps_the_previous_file_and_no_temporary_one() {
        let tmp = tempfile::tempdir().unwrap();
        let file = LastKnownGoodFile::new(tmp.path());
        let saved = |revision: &str| Saved {
            source: "directory /etc/weir".into(),
            revision: revision.into(),
            saved_at: Timestamp::from_unix_ms(5),
            previous: LastGood::default(),
        };
        file.save(&saved("former")).unwrap();
        // A rename over a directory fails when all is written.
        fs::rename(&file.path, tmp.path().join("aside")).unwrap();
        fs::create_dir(&file.path).unwrap();
        assert!(file.save(&saved("newer")).is_err());
        fs::remove_dir(&file.path).unwrap();
        fs::rename(tmp.path().join("aside"), &file.path).unwrap();
        assert_eq!(file.load().unwrap().unwrap().revision, "former");
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 1);
    }
}
