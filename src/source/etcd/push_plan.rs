//! Plans a push: from the files of a directory and the content of the prefix to the writes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::marker::{content_hash, documents_digest};
use weir_declare::config::SourceFile;

/// Operations and comparisons that etcd accepts in one transaction by default (`--max-txn-ops`).
pub(super) const OPERATIONS_MAX: usize = 128;
/// Bytes of one transaction's values; etcd's bound on a whole request is 1.5 MiB.
pub(super) const BATCH_BYTES_MAX: usize = 1 << 20;

/// Documents to be pushed, or present, by key.
pub type Documents = BTreeMap<String, Arc<[u8]>>;

/// One document to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Below `endpoints/`.
    pub key: String,
    pub bytes: Arc<[u8]>,
    /// No document exists under this key yet.
    pub is_new: bool,
}

/// The writes of a push.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushPlan {
    pub puts: Vec<Pushed>,
    pub deletes: Vec<String>,
    /// There, not in the directory, and not pruned.
    pub left: Vec<String>,
    pub unchanged: usize,
    /// The digest and the number of the documents after the push.
    pub digest: String,
    pub documents: usize,
}

/// An operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    Put(String, Arc<[u8]>),
    Delete(String),
}

impl PushPlan {
    /// Whether the documents are already as pushed.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }

    /// The writes, in as few batches as etcd's limits allow.
    pub(super) fn batches(&self, operations_max: usize, bytes_max: usize) -> Vec<Vec<Operation>> {
        let deletes = self.deletes.iter().map(|key| Operation::Delete(key.clone()));
        let puts = self.puts.iter().map(|put| Operation::Put(put.key.clone(), Arc::clone(&put.bytes)));
        let mut batches: Vec<Vec<Operation>> = Vec::new();
        let mut bytes = 0;
        for operation in deletes.chain(puts) {
            let size = operation.bytes();
            match batches.last_mut().filter(|batch| batch.len() < operations_max && bytes + size <= bytes_max) {
                Some(batch) => batch.push(operation),
                None => {
                    bytes = 0;
                    batches.push(vec![operation]);
                }
            }
            bytes += size;
        }
        batches
    }
}

impl Operation {
    fn bytes(&self) -> usize {
        match self {
            Self::Put(key, value) => key.len() + value.len(),
            Self::Delete(key) => key.len(),
        }
    }
}

/// Files that could not be read, as shown, each with the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct UnreadableFiles(pub Vec<String>);

/// The keys that a directory's files are pushed under: their paths without extension, as documents are called; with it,
/// where two files would share one.
///
/// # Errors
/// See [`UnreadableFiles`].
pub fn documents_of(files: &[SourceFile]) -> Result<Documents, UnreadableFiles> {
    let mut unreadable = Vec::new();
    let mut stems: BTreeMap<&str, usize> = BTreeMap::new();
    for file in files {
        *stems.entry(stem(&file.path)).or_default() += 1;
        if let Err(error) = &file.content {
            unreadable.push(format!("{}: {}", file.shown, error.message));
        }
    }
    if !unreadable.is_empty() {
        return Err(UnreadableFiles(unreadable));
    }
    let documents = files.iter().filter_map(|file| {
        let stem = stem(&file.path);
        let key = if stems.get(stem) == Some(&1) { stem } else { &file.path };
        Some((key.to_owned(), Arc::clone(file.content.as_ref().ok()?)))
    });
    Ok(documents.collect())
}

fn stem(path: &str) -> &str {
    [".yaml", ".yml", ".json"].iter().find_map(|extension| path.strip_suffix(extension)).unwrap_or(path)
}

/// Plans the writes that lead to `wanted`. With `prune`, other documents are deleted; a key that differs from a wanted
/// one only in its extension is the same document and is replaced.
pub fn plan_push(wanted: &Documents, present: &Documents, prune: bool) -> PushPlan {
    let mut plan = PushPlan::default();
    for (key, bytes) in wanted {
        match present.get(key) {
            Some(there) if there == bytes => plan.unchanged += 1,
            there => {
                plan.puts.push(Pushed { key: key.clone(), bytes: Arc::clone(bytes), is_new: there.is_none() });
            }
        }
    }
    let stems: BTreeSet<&str> = wanted.keys().map(|key| stem(key)).collect();
    for key in present.keys().filter(|key| !wanted.contains_key(*key)) {
        if prune || stems.contains(stem(key)) {
            plan.deletes.push(key.clone());
        } else {
            plan.left.push(key.clone());
        }
    }
    let after = result(wanted, present, &plan.left);
    plan.documents = after.len();
    let hashes: Vec<(&str, [u8; 32])> = after.iter().map(|(key, bytes)| (key.as_str(), content_hash(bytes))).collect();
    plan.digest = documents_digest(hashes.iter().map(|(key, hash)| (*key, hash)));
    plan
}

fn result(wanted: &Documents, present: &Documents, left: &[String]) -> Documents {
    let mut after = wanted.clone();
    after.extend(left.iter().filter_map(|key| Some((key.clone(), Arc::clone(present.get(key)?)))));
    after
}

/// The documents after a plan was executed.
pub fn after_push(wanted: &Documents, present: &Documents, plan: &PushPlan) -> Documents {
    result(wanted, present, &plan.left)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use weir_declare::config::ReadError;

    fn documents(pairs: &[(&str, &str)]) -> Documents {
        pairs.iter().map(|(key, text)| ((*key).to_owned(), Arc::from(text.as_bytes()))).collect()
    }

    fn file(path: &str, content: Result<&str, &str>) -> SourceFile {
        SourceFile {
            free_ports: false,
            path: Arc::from(path),
            shown: Arc::from(format!("d/{path}")),
            base: Arc::from(Path::new("d")),
            content: content
                .map(|text| Arc::from(text.as_bytes()))
                .map_err(|message| ReadError { message: message.to_owned() }),
        }
    }

    #[test]
    fn keys_are_names_unless_two_files_share_one() {
        let files =
            [file("a.yaml", Ok("1")), file("eu/b.yml", Ok("2")), file("c.json", Ok("3")), file("c.yaml", Ok("4"))];
        let keys: Vec<String> = documents_of(&files).unwrap().into_keys().collect();
        assert_eq!(keys, ["a", "c.json", "c.yaml", "eu/b"]);
        let problems = documents_of(&[file("a.yaml", Err("permission denied"))]).unwrap_err();
        assert_eq!(problems.0, ["d/a.yaml: permission denied"]);
    }

    #[test]
    fn only_differences_are_written_and_others_are_deleted_with_prune_only() {
        let wanted = documents(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let present = documents(&[("a", "1"), ("b", "0"), ("c.yaml", "3"), ("z", "9")]);
        let plan = plan_push(&wanted, &present, false);
        let puts: Vec<(&str, bool)> = plan.puts.iter().map(|put| (put.key.as_str(), put.is_new)).collect();
        assert_eq!(puts, [("b", false), ("c", true)]);
        assert_eq!(plan.deletes, ["c.yaml"], "the same document under another key");
        assert_eq!((plan.left.as_slice(), plan.unchanged, plan.documents), (&["z".to_owned()][..], 1, 4));
        let pruned = plan_push(&wanted, &present, true);
        assert_eq!((pruned.deletes.as_slice(), pruned.documents), (&["c.yaml".to_owned(), "z".to_owned()][..], 3));
        assert_ne!(plan.digest, pruned.digest);
        assert!(plan_push(&wanted, &wanted, true).is_empty());
        assert_eq!(
            plan_push(&wanted, &wanted, true).digest,
            pruned.digest,
            "the digest is of what is there afterwards"
        );
    }

    #[test]
    fn batches_respect_both_limits_and_are_complete() {
        let many: Vec<(String, String)> = (0..10).map(|i| (format!("k{i}"), "x".repeat(i * 10))).collect();
        let wanted: Documents = many.iter().map(|(k, v)| (k.clone(), Arc::from(v.as_bytes()))).collect();
        let plan = plan_push(&wanted, &documents(&[("old", "1")]), true);
        for (operations_max, bytes_max) in [(1, 1000), (3, 1000), (100, 100), (100, 1), (100, 100_000)] {
            let batches = plan.batches(operations_max, bytes_max);
            assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 11);
            for batch in &batches {
                let bytes: usize = batch.iter().map(Operation::bytes).sum();
                assert!(batch.len() <= operations_max && (bytes <= bytes_max || batch.len() == 1));
            }
        }
        assert_eq!(plan.batches(100, 100_000).len(), 1);
    }
}
