//! Parses files: the documents of a file, their identities and their errors.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::document::{Body, Document, ParsedFile};
use super::path::InstancePath;
use super::suggest::did_you_mean;
use super::yaml::{self, Children, MappingEntry, ParsedDocument};
use super::{
    Acl, Auth, Ban, Bridge, ClusterSpec, Defaults, Diagnostic, DocumentIdentity, EventTopics, Kind, Name, Origin,
    Position, Reconcile, Severity,
};
use super::{SourceFile, schema_check, semantics};

/// Parses the documents of a file.
pub(super) fn parse_file(file: &SourceFile, bytes: &[u8]) -> ParsedFile {
    let at_file = |at: Position, code: &'static str, message: String, help: Option<String>| Diagnostic {
        severity: Severity::Error,
        code,
        file: Arc::clone(&file.shown),
        position: at,
        path: String::new(),
        message,
        help,
        related: Vec::new(),
        identity: None,
    };
    let parsed = match yaml::parse(bytes) {
        Ok(parsed) => parsed,
        Err(problems) => {
            let problems = problems.into_iter().map(|p| at_file(p.at, p.code, p.message, p.help)).collect();
            return ParsedFile { documents: Vec::new(), problems, has_unknown: true };
        }
    };
    let mut result = ParsedFile { documents: Vec::new(), problems: Vec::new(), has_unknown: false };
    let mut named_by_file = BTreeSet::new();
    for document in parsed.into_iter().flat_map(documents_of_export) {
        match kind_of(&document) {
            Ok(kind) => {
                let document = read_document(file, kind, document, &mut named_by_file);
                result.has_unknown |= document.identity.is_none();
                result.documents.push(Arc::new(document));
            }
            Err((at, message, help)) => {
                result.problems.push(at_file(at, "document-kind", message, help));
                result.has_unknown = true;
            }
        }
    }
    result
}

/// The documents in a broker's export: `{"apiVersion": "weir/v1", "documents": [...]}`, with or without the envelope of its
/// answer. Any other document is itself.
fn documents_of_export(document: ParsedDocument) -> Vec<ParsedDocument> {
    let found = ["/data", ""].iter().find_map(|envelope| {
        let version = document.value.pointer(&format!("{envelope}/apiVersion"))?.as_str()?;
        let values = document.value.pointer(&format!("{envelope}/documents"))?.as_array()?;
        let export = if envelope.is_empty() { &document.node } else { &document.node.entry("data")?.node };
        let list = &export.entry("documents")?.node;
        let parsed = values
            .iter()
            .enumerate()
            .map(|(index, value)| Some(ParsedDocument { value: value.clone(), node: list.item(index)?.clone() }));
        version.starts_with("weir/").then(|| parsed.collect::<Option<Vec<_>>>())?
    });
    found.unwrap_or_else(|| vec![document])
}

/// The position, message and help of an error about a document's top-level keys.
type KindError = (Position, String, Option<String>);

/// The kind of a document; or the position, message and help of an error about its top-level keys.
fn kind_of(document: &ParsedDocument) -> Result<Kind, KindError> {
    let kinds = Kind::ALL.map(|kind| format!("`{kind}`")).join(", ");
    let Children::Map(entries) = &document.node.children else {
        let message = "a document must be a mapping with one of the keys ".to_owned() + &kinds;
        let help =
            document.value.as_str().filter(|text| text.contains(':')).map(|_| "put a space after the colon".into());
        return Err((document.node.at, message, help));
    };
    if let Some(problem) = kubernetes_form(document, entries) {
        return Err(problem);
    }
    let mut found = entries.iter().filter_map(|entry| Kind::from_key(&entry.key).map(|kind| (kind, entry.key_at)));
    match (found.next(), found.next()) {
        (Some((kind, _)), None) => Ok(kind),
        (Some((first, _)), Some((second, at))) => {
            let message = format!("a document has one top-level key; this one has `{first}` and `{second}`");
            Err((at, message, Some("put a line `---` between them".into())))
        }
        (None, _) => {
            let at = entries.first().map_or(document.node.at, |entry| entry.key_at);
            let keys: Vec<&str> = entries.iter().map(|entry| &*entry.key).collect();
            let near = keys.iter().find_map(|key| did_you_mean(key, Kind::ALL.map(Kind::key)).map(|kind| (*key, kind)));
            let help = if let Some((key, kind)) = near {
                Some(format!("did you mean `{kind}` instead of `{key}`?"))
            } else if keys.iter().any(|key| *key == "port" || *key == "sslConfig") {
                Some("indent the fields below `endpoint:`".to_owned())
            } else {
                None
            };
            let given = entries.first().map(|entry| format!("; `{}` is not one of them", entry.key.escape_debug()));
            Err((at, format!("a document needs one of the keys {kinds}{}", given.unwrap_or_default()), help))
        }
    }
}

/// The error of a document in the form of Kubernetes: `apiVersion`, `kind`, `metadata`, `spec`.
fn kubernetes_form(document: &ParsedDocument, entries: &[MappingEntry]) -> Option<KindError> {
    let entry = |key: &str| entries.iter().find(|entry| &*entry.key == key);
    let at = entry("spec").or_else(|| entry("metadata")).and(entry("kind"))?.key_at;
    let text = |pointer: &str| document.value.pointer(pointer).and_then(Value::as_str);
    let kind = text("/kind").and_then(|word| {
        let mut kinds = Kind::ALL.into_iter();
        kinds.find(|kind| word.to_ascii_lowercase().ends_with(kind.key()))
    });
    let message =
        "the document has Kubernetes' form (`kind`, `metadata`, `spec`); Weir's has one key, the kind, with the \
                   fields below it"
            .to_owned();
    let kind = kind.map_or("endpoint", Kind::key);
    let name = text("/metadata/name").filter(|name| Name::parse(name).is_ok()).unwrap_or("NAME");
    let fields = document.value.get("spec").and_then(Value::as_object).into_iter().flatten();
    let fields: Vec<String> =
        fields.take(3).map(|(key, value)| format!("{}: {}", key.escape_debug(), short(value))).collect();
    let fields = if fields.is_empty() { "port: 1883".to_owned() } else { fields.join(", ") };
    Some((at, message, Some(format!("write `{kind}: {{name: {name}, {fields}}}`, and `apiVersion: weir/v1` or none"))))
}

/// A value for an example; what would be long is left out.
fn short(value: &Value) -> String {
    match value {
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        Value::String(text) if text.len() < 30 && !text.contains(['\n', '`']) => value.to_string(),
        _ => "...".to_owned(),
    }
}

/// The document as the schema checks it: with any port in place of 0, where that is allowed.
fn as_checked<'a>(file: &SourceFile, value: &'a Value) -> Cow<'a, Value> {
    let mut value = Cow::Borrowed(value);
    if file.free_ports && value.pointer("/endpoint/port").and_then(Value::as_u64) == Some(0) {
        value.to_mut()["endpoint"]["port"] = 1.into();
    }
    value
}

fn read_document(
    file: &SourceFile,
    kind: Kind,
    parsed: ParsedDocument,
    named_by_file: &mut BTreeSet<Kind>,
) -> Document {
    let ParsedDocument { mut value, node } = parsed;
    let findings = schema_check::check(&as_checked(file, &value));
    let key_at = node.entry(kind.key()).map_or(node.at, |entry| entry.key_at);
    let origin = Origin { file: Arc::clone(&file.shown), position: key_at, base: Arc::clone(&file.base) };
    let body = value.get_mut(kind.key()).map(Value::take).unwrap_or_default();
    let mut document = Document { identity: None, origin, node, body: Err(Vec::new()), warnings: Vec::new() };
    let name = identity_of(file, kind, &body, named_by_file);
    document.identity = name.as_ref().ok().cloned();
    let mut errors: Vec<Diagnostic> = findings
        .into_iter()
        .map(|finding| {
            let mut diagnostic = document.diagnostic(Severity::Error, finding.code, &finding.path, finding.message);
            if finding.at_key {
                diagnostic.position = finding.path.key_position_in(&document.node);
            }
            diagnostic.help = finding.help;
            diagnostic
        })
        .collect();
    // The schema's findings include a given name that is wrong.
    if let Err(Some((message, help))) = name {
        let path = InstancePath::from_keys(&[kind.key()]);
        let mut diagnostic = document.diagnostic(Severity::Error, "name", &path, message);
        diagnostic.help = Some(help);
        errors.push(diagnostic);
    }
    match (errors.is_empty(), document.identity.clone()) {
        (true, Some(identity)) => match deserialize_body(kind, body, &identity.name, &document.origin) {
            Ok(body) => {
                document.warnings = semantics::check_document(&document, &body);
                let (errors, warnings) = document.warnings.drain(..).partition(Diagnostic::is_error);
                document.warnings = warnings;
                document.body = if Vec::is_empty(&errors) { Ok(body) } else { Err(errors) };
            }
            Err(error) => {
                // The schema accepts what the types do not: a bug in weir. The document is refused all the same.
                let path = InstancePath::from_keys(&[kind.key()]);
                errors.push(document.diagnostic(Severity::Error, "not-understood", &path, error.to_string()));
                document.body = Err(errors);
            }
        },
        _ => document.body = Err(errors),
    }
    document
}

/// The document's identity. `Err(None)`: the given name is wrong, which the schema reports.
fn identity_of(
    file: &SourceFile,
    kind: Kind,
    body: &Value,
    named_by_file: &mut BTreeSet<Kind>,
) -> Result<DocumentIdentity, Option<(String, String)>> {
    if kind.is_single() {
        return Ok(DocumentIdentity::single(kind));
    }
    if let Some(written) = body.get("name") {
        let name = written.as_str().and_then(|name| Name::parse(name).ok()).ok_or(None)?;
        return Ok(DocumentIdentity::new(kind, name));
    }
    let stem = stem(&file.path);
    if !named_by_file.insert(kind) {
        let message =
            format!("a further {kind} in this file needs a name; the first one has the file's name, `{stem}`");
        return Err(Some((message, "add `name: ...`".into())));
    }
    let name = Name::parse(stem).map_err(|problem| {
        Some((
            format!("the file's name is not a valid name for the {kind}: {problem}"),
            "rename the file, or add `name: ...`".into(),
        ))
    })?;
    Ok(DocumentIdentity::new(kind, name))
}

/// A path without its extension.
pub(super) fn stem(path: &str) -> &str {
    [".yaml", ".yml", ".json"].iter().find_map(|extension| path.strip_suffix(extension)).unwrap_or(path)
}

fn deserialize_body(kind: Kind, body: Value, name: &Name, origin: &Origin) -> Result<Body, serde_json::Error> {
    fn parse<T: serde::de::DeserializeOwned>(
        body: Value,
        finish: impl FnOnce(&mut T),
    ) -> Result<Arc<T>, serde_json::Error> {
        let mut parsed: T = serde_json::from_value(body)?;
        finish(&mut parsed);
        Ok(Arc::new(parsed))
    }
    let origin = origin.clone();
    let name = name.clone();
    Ok(match kind {
        Kind::Endpoint => Body::Endpoint(serde_json::from_value(body)?),
        Kind::Auth => Body::Auth(parse(body, |auth: &mut Auth| (auth.name, auth.origin) = (name, origin))?),
        Kind::Acl => Body::Acl(parse(body, |acl: &mut Acl| (acl.name, acl.origin) = (name, origin))?),
        Kind::Bridge => Body::Bridge(parse(body, |bridge: &mut Bridge| (bridge.name, bridge.origin) = (name, origin))?),
        Kind::Ban => Body::Ban(parse(body, |ban: &mut Ban| (ban.name, ban.origin) = (name, origin))?),
        Kind::Reconcile => Body::Reconcile(parse(body, |reconcile: &mut Reconcile| reconcile.origin = origin)?),
        Kind::Events => Body::Events(parse(body, |events: &mut EventTopics| events.origin = origin)?),
        Kind::Cluster => Body::Cluster(parse(body, |cluster: &mut ClusterSpec| cluster.origin = origin)?),
        Kind::Defaults => {
            let mut fields: Map<String, Value> = serde_json::from_value(body)?;
            let endpoint = fields.remove("endpoint").map(serde_json::from_value).transpose()?.unwrap_or_default();
            Body::Defaults(Arc::new(Defaults { origin, endpoint }))
        }
    })
}
