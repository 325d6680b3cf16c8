//! The data directory's files of an earlier run: last known good declaration and history. A damaged file does not keep
//! the broker from starting.

use std::path::Path;

use super::error::ServerError;
use crate::apply::{HISTORY_MAX, History, LastGoodStore};
#[cfg(feature = "etcd")]
use crate::source::etcd::PriorState;
use crate::store::{Journal, LastKnownGoodFile, OpenedJournal, restrict};
use weir_declare::config::LastGood;
use weir_declare::reconcile::Timestamp;

/// The revision, when it was saved, and its declarations.
pub(super) type StartDeclaration = (String, Timestamp, LastGood);

/// What an earlier run saved, and where this run saves it.
#[derive(Default)]
pub(super) struct DataDir {
    pub(super) last_known_good: Option<StartDeclaration>,
    pub(super) history: History,
    pub(super) last_good_store: Option<LastGoodStore>,
}

/// Reads what an earlier run saved for the source of this name.
///
/// # Errors
/// The directory does not exist and cannot be created.
pub(super) fn open(data_dir: Option<&Path>, source: String) -> Result<DataDir, ServerError> {
    let Some(data_dir) = data_dir else {
        tracing::info!("no --data-dir: a restart keeps neither the last known good declaration nor the history");
        return Ok(DataDir::default());
    };
    std::fs::create_dir_all(data_dir)
        .map_err(|source| ServerError::DataDirectory { path: data_dir.to_owned(), source })?;
    restrict(data_dir);
    let file = LastKnownGoodFile::new(data_dir);
    let last_known_good = load(&file, &source);
    Ok(DataDir {
        last_known_good,
        history: open_history(data_dir),
        last_good_store: Some(LastGoodStore { file, source }),
    })
}

/// What the etcd source needs to detect that the store was wiped or restored meanwhile.
#[cfg(feature = "etcd")]
pub(super) fn known((revision, saved_at, previous): &StartDeclaration) -> Option<PriorState> {
    Some(PriorState { revision: revision.parse().ok()?, saved_at: *saved_at, paths: previous.paths() })
}

fn load(file: &LastKnownGoodFile, source: &str) -> Option<StartDeclaration> {
    match file.load() {
        Ok(saved) => {
            let saved = saved?;
            if saved.source != source {
                tracing::warn!(of = saved.source, "last known good ignored: it belongs to another source");
                return None;
            }
            Some((saved.revision, saved.saved_at, saved.previous))
        }
        Err(error) => {
            tracing::error!(%error, "last known good ignored: the file is damaged");
            None
        }
    }
}

fn open_history(data_dir: &Path) -> History {
    let path = data_dir.join("history.jsonl");
    let OpenedJournal { journal, entries, skipped_lines, error } = Journal::open(&path, HISTORY_MAX);
    if skipped_lines > 0 {
        tracing::warn!(
            path = %path.display(), lines = skipped_lines,
            "history lines skipped: they are damaged, or a crash or a full disk cut them short"
        );
    }
    if let Some(error) = error {
        tracing::error!(%error, "history read failed: it starts empty");
    }
    History::resume(Some(journal), entries)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Damage to a file, as a crash, a full disk or a bad disk leaves it.
    fn damages(whole: &[u8]) -> Vec<(String, Vec<u8>)> {
        let last_line = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut damages: Vec<(String, Vec<u8>)> =
            (last_line..whole.len()).map(|length| (format!("cut at {length}"), whole[..length].to_vec())).collect();
        let mut no_utf8 = whole.to_vec();
        no_utf8[whole.len() / 2] = 0xff;
        damages.push(("no UTF-8".into(), no_utf8));
        damages.push(("empty".into(), Vec::new()));
        damages.push(("zeros".into(), vec![0; whole.len()]));
        damages.push(("garbage".into(), (0..=255).cycle().take(5000).collect()));
        damages
    }

    #[test]
    fn a_damaged_file_neither_stops_the_start_nor_affects_another_file() {
        let tmp = tempfile::tempdir().unwrap();
        let entry = r#"{"sequence":1,"at":"2026-01-01T00:00:00Z","revision":"r","commit":null,"outcome":"applied",
            "summary":"Küche/温度","actions":[],"diff":"","durationUs":1}"#
            .replace('\n', "");
        let declared = r#"{"source":"directory /d","revision":"r","savedAt":"2026-01-01T00:00:00Z","declarations":
            {"format":"weir/last-known-good/v1","declarations":[]}}"#;
        let files = [("history.jsonl", format!("{entry}\n{entry}\n")), ("last-known-good.json", declared.to_owned())];
        let write = || files.iter().for_each(|(name, text)| fs::write(tmp.path().join(name), text).unwrap());
        let found = || {
            let found = open(Some(tmp.path()), "directory /d".into()).unwrap();
            (found.history.entries().len(), found.last_known_good.is_some())
        };
        write();
        assert_eq!(found(), (2, true));
        for (name, text) in &files {
            for (damage, bytes) in damages(text.as_bytes()) {
                write();
                fs::write(tmp.path().join(name), bytes).unwrap();
                let (history, last_known_good) = found();
                let is_history = *name == "history.jsonl";
                assert!(is_history || history == 2, "{name} {damage}");
                assert!(!is_history || last_known_good, "{name} {damage}");
                assert!(!damage.starts_with("cut") || history >= 1, "{name} {damage}");
            }
            write();
            fs::remove_file(tmp.path().join(name)).unwrap();
            fs::create_dir(tmp.path().join(name)).unwrap();
            found();
            fs::remove_dir(tmp.path().join(name)).unwrap();
        }
    }
}
