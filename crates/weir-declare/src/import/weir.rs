//! Weir's own documents: the JSON and YAML of `/api/endpoints/export`, and what `weir render` prints.

use std::path::Path;

use serde_json::{Map, Value};

use super::ImportError;
use super::draft::{Draft, DraftDocument};
use crate::config::{Kind, parse_documents};

/// Whether `text` is what `weir store export` writes: records of sessions and messages, not documents.
fn is_store_export(text: &str) -> bool {
    text.starts_with("{\"weirStore\"")
}

/// Whether `text` has documents of Weir. FluxMQ's `endpoint:` without a name is not taken for one.
pub(super) fn is_weir(text: &str) -> bool {
    if is_store_export(text) {
        return true;
    }
    let Ok(documents) = parse_documents(text) else { return false };
    let is_version = |value: &Value| value.get("apiVersion").and_then(Value::as_str).is_some_and(is_weir_version);
    match documents.as_slice() {
        [] => false,
        [one] => match exported(one) {
            Some((export, _)) => is_version(export),
            None => {
                let named = |(kind, body): (Kind, &Map<String, Value>)| {
                    kind != Kind::Endpoint && kind != Kind::Acl && kind != Kind::Auth || body.contains_key("name")
                };
                one.as_object().is_some_and(|fields| fields.len() == 1) && kind_and_body(one).is_some_and(named)
                    || is_version(one)
            }
        },
        several => several.iter().all(|document| kind_and_body(document).is_some()),
    }
}

fn is_weir_version(version: &str) -> bool {
    version.starts_with("weir/")
}

/// The export in an answer of the status API, with or without its envelope, and its documents.
fn exported(value: &Value) -> Option<(&Value, &Vec<Value>)> {
    let export = value.get("data").unwrap_or(value);
    Some((export, export.get("documents")?.as_array()?))
}

fn kind_and_body(document: &Value) -> Option<(Kind, &Map<String, Value>)> {
    let fields = document.as_object()?;
    let mut kinds = fields.iter().filter(|(key, _)| *key != "apiVersion");
    match (kinds.next(), kinds.next()) {
        (Some((key, body)), None) => Some((Kind::from_key(key)?, body.as_object()?)),
        _ => None,
    }
}

/// Imports documents as they are. One without a name gets the file's.
///
/// # Errors
/// `text` is neither JSON nor YAML, has no documents, or is an export of a store.
pub(super) fn import(file: &Path, text: &str) -> Result<Draft, ImportError> {
    if is_store_export(text) {
        return Err(ImportError::StoreExport);
    }
    let documents = parse_documents(text)?;
    let documents = match documents.as_slice() {
        [one] => exported(one).map_or(documents.as_slice(), |(_, documents)| documents.as_slice()),
        several => several,
    };
    let mut draft = Draft::default();
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    for (index, document) in documents.iter().enumerate() {
        match kind_and_body(document) {
            Some((kind, body)) => {
                let mut document = DraftDocument::from_fields(kind, body.clone(), &stem);
                let mut paths = Vec::new();
                masked(kind.key(), &Value::Object(body.clone()), &mut paths);
                for path in paths {
                    document.add_decision(format!("{path}: write the value; a broker's export shows secrets as ***"));
                }
                draft.add(document);
            }
            None => {
                let keys: Vec<&String> = document.as_object().into_iter().flat_map(Map::keys).collect();
                draft.omit(None, format!("document {}: {keys:?}", index + 1), "not a document of Weir");
            }
        }
    }
    if draft.is_empty() && !draft.has_omissions() { Err(ImportError::NoDocument) } else { Ok(draft) }
}

/// The paths of values that are masked.
fn masked(path: &str, value: &Value, paths: &mut Vec<String>) {
    match value {
        Value::String(text) if text.contains("***") => paths.push(path.to_owned()),
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| masked(&format!("{path}.{key}"), value, paths));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| masked(&format!("{path}[{index}]"), value, paths));
        }
        _ => {}
    }
}
