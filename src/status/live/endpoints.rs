//! Endpoints and documents of the published control state.

use serde_json::{Map, Value};

use crate::state::{ControlState, EndpointState};
use crate::status::{DocumentView, EndpointView, OriginView};
use weir_declare::config::{
    self, BuiltInDefaults, Declared, Diagnostic, NodeContext, canonical, fields_of, mask_value,
};

pub(super) fn endpoint(
    name: &str,
    state: &EndpointState,
    control: &ControlState,
    context: &NodeContext,
) -> EndpointView {
    let effective = state.live.as_ref().or(state.declared.as_ref());
    EndpointView {
        name: name.to_owned(),
        address: effective.map(|each| each.listen.bind_address(context.default_host).to_string()).unwrap_or_default(),
        origin: match &state.declared {
            Some(declared) => origin(&declared.origin),
            None if state.origin.is_empty() => complained_of(name, &control.diagnostics),
            None => written_origin(&state.origin),
        },
        declared: state.declared.as_deref().map(body),
        live: state.live.as_deref().map(body),
        conditions: state.conditions.clone(),
        pending: state.pending.clone(),
        certificate_expires_at: state.certificate_expires_at,
    }
}

/// The endpoint's fields without its name, which stands beside them.
fn body(endpoint: &config::Endpoint) -> Value {
    Value::Object(nameless(fields_of(endpoint)))
}

fn nameless(mut fields: Map<String, Value>) -> Map<String, Value> {
    fields.shift_remove("name");
    fields
}

fn origin(origin: &config::Origin) -> OriginView {
    OriginView { file: origin.file.to_string(), line: origin.position.line }
}

/// A document that was never good stands where its first diagnostic is.
fn complained_of(name: &str, diagnostics: &[Diagnostic]) -> OriginView {
    let about = |found: &&Diagnostic| {
        let identity = found.identity.as_ref();
        identity.is_some_and(|each| each.kind == config::Kind::Endpoint && each.name.as_str() == name)
    };
    let found = diagnostics.iter().find(about);
    found.map_or_else(OriginView::default, |found| OriginView {
        file: found.file.to_string(),
        line: found.position.line,
    })
}

/// `path:line`
pub(super) fn written_origin(text: &str) -> OriginView {
    let parsed = text.rsplit_once(':').and_then(|(file, line)| Some((file, line.parse().ok()?)));
    let (file, line) = parsed.unwrap_or((text, 1));
    OriginView { file: file.to_owned(), line }
}

pub(super) fn documents(declared: &Declared) -> Vec<DocumentView> {
    let mut documents: Vec<DocumentView> = canonical(declared, BuiltInDefaults::LeftOut)
        .into_iter()
        .map(|document| {
            let name = document.identity.name.as_str();
            let found = match document.identity.kind {
                config::Kind::Endpoint => declared.endpoints.get(name).map(|each| origin(&each.origin)),
                config::Kind::Auth => declared.auths.get(name).map(|each| origin(&each.origin)),
                config::Kind::Acl => declared.acls.get(name).map(|each| origin(&each.origin)),
                config::Kind::Bridge => declared.bridges.get(name).map(|each| origin(&each.origin)),
                config::Kind::Ban => declared.bans.get(name).map(|each| origin(&each.origin)),
                config::Kind::Events => declared.events.as_ref().map(|each| origin(&each.origin)),
                config::Kind::Cluster => declared.cluster.as_ref().map(|each| origin(&each.origin)),
                config::Kind::Reconcile | config::Kind::Defaults => None,
            };
            let single = document.identity.kind.is_single();
            DocumentView {
                kind: document.identity.kind.key(),
                name: (!single).then(|| name.to_owned()),
                origin: found.unwrap_or_default(),
                body: Value::Object(nameless(document.body)),
            }
        })
        .collect();
    if let Some(defaults) = &declared.defaults {
        let body = Map::from_iter([("endpoint".to_owned(), Value::Object(defaults.endpoint.clone()))]);
        let kind = config::Kind::Defaults.key();
        documents.push(DocumentView { kind, name: None, origin: origin(&defaults.origin), body: Value::Object(body) });
    }
    for document in &mut documents {
        mask_value(&mut document.body);
    }
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_parsed() {
        let parsed = |text| written_origin(text);
        assert_eq!(parsed("a/b.yaml:12"), OriginView { file: "a/b.yaml".to_owned(), line: 12 });
        assert_eq!(parsed("C:odd"), OriginView { file: "C:odd".to_owned(), line: 1 });
    }
}
