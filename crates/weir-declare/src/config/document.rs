//! Documents of known kinds, as parsed.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::path::InstancePath;
use super::yaml::SourceNode;
use super::{
    Acl, Auth, Ban, Bridge, ClusterSpec, Defaults, Diagnostic, DocumentIdentity, EventTopics, Origin, Reconcile,
    Severity,
};

/// The documents of a file. Depends on the bytes alone, so it is cached while these stay the same.
#[derive(Debug)]
pub(super) struct ParsedFile {
    pub(super) documents: Vec<Arc<Document>>,
    /// Errors of the whole file: its declarations are unknown.
    pub(super) problems: Vec<Diagnostic>,
    /// Whether a document has no known identity.
    pub(super) has_unknown: bool,
}

/// A document of a known kind.
#[derive(Debug)]
pub(super) struct Document {
    /// `None`: it has no valid name.
    pub(super) identity: Option<DocumentIdentity>,
    pub(super) origin: Origin,
    /// The positions in the document.
    pub(super) node: SourceNode,
    /// `Err`: the document is invalid.
    pub(super) body: Result<Body, Vec<Diagnostic>>,
    pub(super) warnings: Vec<Diagnostic>,
}

/// The declaration of a valid document.
#[derive(Debug, Clone)]
pub(super) enum Body {
    /// As written: an endpoint is complete only with `defaults`.
    Endpoint(Map<String, Value>),
    Auth(Arc<Auth>),
    Acl(Arc<Acl>),
    Bridge(Arc<Bridge>),
    Ban(Arc<Ban>),
    Defaults(Arc<Defaults>),
    Reconcile(Arc<Reconcile>),
    Events(Arc<EventTopics>),
    Cluster(Arc<ClusterSpec>),
}

/// A document, and the line at which it, or a field of it, is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DocumentPlace {
    /// The document's kind and name.
    pub identity: DocumentIdentity,
    /// As messages show it.
    pub file: Arc<str>,
    /// The line on which it begins.
    pub line: u32,
}

impl DocumentPlace {
    /// The document: `defaults`, `auth default`.
    pub fn document(&self) -> String {
        let DocumentIdentity { kind, name } = &self.identity;
        if kind.is_single() { kind.to_string() } else { format!("{kind} {name}") }
    }
}

impl Document {
    /// The place of the field at `path` below `parent`, both with `.` between keys; of the nearest value around it where the field is
    /// not written.
    pub(super) fn place(&self, identity: DocumentIdentity, parent: &str, path: &str) -> DocumentPlace {
        let keys: Vec<&str> = parent.split('.').chain(path.split('.')).collect();
        let line = InstancePath::from_keys(&keys).key_position_in(&self.node).line;
        DocumentPlace { identity, file: Arc::clone(&self.origin.file), line }
    }

    /// A diagnostic about this document.
    pub(super) fn diagnostic(
        &self,
        severity: Severity,
        code: &'static str,
        path: &InstancePath,
        message: impl Into<String>,
    ) -> Diagnostic {
        debug_assert!(super::meaning(code).is_some(), "{code} is not in CODES");
        Diagnostic {
            severity,
            code,
            file: Arc::clone(&self.origin.file),
            position: path.position_in(&self.node),
            path: path.to_string(),
            message: message.into(),
            help: None,
            related: Vec::new(),
            identity: self.identity.clone(),
        }
    }
}
