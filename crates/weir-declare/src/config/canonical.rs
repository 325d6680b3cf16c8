//! The canonical form of declarations. It does not depend on the order of keys, comments, files, or on whether defaults
//! are written out.

use std::fmt::Write as _;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::item::{Item, all_fields, all_items};
use super::json_cache::JsonCache;
use super::schema::{deref, field_schema, kind_schema};
use super::{Declared, DocumentIdentity};

/// Whether the canonical form includes fields that have their default value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltInDefaults {
    /// Fields with the built-in default are absent.
    LeftOut,
    /// Every field is there.
    WrittenOut,
}

/// A declaration as data: `{name: ..., port: ...}`, with the fields in the schema's order.
#[derive(Debug, Clone, PartialEq)]
pub struct CanonicalDocument {
    /// The document's kind and name.
    pub identity: DocumentIdentity,
    /// Its fields, in the order of the schema.
    pub body: Map<String, Value>,
}

/// All declarations by kind and name, without `defaults`, which is applied already.
pub fn canonical(declared: &Declared, defaults: BuiltInDefaults) -> Vec<CanonicalDocument> {
    all_items(declared).filter_map(|(identity, item)| canonical_document(identity, &item, defaults)).collect()
}

/// The canonical document of an item. `None`: a document without a name whose settings are all defaults.
pub(super) fn canonical_document(
    identity: DocumentIdentity,
    item: &Item,
    defaults: BuiltInDefaults,
) -> Option<CanonicalDocument> {
    let mut body = all_fields(item);
    if defaults == BuiltInDefaults::LeftOut {
        body = without_defaults(body, kind_schema(identity.kind));
        if identity.kind.is_single() && body.is_empty() {
            return None;
        }
    }
    Some(CanonicalDocument { identity, body })
}

impl CanonicalDocument {
    /// The document as YAML, after a line `---`.
    pub fn to_yaml(&self) -> String {
        document_yaml(self.identity.kind.key(), &self.body)
    }
}

/// A document of a kind as YAML, after a line `---`.
pub fn document_yaml(kind: &str, fields: &Map<String, Value>) -> String {
    let mut text = format!("---\n{kind}:");
    write_map(&mut text, fields, 2);
    text
}

/// All documents as one YAML stream.
pub fn canonical_yaml(documents: &[CanonicalDocument]) -> String {
    documents.iter().map(CanonicalDocument::to_yaml).collect()
}

/// The digest of a declaration, with a version prefix. Equal declarations have equal digests on every node. Fields with
/// their default value, and values that the node fills in, are not part of it.
pub fn declaration_digest(declared: &Declared) -> String {
    DeclarationDigest::default().compute(declared)
}

/// Computes the [`declaration_digest`] of one declaration after another. Unchanged documents are not serialized again.
#[derive(Debug, Default)]
pub struct DeclarationDigest {
    cache: JsonCache,
}

impl DeclarationDigest {
    /// The digest of `declared`.
    pub fn compute(&mut self, declared: &Declared) -> String {
        let mut hash = Sha256::new();
        hash.update(b"weir declaration v1\n");
        for line in self.cache.texts_of(all_items(declared), digest_line) {
            hash.update(&**line);
        }
        let mut digest = "v1-".to_owned();
        for byte in hash.finalize() {
            let _infallible = write!(digest, "{byte:02x}");
        }
        digest
    }
}

/// The text of a document for the digest; empty for a document without a name whose settings are all defaults.
fn digest_line(identity: &DocumentIdentity, item: &Item) -> String {
    let fields = without_defaults(all_fields(item), kind_schema(identity.kind));
    if identity.kind.is_single() && fields.is_empty() {
        return String::new();
    }
    let mut body = Value::Object(fields);
    body.sort_all_objects();
    format!("{}:{body}\n", identity.kind)
}

fn without_defaults(fields: Map<String, Value>, parent: &'static Value) -> Map<String, Value> {
    let mut kept = Map::new();
    for (field, value) in fields {
        let Some(rule) = field_schema(parent, &field) else {
            kept.insert(field, value);
            continue;
        };
        let value = value_without_defaults(value, rule);
        if rule.get("default") != Some(&value) {
            kept.insert(field, value);
        }
    }
    kept
}

fn value_without_defaults(value: Value, rule: &'static Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(without_defaults(fields, rule)),
        Value::Array(items) => {
            let item_rule = rule.get("items").map_or(&Value::Null, deref);
            Value::Array(items.into_iter().map(|item| value_without_defaults(item, item_rule)).collect())
        }
        other => other,
    }
}

/// Writes a value after `key:`.
fn write_value(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) => write_map(text, fields, indent),
        Value::Array(items) if items.is_empty() => text.push_str(" []\n"),
        Value::Array(items) => {
            text.push('\n');
            for item in items {
                text.extend(std::iter::repeat_n(' ', indent));
                text.push('-');
                write_item(text, item, indent + 2);
            }
        }
        scalar => {
            text.push(' ');
            write_scalar(text, scalar);
            text.push('\n');
        }
    }
}

fn write_map(text: &mut String, fields: &Map<String, Value>, indent: usize) {
    if fields.is_empty() {
        text.push_str(" {}\n");
        return;
    }
    text.push('\n');
    for (key, value) in fields {
        text.extend(std::iter::repeat_n(' ', indent));
        write_string(text, key);
        text.push(':');
        write_value(text, value, indent + 2);
    }
}

/// Writes an item after `-`. A mapping's first field is on the same line.
fn write_item(text: &mut String, item: &Value, indent: usize) {
    match item {
        Value::Object(fields) if !fields.is_empty() => {
            for (at, (key, value)) in fields.iter().enumerate() {
                if at == 0 {
                    text.push(' ');
                } else {
                    text.extend(std::iter::repeat_n(' ', indent));
                }
                write_string(text, key);
                text.push(':');
                write_value(text, value, indent + 2);
            }
        }
        other => write_value(text, other, indent),
    }
}

fn write_scalar(text: &mut String, scalar: &Value) {
    match scalar {
        Value::String(string) => write_string(text, string),
        other => {
            let _infallible = write!(text, "{other}");
        }
    }
}

/// Writes a string plain where every YAML 1.1 and 1.2 parser reads this text, otherwise in double quotes.
fn write_string(text: &mut String, string: &str) {
    const OTHER_MEANING: [&str; 10] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan"];
    let plain = string.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && string.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | '@' | '+'))
        && !OTHER_MEANING.contains(&string.to_ascii_lowercase().as_str());
    if plain {
        text.push_str(string);
        return;
    }
    text.push('"');
    for c in string.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _infallible = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}
