//! An endpoint with everything that it refers to: what its listener really runs by.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::change::{Change, ChangeClass, differences, endpoint_changes};
use crate::config::{Acl, Auth, Authenticator, Ban, Declared, Endpoint, FileRef, HeaderValue, Name, Origin, SecretRef};

/// What a referenced file holds: a digest of its content, or why it cannot be read.
pub type FileDigest = Result<Arc<str>, Arc<str>>;

/// Referenced files by their resolved path.
pub type Files = BTreeMap<PathBuf, FileDigest>;

/// All ban documents; they hold on every endpoint.
pub type Bans = BTreeMap<Name, Arc<Ban>>;

/// An endpoint, and what it refers to.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    pub endpoint: Arc<Endpoint>,
    /// `None`: `enableAuth: false`, or no such document (then every CONNECT is refused).
    pub auth: Option<Arc<Auth>>,
    /// `None`: `enableAcl: false`, or no such document (then every topic is refused).
    pub acl: Option<Arc<Acl>>,
    pub bans: Arc<Bans>,
    /// What it reads, as it was when this was made.
    pub files: Files,
}

/// What a file is to an endpoint, and so what a new content of it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileRole {
    /// Certificates and keys that the server shows.
    Identity,
    /// Who is trusted: CA certificates, revocation lists.
    Trust,
    /// Credentials.
    Credentials,
}

impl FileRole {
    fn class(self) -> ChangeClass {
        match self {
            Self::Identity => ChangeClass::NewConnections,
            Self::Trust | Self::Credentials => ChangeClass::Drain,
        }
    }
}

/// A file that an endpoint or its auth document refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// As written.
    pub written: Arc<str>,
    pub path: PathBuf,
    pub role: FileRole,
}

impl Effective {
    /// `endpoint` with its documents of `declared`. Its files are taken from `files`.
    pub fn of(endpoint: &Arc<Endpoint>, declared: &Declared, bans: &Arc<Bans>, files: &Files) -> Self {
        let auth = endpoint.enable_auth.then(|| declared.auths.get(endpoint.auth_name()).cloned()).flatten();
        let acl = endpoint.enable_acl.then(|| declared.acls.get(endpoint.acl_name()).cloned()).flatten();
        let own = references(endpoint, auth.as_deref())
            .into_iter()
            .filter_map(|reference| files.get_key_value(&reference.path))
            .map(|(path, digest)| (path.clone(), digest.clone()))
            .collect();
        Self { endpoint: Arc::clone(endpoint), auth, acl, bans: Arc::clone(bans), files: own }
    }

    /// Every file it reads.
    pub fn references(&self) -> Vec<Reference> {
        references(&self.endpoint, self.auth.as_deref())
    }

    /// The first of its files that cannot be read, and why.
    pub fn unreadable(&self) -> Option<(&PathBuf, &Arc<str>)> {
        self.files.iter().find_map(|(path, digest)| Some((path, digest.as_ref().err()?)))
    }

    /// How `to` differs.
    pub fn changes(&self, to: &Effective) -> Vec<Change> {
        let mut changes = Vec::new();
        if !Arc::ptr_eq(&self.endpoint, &to.endpoint) && self.endpoint != to.endpoint {
            changes.extend(endpoint_changes(&self.endpoint, &to.endpoint));
        }
        if self.auth != to.auth {
            let (path, class) = (format!("auth {}", to.endpoint.auth_name()), ChangeClass::Drain);
            let (from, to) = (document(self.auth.as_deref()), document(to.auth.as_deref()));
            changes.extend(document_changes(&path, &from, &to, class));
        }
        if self.acl != to.acl {
            let (path, class) = (format!("acl {}", to.endpoint.acl_name()), ChangeClass::Live);
            let (from, to) = (document(self.acl.as_deref()), document(to.acl.as_deref()));
            changes.extend(document_changes(&path, &from, &to, class));
        }
        if !Arc::ptr_eq(&self.bans, &to.bans) {
            for name in self.bans.keys().chain(to.bans.keys().filter(|name| !self.bans.contains_key(*name))) {
                let of = |bans: &Bans| document(bans.get(name).map(|ban| &**ban));
                let (from, to) = (of(&self.bans), of(&to.bans));
                changes.extend(document_changes(&format!("ban {name}"), &from, &to, ChangeClass::Drain));
            }
        }
        changes.extend(self.file_changes(to));
        changes
    }

    fn file_changes(&self, to: &Effective) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        for reference in to.references() {
            let (from, to) = (self.files.get(&reference.path), to.files.get(&reference.path));
            // A path that is new to the endpoint is a change of the field that names it.
            let (Some(from), Some(Ok(to))) = (from, to) else { continue };
            let from = from.as_ref().ok();
            if from == Some(to) {
                continue;
            }
            let path = format!("file {}", reference.written);
            let class = reference.role.class();
            match changes.iter_mut().find(|change| change.path == path) {
                Some(known) => known.class = known.class.max(class),
                None => {
                    let short = |digest: &Arc<str>| Value::from(digest.get(..12).unwrap_or(digest));
                    changes.push(Change { path, from: from.map(short), to: Some(short(to)), class });
                }
            }
        }
        changes
    }
}

fn document<T: serde::Serialize>(document: Option<&T>) -> Value {
    document.and_then(|document| serde_json::to_value(document).ok()).unwrap_or(Value::Null)
}

fn document_changes(name: &str, from: &Value, to: &Value, class: ChangeClass) -> Vec<Change> {
    let mut changes = Vec::new();
    differences("", from, to, &mut |path, from, to| {
        let class = match path {
            "description" | "name" => ChangeClass::Cosmetic,
            _ if path.starts_with("rateLimit") || path.starts_with("flapping") => ChangeClass::Live,
            _ => class,
        };
        let path = if path.is_empty() { name.to_owned() } else { format!("{name}: {path}") };
        changes.push(Change { path, from: from.cloned(), to: to.cloned(), class });
    });
    changes
}

/// Every file that an endpoint with this auth document reads.
pub fn references(endpoint: &Endpoint, auth: Option<&Auth>) -> Vec<Reference> {
    let mut found = Vec::new();
    let mut note = |origin: &Origin, file: &FileRef, role| {
        found.push(Reference { written: Arc::clone(&file.0), path: origin.resolve(file), role });
    };
    if let Some(ssl) = &endpoint.ssl_config {
        for file in [&ssl.cert_file, &ssl.key_file] {
            note(&endpoint.origin, file, FileRole::Identity);
        }
        for file in ssl.sni.iter().flat_map(|sni| [&sni.cert_file, &sni.key_file]) {
            note(&endpoint.origin, file, FileRole::Identity);
        }
        for file in [&ssl.ca_file, &ssl.crl_file].into_iter().flatten() {
            note(&endpoint.origin, file, FileRole::Trust);
        }
    }
    for (auth, link) in auth.into_iter().flat_map(|auth| auth.chain.iter().map(move |link| (auth, link))) {
        credential_files(link, &mut |file, role| note(&auth.origin, file, role));
    }
    found
}

fn credential_files(link: &Authenticator, note: &mut dyn FnMut(&FileRef, FileRole)) {
    match link {
        Authenticator::PasswordFile(link) => note(&link.file, FileRole::Credentials),
        Authenticator::Scram(link) => note(&link.file, FileRole::Credentials),
        Authenticator::Jwt(link) => {
            for file in [&link.key_file, &link.jwks_file].into_iter().flatten() {
                note(file, FileRole::Credentials);
            }
        }
        Authenticator::Http(link) => {
            if let Some(file) = &link.ca_file {
                note(file, FileRole::Identity);
            }
            for value in link.headers.values() {
                if let HeaderValue::Secret(SecretRef::File(file)) = value {
                    note(file, FileRole::Identity);
                }
            }
        }
        Authenticator::ClientCertificate(_) | Authenticator::Anonymous(_) => {}
    }
}
