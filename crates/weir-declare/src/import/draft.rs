//! The result of an import: documents with comments, and the settings that were left out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::config::{
    CanonicalDocument, DocumentIdentity, Kind, LastGood, Name, NodeContext, Revision, Snapshot, SourceFile, load,
};

/// The result of an import.
#[derive(Debug, Default)]
pub struct Draft {
    documents: Vec<DraftDocument>,
    omissions: Vec<Omission>,
    /// How often each name was requested.
    names: BTreeMap<String, usize>,
}

/// A document, and the comments before it.
#[derive(Debug)]
pub(super) struct DraftDocument {
    kind: Kind,
    pub(super) fields: Map<String, Value>,
    notes: Vec<String>,
}

/// A setting that could not be imported.
#[derive(Debug)]
struct Omission {
    line: Option<usize>,
    what: String,
    why: String,
}

impl DraftDocument {
    /// A document with the name `name`.
    pub(super) fn new(kind: Kind, name: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("name".into(), name.into());
        Self { kind, fields, notes: Vec::new() }
    }

    /// The one document of a kind that has no name.
    pub(super) fn single(kind: Kind) -> Self {
        Self { kind, fields: Map::new(), notes: Vec::new() }
    }

    /// A document of Weir as it is; without a name, it gets `name`.
    pub(super) fn from_fields(kind: Kind, fields: Map<String, Value>, name: &str) -> Self {
        let mut document = if kind.is_single() { Self::single(kind) } else { Self::new(kind, name) };
        document.fields.extend(fields);
        document
    }

    /// Sets a field. `section.field` is a field of a mapping.
    pub(super) fn set(&mut self, path: &str, value: impl Into<Value>) {
        match path.split_once('.') {
            None => drop(self.fields.insert(path.to_owned(), value.into())),
            Some((section, field)) => {
                let section = self.fields.entry(section).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(fields) = section {
                    fields.insert(field.to_owned(), value.into());
                }
            }
        }
    }

    /// Adds a comment.
    pub(super) fn add_note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Adds a comment about a decision that the user has to make.
    pub(super) fn add_decision(&mut self, text: impl AsRef<str>) {
        self.notes.push(format!("decide: {}", text.as_ref()));
    }

    fn to_yaml(&self) -> String {
        let name = Name::parse(self.fields.get("name").and_then(Value::as_str).unwrap_or_default());
        let identity = match name {
            _ if self.kind.is_single() => DocumentIdentity::single(self.kind),
            Ok(name) => DocumentIdentity::new(self.kind, name),
            Err(_) => return String::new(),
        };
        let body = CanonicalDocument { identity, body: self.fields.clone() }.to_yaml();
        let notes: String = self.notes.iter().flat_map(|note| note.lines()).map(|line| format!("# {line}\n")).collect();
        body.replacen("---\n", &format!("---\n{notes}"), 1)
    }
}

impl Draft {
    /// Adds a document.
    pub(super) fn add(&mut self, document: DraftDocument) {
        self.documents.push(document);
    }

    /// `wanted`, with a number appended if the name is taken.
    pub(super) fn unique_name(&mut self, wanted: &str) -> String {
        let times = self.names.entry(wanted.to_owned()).and_modify(|times| *times += 1).or_insert(1);
        if *times == 1 { wanted.to_owned() } else { format!("{wanted}-{times}") }
    }

    /// Whether the draft has a document of this kind and name.
    pub(super) fn has(&self, kind: Kind, name: &str) -> bool {
        self.documents.iter().any(|document| document.kind == kind && document.fields.get("name") == Some(&name.into()))
    }

    /// Records a setting that could not be imported.
    pub(super) fn omit(&mut self, line: Option<usize>, what: impl Into<String>, why: impl Into<String>) {
        self.omissions.push(Omission { line, what: what.into(), why: why.into() });
    }

    /// The first endpoint that meets a condition.
    pub(super) fn endpoint_mut(&mut self, wanted: impl Fn(&DraftDocument) -> bool) -> Option<&mut DraftDocument> {
        self.documents.iter_mut().find(|document| document.kind == Kind::Endpoint && wanted(document))
    }

    /// Whether a setting could not be imported.
    pub(super) fn has_omissions(&self) -> bool {
        !self.omissions.is_empty()
    }

    /// Whether nothing was imported.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Removes and records what weir would refuse, such as a limit out of range. An endpoint that loses more than a limit
    /// may admit more clients than before, so it is disabled.
    pub(super) fn omit_invalid(&mut self) {
        let mut omissions = Vec::new();
        self.documents.retain_mut(|document| {
            // Each round removes a field, an item of a list, or the document.
            loop {
                let Some((path, problem)) = first_error(document) else { return true };
                let name =
                    document.fields.get("name").and_then(Value::as_str).unwrap_or(document.kind.key()).to_owned();
                let removed = remove_at(&mut document.fields, &path);
                let of = if removed.is_some() { path } else { format!("the whole {}", document.kind) };
                let Some(removed) = removed else {
                    omissions.push(Omission { line: None, what: format!("{name}: {of}"), why: problem });
                    return false;
                };
                if document.kind == Kind::Endpoint && !removed.is_number() {
                    document.fields.insert("enabled".into(), false.into());
                    document.add_decision(format!("enabled: false, because {of} could not be imported"));
                } else if removed.get("permission") == Some(&"deny".into()) {
                    document.add_decision(format!("a deny rule is missing here: {removed}"));
                }
                omissions.push(Omission { line: None, what: format!("{name}: {of}"), why: problem });
            }
        });
        self.omissions.append(&mut omissions);
    }

    /// The documents, with their comments.
    pub fn to_yaml(&self, from: &str) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let mut text = format!("# Imported by weir {version} from {from}.\n");
        if self.documents.iter().flat_map(|document| &document.notes).any(|note| note.starts_with("decide:")) {
            text.push_str("# Lines that begin with `# decide:` need a decision.\n");
        }
        text.extend(self.documents.iter().map(DraftDocument::to_yaml));
        text
    }

    /// The documents and the omissions as JSON.
    pub fn to_json(&self, from: &str) -> Value {
        let documents = self
            .documents
            .iter()
            .map(|document| json!({"kind": document.kind.key(), "fields": document.fields, "notes": document.notes}));
        let omissions =
            self.omissions.iter().map(|each| json!({"line": each.line, "what": each.what, "why": each.why}));
        json!({
            "from": from,
            "documents": documents.collect::<Vec<_>>(),
            "yaml": self.to_yaml(from),
            "notCarriedOver": omissions.collect::<Vec<_>>(),
        })
    }

    /// The settings that could not be imported, a line each; empty: there are none.
    pub fn omissions(&self, from: &str) -> String {
        if self.omissions.is_empty() {
            return String::new();
        }
        let mut text = format!("not carried over ({}):\n", self.omissions.len());
        for Omission { line, what, why } in &self.omissions {
            let place = line.map_or_else(|| from.to_owned(), |line| format!("{from}:{line}"));
            text.push_str(&format!("{place}: {what}: {why}\n"));
        }
        text
    }
}

/// Removes the field or item at `endpoint.sslConfig.caFile` or `acl.rules[3].topics[0]`.
fn remove_at(fields: &mut Map<String, Value>, path: &str) -> Option<Value> {
    let mut steps = path.split('.').skip(1);
    let (field, index) = match steps.next()?.split_once('[') {
        Some((field, index)) => (field, index.trim_end_matches(']').parse::<usize>().ok()),
        None => (path.split('.').nth(1)?, None),
    };
    match (fields.get_mut(field)?, index, steps.next()) {
        (Value::Array(items), Some(index), _) if index < items.len() => Some(items.remove(index)),
        (Value::Object(section), None, Some(inner)) if section.contains_key(inner) => section.shift_remove(inner),
        _ if field == "name" => None,
        _ => fields.shift_remove(field),
    }
}

/// The path and message of the first error of a document by itself.
fn first_error(document: &DraftDocument) -> Option<(String, String)> {
    let files = vec![SourceFile {
        free_ports: false,
        path: Arc::from("import.yaml"),
        shown: Arc::from("import.yaml"),
        base: Arc::from(Path::new("")),
        content: Ok(Arc::from(document.to_yaml().as_bytes())),
    }];
    let revision = Revision::Content { hash: String::new() };
    let snapshot = Snapshot { origin: Arc::from("import"), revision, files };
    let node = NodeContext { status_addr: None, ..NodeContext::default() };
    let loaded = load(&snapshot, &LastGood::default(), &node);
    // The documents that it refers to are not in this snapshot.
    let error = loaded.diagnostics.into_iter().find(|d| d.is_error() && d.code != "missing-reference")?;
    let help = error.help.map(|help| format!("; {help}")).unwrap_or_default();
    Some((error.path, format!("{}{help}", error.message)))
}
