//! Judges documents that a caller sends, by the one validator, without reading anything but them. Pure.

use std::path::Path;
use std::sync::Arc;

use super::{ValidateRequest, Validation};
use weir_declare::config::{
    BuiltInDefaults, CanonicalDocument, Declared, Diagnostic, Kind, LastGood, Name, NodeContext, Revision, Snapshot,
    SourceFile, canonical, declaration_digest, load,
};

/// The file name of the request in diagnostics.
const SENT: &str = "request";

/// Judges `request`; an endpoint as if it were added to `declared`, or took the place of the one of its name or port.
pub(super) fn validate(request: &ValidateRequest, declared: &Declared, node: &NodeContext) -> Validation {
    match request {
        ValidateRequest::Set(text) => {
            let loaded = load(&snapshot(vec![sent(SENT, text)]), &LastGood::default(), node);
            let valid = loaded.is_valid();
            let declaration_digest = valid.then(|| declaration_digest(&loaded.declared));
            Validation { valid, diagnostics: loaded.diagnostics, declaration_digest }
        }
        ValidateRequest::Endpoint(text) => validate_upsert(text, declared, node),
    }
}

fn validate_upsert(text: &str, declared: &Declared, node: &NodeContext) -> Validation {
    let wrapped = is_wrapped(text);
    let document = if wrapped { text.to_owned() } else { wrap(text) };
    // Loaded alone first, to find its name and address.
    let alone = load(&snapshot(vec![sent(SENT, &document)]), &LastGood::default(), node);
    let replaced = alone.declared.endpoints.values().next().and_then(|endpoint| {
        let same_port = || declared.endpoints.values().find(|other| other.listen == endpoint.listen);
        declared.endpoints.get(&endpoint.name).or_else(same_port).map(|other| other.name.clone())
    });
    let called = replaced.as_ref().map_or(SENT, Name::as_str);
    let others: Vec<SourceFile> = canonical(declared, BuiltInDefaults::LeftOut)
        .into_iter()
        .filter(|other| other.identity.kind != Kind::Endpoint || Some(&other.identity.name) != replaced.as_ref())
        .map(|other| declared_file(&other))
        .collect();
    let before = load(&snapshot(others.clone()), &LastGood::default(), node);
    let with = others.into_iter().chain([sent(called, &document)]).collect();
    let after = load(&snapshot(with), &before.last_good, node);
    let news = after.diagnostics.into_iter().filter(|found| !before.diagnostics.contains(found));
    let diagnostics: Vec<Diagnostic> = news.map(|found| if wrapped { found } else { unwrapped(found) }).collect();
    Validation { valid: !diagnostics.iter().any(Diagnostic::is_error), diagnostics, declaration_digest: None }
}

/// Whether the text has the document's kind at its top, as against the fields of an endpoint.
fn is_wrapped(text: &str) -> bool {
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(json) => Kind::ALL.iter().any(|kind| json.get(kind.key()).is_some()),
        Err(_) => text.lines().any(|line| {
            let kind = line.split_once(':').and_then(|(key, _)| Kind::from_key(key.trim_end()));
            kind.is_some() || line.starts_with("---")
        }),
    }
}

/// Two columns in, one line down: [`unwrapped`] takes it back.
fn wrap(text: &str) -> String {
    let mut wrapped = "endpoint:\n".to_owned();
    for line in text.lines() {
        wrapped.push_str("  ");
        wrapped.push_str(line);
        wrapped.push('\n');
    }
    wrapped
}

fn unwrapped(mut found: Diagnostic) -> Diagnostic {
    if &*found.file == SENT {
        found.position.line = found.position.line.saturating_sub(1).max(1);
        found.position.col = found.position.col.saturating_sub(2).max(1);
    }
    found
}

fn snapshot(files: Vec<SourceFile>) -> Snapshot {
    Snapshot { origin: SENT.into(), revision: Revision::Content { hash: String::new() }, files }
}

/// The request as a file, with a path that gives an unnamed endpoint the name `called`.
fn sent(called: &str, text: &str) -> SourceFile {
    file(&format!("{called}.yaml"), SENT, text)
}

fn declared_file(document: &CanonicalDocument) -> SourceFile {
    // A path that no file of the request can have.
    let path = format!("declared/{}/{}.yaml", document.identity.kind, document.identity.name);
    file(&path, &document.identity.to_string(), &document.to_yaml())
}

fn file(path: &str, shown: &str, text: &str) -> SourceFile {
    SourceFile {
        free_ports: false,
        path: path.into(),
        shown: shown.into(),
        base: Arc::from(Path::new("")),
        content: Ok(Arc::from(text.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared() -> Declared {
        let text = "endpoint: {name: mqtt, port: 1883}\n---\nendpoint: {name: ws, port: 8083, useWebsocket: true}\n---\n\
            auth: {chain: [anonymous: {}], name: default}\n---\nacl: {name: default, noMatch: allow, rules: []}\n";
        let loaded = load(&snapshot(vec![sent("all", text)]), &LastGood::default(), &NodeContext::default());
        assert!(loaded.is_valid(), "{:?}", loaded.diagnostics);
        loaded.declared
    }

    fn shown(request: &ValidateRequest) -> String {
        let validation = validate(request, &declared(), &NodeContext::default());
        let mut shown = format!("{}", validation.valid);
        for found in &validation.diagnostics {
            shown.push_str(&format!(
                " | {}:{}:{} {}",
                found.file, found.position.line, found.position.col, found.message
            ));
        }
        shown
    }

    #[test]
    fn an_endpoint_is_validated_bare_or_wrapped_as_json_or_yaml() {
        for text in [
            "{\"port\": 1999, \"enableAuth\": true}",
            "{\"endpoint\": {\"port\": 1999}}",
            "port: 1999\nuseWebsocket: true\n",
            "endpoint:\n  port: 1999\n",
            "{\n\t\"port\": 1999\n}",
        ] {
            assert_eq!(shown(&ValidateRequest::Endpoint(text.to_owned())), "true", "{text}");
        }
    }

    #[test]
    fn an_endpoint_of_a_declared_name_or_port_replaces_it() {
        for text in ["port: 1883\nmessageMaxSize: 2048", "name: mqtt\nport: 1999", "name: ws\nport: 8083"] {
            assert_eq!(shown(&ValidateRequest::Endpoint(text.to_owned())), "true", "{text}");
        }
        let clash = shown(&ValidateRequest::Endpoint("name: mqtt\nport: 8083".to_owned()));
        assert!(clash.starts_with("false | "), "{clash}");
    }

    #[test]
    fn positions_are_those_of_the_request() {
        let bare = shown(&ValidateRequest::Endpoint("port: 1999\nprot: 1".to_owned()));
        assert!(bare.starts_with("false | request:2:1 "), "{bare}");
        let wrapped = shown(&ValidateRequest::Endpoint("endpoint:\n  prot: 1".to_owned()));
        assert!(wrapped.contains("request:2:3 "), "{wrapped}");
    }

    #[test]
    fn a_set_is_validated_by_itself() {
        let set = |text: &str| validate(&ValidateRequest::Set(text.to_owned()), &declared(), &NodeContext::default());
        let good = set("endpoint: {port: 1883, enableAuth: false, enableAcl: false}");
        assert!(good.valid && good.declaration_digest.is_some(), "{good:?}");
        let bad = set("[");
        assert!(!bad.valid && bad.declaration_digest.is_none());
    }
}
