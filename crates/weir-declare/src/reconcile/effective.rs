//! An endpoint with the documents and files that it refers to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use crate::config;

use crate::config::{
    Acl, Auth, Authenticator, Ban, ChangeClass, Declared, Endpoint, FieldChange, FileRef, Kind, Name, Origin, SecretRef,
};

/// The digest of a file's content, or why the file cannot be read.
pub type FileDigest = Result<Arc<str>, Arc<str>>;

/// Referenced files by resolved path.
pub type FileDigests = BTreeMap<PathBuf, FileDigest>;

/// All ban documents. They apply to every endpoint.
pub type Bans = BTreeMap<Name, Arc<Ban>>;

/// An endpoint, and the documents and files that it refers to.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectiveEndpoint {
    /// The declaration.
    pub endpoint: Arc<Endpoint>,
    /// `None`: `enableAuth: false`, or no such document (then every CONNECT is refused).
    pub auth: Option<Arc<Auth>>,
    /// `None`: `enableAcl: false`, or no such document (then every topic is refused).
    pub acl: Option<Arc<Acl>>,
    /// The bans that apply.
    pub bans: Arc<Bans>,
    /// The files that it reads, as of the time of [`EffectiveEndpoint::resolve`].
    pub files: FileDigests,
}

/// The role of a file, which decides the effect of new content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileRole {
    /// The server's certificates and keys.
    DocumentIdentity,
    /// CA certificates and revocation lists.
    Trust,
    /// Credentials.
    Credentials,
}

impl FileRole {
    fn class(self) -> ChangeClass {
        match self {
            Self::DocumentIdentity => ChangeClass::NewConnections,
            Self::Trust | Self::Credentials => ChangeClass::Drain,
        }
    }
}

/// A file that an endpoint or its auth document refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReference {
    /// As written.
    pub written: Arc<str>,
    /// The file.
    pub path: PathBuf,
    /// What it is for.
    pub role: FileRole,
}

impl EffectiveEndpoint {
    /// Resolves the documents of `endpoint` in `declared`, and its files in `files`.
    pub fn resolve(endpoint: &Arc<Endpoint>, declared: &Declared, bans: &Arc<Bans>, files: &FileDigests) -> Self {
        let auth = endpoint.enable_auth.then(|| declared.auths.get(endpoint.auth_name()).cloned()).flatten();
        let acl = endpoint.enable_acl.then(|| declared.acls.get(endpoint.acl_name()).cloned()).flatten();
        let own = file_references(endpoint, auth.as_deref())
            .into_iter()
            .filter_map(|reference| files.get_key_value(&reference.path))
            .map(|(path, digest)| (path.clone(), digest.clone()))
            .collect();
        Self { endpoint: Arc::clone(endpoint), auth, acl, bans: Arc::clone(bans), files: own }
    }

    /// Every file it reads.
    pub fn file_references(&self) -> Vec<FileReference> {
        file_references(&self.endpoint, self.auth.as_deref())
    }

    /// The first file that cannot be read, and why.
    pub fn unreadable(&self) -> Option<(&PathBuf, &Arc<str>)> {
        self.files.iter().find_map(|(path, digest)| Some((path, digest.as_ref().err()?)))
    }

    /// The differences between `self` and `to`.
    pub fn changes(&self, to: &EffectiveEndpoint) -> Vec<FieldChange> {
        let mut found = Vec::new();
        if !Arc::ptr_eq(&self.endpoint, &to.endpoint) && self.endpoint != to.endpoint {
            found.extend(config::changes(&self.endpoint, &to.endpoint));
        }
        // If the endpoint names another document, that field is the change; the documents are not compared.
        let (auth, acl) = (self.endpoint.auth_name(), self.endpoint.acl_name());
        if auth == to.endpoint.auth_name() && !is_same(self.auth.as_ref(), to.auth.as_ref()) {
            let name = format!("auth {}", to.endpoint.auth_name());
            found.extend(document_changes(Kind::Auth, &name, self.auth.as_deref(), to.auth.as_deref()));
        }
        if acl == to.endpoint.acl_name() && !is_same(self.acl.as_ref(), to.acl.as_ref()) {
            let name = format!("acl {}", to.endpoint.acl_name());
            found.extend(document_changes(Kind::Acl, &name, self.acl.as_deref(), to.acl.as_deref()));
        }
        if !Arc::ptr_eq(&self.bans, &to.bans) {
            let names: BTreeSet<&Name> = self.bans.keys().chain(to.bans.keys()).collect();
            for name in names {
                let (from, to) = (self.bans.get(name).map(|ban| &**ban), to.bans.get(name).map(|ban| &**ban));
                found.extend(document_changes(Kind::Ban, &format!("ban {name}"), from, to));
            }
        }
        found.extend(self.file_changes(to));
        found
    }

    fn file_changes(&self, to: &EffectiveEndpoint) -> Vec<FieldChange> {
        let mut changes: Vec<FieldChange> = Vec::new();
        for reference in to.file_references() {
            let (from, to) = (self.files.get(&reference.path), to.files.get(&reference.path));
            // A new path is a change of the field that names it.
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
                    changes.push(FieldChange { path, old: from.map(short), new: Some(short(to)), class });
                }
            }
        }
        changes
    }
}

/// Whether two documents are equal. Pointers are compared first.
fn is_same<T: PartialEq>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
        (None, None) => true,
        _ => false,
    }
}

/// The differences of a referenced document: field by field, or the whole document where it was added or removed.
fn document_changes<T: serde::Serialize>(kind: Kind, name: &str, from: Option<&T>, to: Option<&T>) -> Vec<FieldChange> {
    let (Some(from), Some(to)) = (from, to) else {
        let whole = |document: Option<&T>| document.map(|document| Value::Object(config::fields_of(document)));
        let (old, new) = (whole(from), whole(to));
        if old == new {
            return Vec::new();
        }
        let class = if kind == Kind::Acl { ChangeClass::Live } else { ChangeClass::Drain };
        return vec![FieldChange { path: name.to_owned(), old, new, class }];
    };
    let mut found = config::field_changes(kind, &config::fields_of(from), &config::fields_of(to));
    for change in &mut found {
        change.path = format!("{name}: {}", change.path);
    }
    found
}

/// The files that an endpoint with this auth document reads.
pub fn file_references(endpoint: &Endpoint, auth: Option<&Auth>) -> Vec<FileReference> {
    let mut found = Vec::new();
    let mut note = |origin: &Origin, file: &FileRef, role| {
        found.push(FileReference { written: Arc::clone(&file.0), path: origin.resolve(file), role });
    };
    if let Some(ssl) = &endpoint.ssl_config {
        for file in [&ssl.cert_file, &ssl.key_file] {
            note(&endpoint.origin, file, FileRole::DocumentIdentity);
        }
        for file in ssl.sni.iter().flat_map(|sni| [&sni.cert_file, &sni.key_file]) {
            note(&endpoint.origin, file, FileRole::DocumentIdentity);
        }
        for file in [&ssl.ca_file, &ssl.crl_file].into_iter().flatten() {
            note(&endpoint.origin, file, FileRole::Trust);
        }
    }
    for (auth, authenticator) in auth.into_iter().flat_map(|auth| auth.chain.iter().map(move |each| (auth, each))) {
        credential_files(authenticator, &mut |file, role| note(&auth.origin, file, role));
    }
    found
}

fn credential_files(authenticator: &Authenticator, note: &mut dyn FnMut(&FileRef, FileRole)) {
    match authenticator {
        Authenticator::PasswordFile(authenticator) => note(&authenticator.file, FileRole::Credentials),
        Authenticator::Scram(authenticator) => note(&authenticator.file, FileRole::Credentials),
        Authenticator::Jwt(authenticator) => {
            for file in [&authenticator.key_file, &authenticator.jwks_file].into_iter().flatten() {
                note(file, FileRole::Credentials);
            }
        }
        Authenticator::Http(authenticator) => {
            if let Some(file) = &authenticator.ca_file {
                note(file, FileRole::DocumentIdentity);
            }
            for secret in authenticator.secrets() {
                if let SecretRef::File(file) = secret {
                    note(file, FileRole::DocumentIdentity);
                }
            }
        }
        Authenticator::ClientCertificate(_) | Authenticator::Custom(_) | Authenticator::Anonymous(_) => {}
    }
}
