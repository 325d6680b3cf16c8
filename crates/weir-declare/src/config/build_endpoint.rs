//! Builds endpoints from their documents and `defaults`, and warns about fields without effect.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::document::Document;
use super::path::InstancePath;
use super::{ClientAuth, Defaults, Diagnostic, Endpoint, Host, Listen, Name, Origin, Severity, SslConfig};

/// Why fields do not make a declaration.
#[derive(Debug, thiserror::Error)]
pub enum DeclarationError {
    /// A field has another shape than its type.
    #[error(transparent)]
    Fields(#[from] serde_json::Error),
    /// A Unix socket has no port.
    #[error("a Unix socket has no port; remove `port`")]
    UnixPort,
    /// A TCP endpoint needs a port.
    #[error("`port` is missing")]
    PortMissing,
}

/// Builds the endpoint of `fields` and `defaults`. A field of the document replaces the whole field of `defaults`.
///
/// # Errors
/// A field has a wrong value, or `host` and `port` do not fit together.
pub(super) fn with_defaults(
    fields: &Map<String, Value>,
    defaults: Option<&Defaults>,
    name: &Name,
    origin: &Origin,
) -> Result<Endpoint, DeclarationError> {
    let mut merged = fields.clone();
    for (field, value) in defaults.iter().flat_map(|defaults| &defaults.endpoint) {
        if !merged.contains_key(field) {
            merged.insert(field.clone(), value.clone());
        }
    }
    from_fields(merged, name, origin)
}

/// Builds the endpoint of a complete set of fields.
///
/// # Errors
/// As [`with_defaults`].
pub(super) fn from_fields(
    fields: Map<String, Value>,
    name: &Name,
    origin: &Origin,
) -> Result<Endpoint, DeclarationError> {
    let mut endpoint: Endpoint = serde_json::from_value(Value::Object(fields))?;
    endpoint.listen = match (&endpoint.host, endpoint.port) {
        (Some(Host::Unix(path)), None) => Listen::Unix { path: Arc::clone(path) },
        (Some(Host::Unix(_)), Some(_)) => return Err(DeclarationError::UnixPort),
        (Some(Host::Ip(ip)), Some(port)) => Listen::Tcp { host: Some(*ip), port },
        (None, Some(port)) => Listen::Tcp { host: None, port },
        (_, None) => return Err(DeclarationError::PortMissing),
    };
    endpoint.name = name.clone();
    endpoint.origin = origin.clone();
    Ok(endpoint)
}

/// Warnings about fields of `endpoint` that have no effect beside its other fields.
pub(super) fn warnings(document: &Document, endpoint: &Endpoint) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut warn = |fields: &[&str], message: &str, help: &str| {
        let mut path = InstancePath::from_keys(&["endpoint"]);
        for field in fields {
            path = path.key(field);
        }
        let mut diagnostic = document.diagnostic(Severity::Warning, "no-effect", &path, message);
        diagnostic.help = Some(help.to_owned());
        found.push(diagnostic);
    };
    if endpoint.enable_bridge && endpoint.bridges.is_empty() {
        warn(&["enableBridge"], "`enableBridge` has no effect: `bridges` names none", "add `bridges: [name]`");
    }
    if !endpoint.enable_bridge && !endpoint.bridges.is_empty() {
        warn(&["bridges"], "`bridges` has no effect without `enableBridge`", "add `enableBridge: true`");
    }
    if !endpoint.enable_auth && endpoint.auth.is_some() {
        warn(&["auth"], "`auth` has no effect: `enableAuth` is false", "remove one of them");
    }
    if !endpoint.enable_acl && endpoint.acl.is_some() {
        warn(&["acl"], "`acl` has no effect: `enableAcl` is false", "remove one of them");
    }
    if !endpoint.use_websocket && !endpoint.websocket.origins.is_empty() {
        warn(&["websocket"], "`websocket` has no effect without `useWebsocket`", "add `useWebsocket: true`");
    }
    let unasked = |tls: &SslConfig| tls.client_auth == ClientAuth::None && tls.ca_file.is_some();
    if endpoint.ssl_config.as_ref().is_some_and(unasked) {
        let help = "add `clientAuth: required`, or `optional`";
        warn(&["sslConfig", "caFile"], "`caFile` has no effect: clients are not asked for certificates", help);
    }
    let is_unix = matches!(endpoint.listen, Listen::Unix { .. });
    if !is_unix && endpoint.server_options.unix_mode.is_some() {
        let help = "remove it, or listen on `host: unix:/path`";
        warn(&["serverOptions", "unixMode"], "`unixMode` has no effect: the endpoint listens on TCP", help);
    }
    if is_unix && endpoint.proxy_protocol.is_some() {
        let help = "remove it, or listen on TCP";
        warn(&["proxyProtocol"], "`proxyProtocol` has no effect: a Unix socket's peers have no address", help);
    }
    found
}
