//! Unified diffs of canonical texts.

use std::collections::BTreeMap;
use std::time::Duration;

use similar::{Algorithm, TextDiff};

use super::canonical::canonical_document;
use super::item::{Item, all_items};
use super::{BuiltInDefaults, CanonicalDocument, Declared, DocumentIdentity};

/// Time limit for a diff of hostile texts. Real ones take microseconds.
const DEADLINE: Duration = Duration::from_secs(2);
/// Unchanged lines around a change.
const CONTEXT_LINES: usize = 3;

/// The unified diff of two texts; empty: they are equal.
pub fn unified_diff(old: &str, new: &str, old_name: &str, new_name: &str) -> String {
    if old == new {
        return String::new();
    }
    TextDiff::configure()
        .algorithm(Algorithm::Myers)
        .timeout(DEADLINE)
        .diff_lines(old, new)
        .unified_diff()
        .context_radius(CONTEXT_LINES)
        .header(old_name, new_name)
        .to_string()
}

/// The unified diff of two sets of documents, document by document like git's files. Empty: they are equal.
pub fn diff_documents(old: &[CanonicalDocument], new: &[CanonicalDocument]) -> String {
    let mut pairs: BTreeMap<&DocumentIdentity, (Option<&CanonicalDocument>, Option<&CanonicalDocument>)> =
        BTreeMap::new();
    for document in old {
        pairs.entry(&document.identity).or_default().0 = Some(document);
    }
    for document in new {
        pairs.entry(&document.identity).or_default().1 = Some(document);
    }
    pairs.into_values().map(|(old, new)| diff_document(old, new)).collect()
}

/// The unified diff of two declarations, document by document. Documents that share one allocation are skipped.
pub fn diff_declared(old: &Declared, new: &Declared) -> String {
    if std::ptr::eq(old, new) {
        return String::new();
    }
    let mut before: BTreeMap<DocumentIdentity, Item> = all_items(old).collect();
    let mut after: BTreeMap<DocumentIdentity, Item> = all_items(new).collect();
    after.retain(|identity, item| {
        let same = before.get(identity).is_some_and(|known| known.is_same(item));
        if same {
            before.remove(identity);
        }
        !same
    });
    let documents = |of: BTreeMap<DocumentIdentity, Item>| -> Vec<CanonicalDocument> {
        of.into_iter()
            .filter_map(|(identity, item)| canonical_document(identity, &item, BuiltInDefaults::LeftOut))
            .collect()
    };
    diff_documents(&documents(before), &documents(after))
}

/// The unified diff of one document; `None`: it does not exist on that side.
pub fn diff_document(old: Option<&CanonicalDocument>, new: Option<&CanonicalDocument>) -> String {
    let name = |side: &str, document: Option<&CanonicalDocument>| match document {
        None => "/dev/null".to_owned(),
        Some(document) if document.identity.kind.is_single() => format!("{side}/{}", document.identity.kind),
        Some(document) => format!("{side}/{}/{}", document.identity.kind, document.identity.name),
    };
    let text = |document: Option<&CanonicalDocument>| document.map(CanonicalDocument::to_yaml).unwrap_or_default();
    unified_diff(&text(old), &text(new), &name("a", old), &name("b", new))
}
