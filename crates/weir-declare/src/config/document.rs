//! Documents of known kinds, as parsed.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::path::InstancePath;
use super::yaml::SourceNode;
use super::{Acl, Auth, Ban, Bridge, Defaults, Diagnostic, Identity, Origin, Reconcile, Severity};

/// What a file's bytes say. Depends on nothing else, and is kept while they stay the same.
#[derive(Debug)]
pub(super) struct ParsedFile {
    pub(super) documents: Vec<Arc<Document>>,
    /// What is wrong with the file as a whole: it is not known what it declares.
    pub(super) problems: Vec<Diagnostic>,
    /// A document is there whose identity is not known.
    pub(super) has_unknown: bool,
}

/// A document of a known kind.
#[derive(Debug)]
pub(super) struct Document {
    /// `None` where it has no valid name.
    pub(super) identity: Option<Identity>,
    pub(super) origin: Origin,
    /// The whole document's.
    pub(super) node: SourceNode,
    /// `Err` where it has errors.
    pub(super) body: Result<Body, Vec<Diagnostic>>,
    /// Worth saying, though it is valid.
    pub(super) warnings: Vec<Diagnostic>,
}

/// What a valid document declares.
#[derive(Debug, Clone)]
pub(super) enum Body {
    /// As written; an endpoint is complete only with `defaults`.
    Endpoint(Map<String, Value>),
    Auth(Arc<Auth>),
    Acl(Arc<Acl>),
    Bridge(Arc<Bridge>),
    Ban(Arc<Ban>),
    Defaults(Arc<Defaults>),
    Reconcile(Arc<Reconcile>),
}

impl Document {
    /// A finding about it.
    pub(super) fn diagnostic(
        &self,
        severity: Severity,
        code: &'static str,
        path: &InstancePath,
        message: impl Into<String>,
    ) -> Diagnostic {
        debug_assert!(super::meaning(code).is_some(), "{code} is not among the codes");
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
