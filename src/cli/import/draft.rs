//! Documents in the making, and what has no place in them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use weir_declare::config::{
    CanonicalDocument, Identity, Kind, LastGood, Name, NodeContext, Revision, Snapshot, SourceFile, load,
};

/// What an import comes to.
#[derive(Debug, Default)]
pub(super) struct Draft {
    documents: Vec<Document>,
    left: Vec<Left>,
    /// How often each name was wanted.
    names: BTreeMap<String, usize>,
}

/// A document, and the comments that stand before it.
#[derive(Debug)]
pub(super) struct Document {
    kind: Kind,
    pub(super) fields: Map<String, Value>,
    notes: Vec<String>,
}

/// What could not be carried over.
#[derive(Debug)]
struct Left {
    line: Option<usize>,
    what: String,
    why: String,
}

impl Document {
    /// A document called `name`.
    pub(super) fn new(kind: Kind, name: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("name".into(), name.into());
        Self { kind, fields, notes: Vec::new() }
    }

    /// Sets a field; `section.field` one within a mapping.
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

    /// Something worth knowing.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Something that wants a decision.
    pub(super) fn decide(&mut self, text: impl AsRef<str>) {
        self.notes.push(format!("decide: {}", text.as_ref()));
    }

    fn to_yaml(&self) -> String {
        let Ok(name) = Name::parse(self.fields.get("name").and_then(Value::as_str).unwrap_or_default()) else {
            return String::new();
        };
        let identity = Identity::new(self.kind, name);
        let body = CanonicalDocument { identity, body: self.fields.clone() }.to_yaml();
        let notes: String = self.notes.iter().flat_map(|note| note.lines()).map(|line| format!("# {line}\n")).collect();
        body.replacen("---\n", &format!("---\n{notes}"), 1)
    }
}

impl Draft {
    /// Adds a document.
    pub(super) fn add(&mut self, document: Document) {
        self.documents.push(document);
    }

    /// `wanted`, or with a number behind it where that is taken.
    pub(super) fn unique_name(&mut self, wanted: &str) -> String {
        let times = self.names.entry(wanted.to_owned()).and_modify(|times| *times += 1).or_insert(1);
        if *times == 1 { wanted.to_owned() } else { format!("{wanted}-{times}") }
    }

    /// Whether there is such a document.
    pub(super) fn has(&self, kind: Kind, name: &str) -> bool {
        self.documents.iter().any(|document| document.kind == kind && document.fields.get("name") == Some(&name.into()))
    }

    /// Lists what could not be carried over.
    pub(super) fn leave(&mut self, line: Option<usize>, what: impl Into<String>, why: impl Into<String>) {
        self.left.push(Left { line, what: what.into(), why: why.into() });
    }

    /// The first endpoint that fulfils a condition.
    pub(super) fn endpoint_mut(&mut self, wanted: impl Fn(&Document) -> bool) -> Option<&mut Document> {
        self.documents.iter_mut().find(|document| document.kind == Kind::Endpoint && wanted(document))
    }

    /// Whether nothing was carried over.
    pub(super) fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Takes out what weir would refuse, and lists it: a limit out of range, an address that is a name. An endpoint that
    /// loses more than a limit could be open wider than it was: it is left disabled.
    pub(super) fn leave_what_is_invalid(&mut self) {
        let mut left = Vec::new();
        self.documents.retain_mut(|document| {
            // Each round takes out a field, or an item of a list, or all.
            loop {
                let Some((path, problem)) = first_error(document) else { return true };
                let name = document.fields.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
                let taken = take(&mut document.fields, &path);
                let of = if taken.is_some() { path } else { format!("the whole {}", document.kind) };
                let Some(taken) = taken else {
                    left.push(Left { line: None, what: format!("{name}: {of}"), why: problem });
                    return false;
                };
                if document.kind == Kind::Endpoint && !taken.is_number() {
                    document.fields.insert("enabled".into(), false.into());
                    document.decide(format!("enabled: false, because {of} could not be carried over"));
                } else if taken.get("permission") == Some(&"deny".into()) {
                    document.decide(format!("a rule that denies is missing here: {taken}"));
                }
                left.push(Left { line: None, what: format!("{name}: {of}"), why: problem });
            }
        });
        self.left.append(&mut left);
    }

    /// The documents, with their comments.
    pub(super) fn to_yaml(&self, from: &str) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let mut text = format!("# Imported by weir {version} from {from}.\n");
        if self.documents.iter().flat_map(|document| &document.notes).any(|note| note.starts_with("decide:")) {
            text.push_str("# Lines that begin with `# decide:` want a decision.\n");
        }
        text.extend(self.documents.iter().map(Document::to_yaml));
        text
    }

    /// The same for a machine, with what could not be carried over.
    pub(super) fn to_json(&self, from: &str) -> Value {
        let documents = self
            .documents
            .iter()
            .map(|document| json!({"kind": document.kind.key(), "fields": document.fields, "notes": document.notes}));
        let left = self.left.iter().map(|left| json!({"line": left.line, "what": left.what, "why": left.why}));
        json!({
            "from": from,
            "documents": documents.collect::<Vec<_>>(),
            "yaml": self.to_yaml(from),
            "notCarriedOver": left.collect::<Vec<_>>(),
        })
    }

    /// What could not be carried over, a line each; empty where all was.
    pub(super) fn left(&self, from: &str) -> String {
        if self.left.is_empty() {
            return String::new();
        }
        let mut text = format!("not carried over ({}):\n", self.left.len());
        for Left { line, what, why } in &self.left {
            let place = line.map_or_else(|| from.to_owned(), |line| format!("{from}:{line}"));
            text.push_str(&format!("{place}: {what}: {why}\n"));
        }
        text
    }
}

/// Takes out what `endpoint.sslConfig.caFile` or `acl.rules[3].topics[0]` leads to: the field, or the list's item.
fn take(fields: &mut Map<String, Value>, path: &str) -> Option<Value> {
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

/// The first thing that is wrong with a document by itself.
fn first_error(document: &Document) -> Option<(String, String)> {
    let files = vec![SourceFile {
        path: Arc::from("import.yaml"),
        shown: Arc::from("import.yaml"),
        base: Arc::from(Path::new("")),
        content: Ok(Arc::from(document.to_yaml().as_bytes())),
    }];
    let revision = Revision::Content { hash: String::new() };
    let snapshot = Snapshot { origin: Arc::from("import"), revision, files };
    let node = NodeContext { status_addr: None, ..NodeContext::default() };
    let loaded = load(&snapshot, &LastGood::default(), &node);
    // What it refers to is not in the same snapshot.
    let error = loaded.diagnostics.into_iter().find(|d| d.is_error() && d.code != "missing-reference")?;
    let help = error.help.map(|help| format!("; {help}")).unwrap_or_default();
    Some((error.path, format!("{}{help}", error.message)))
}
