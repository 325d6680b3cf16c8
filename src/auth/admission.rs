//! Auth and ban documents to what a listener asks: the one door between declarations and authentication.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hyper::header::{HeaderMap, HeaderName};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::anonymous::AnonymousLink;
use super::certificate_link::CertificateLink;
use super::chain::{Chain, Link};
use super::digest::version_of;
use super::guard::{Guard, Memory};
use super::http::{HttpLink, Service, parse_url};
use super::jwt::{JwtLink, KeySet, jwt_terms};
use super::password::{PasswordFile, PasswordLink};
use super::scram::{ScramFile, ScramLink};
use super::{Anonymous, Authenticate, Bans, Credentials, Decision, Refusal};
use weir_broker::Principal;
use weir_declare::config::{
    Auth, Authenticator, Ban, FileRef, HeaderValue, HttpHook, Jwt, JwtAlgorithm, Name, SecretRef,
};

/// Reads a referenced file as of this pass: its content, or one line that names it and says why not.
pub type ReadFile<'a> = dyn Fn(&Path) -> Result<Arc<[u8]>, String> + 'a;

/// Compiles declarations, and remembers what must outlive a change of them: recent failures, frequent clients. One for
/// the node.
#[derive(Default)]
pub struct Admission {
    memory: Arc<Memory>,
    /// Chains in force: endpoints that name the same auth document share one, a large password file is held once.
    chains: Mutex<BTreeMap<Name, Compiled>>,
}

struct Compiled {
    auth: Arc<Auth>,
    contents: Contents,
    chain: Weak<Chain>,
}

type Contents = BTreeMap<PathBuf, Arc<[u8]>>;

impl Admission {
    /// What an endpoint's connections are asked for: `enable_auth` as declared, `auth` the document it names (`None`:
    /// there is no such document, and nobody may come in), and `bans`.
    ///
    /// # Errors
    /// Why the declaration cannot take effect: one line per finding, with file and line, and no secret. What is in force
    /// is to stay; where nothing is, nothing may be opened.
    pub fn authenticate(
        &self,
        enable_auth: bool,
        auth: Option<&Arc<Auth>>,
        bans: &BTreeMap<Name, Arc<Ban>>,
        read: &ReadFile<'_>,
    ) -> Result<Arc<dyn Authenticate>, String> {
        let (inner, failures): (Arc<dyn Authenticate>, _) = match (enable_auth, auth) {
            (false, _) => (Arc::new(Anonymous::new()), None),
            (true, None) => (Arc::new(RefuseAll), None),
            (true, Some(auth)) => (self.chain(auth, read)?, Some(auth.rate_limit.clone())),
        };
        let bans = Bans::new(bans.values().cloned());
        Ok(Arc::new(Guard { memory: Arc::clone(&self.memory), bans, failures, inner }))
    }

    #[cfg(test)]
    pub(super) fn chains_in_force(&self) -> usize {
        let chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        chains.values().filter(|known| known.chain.strong_count() > 0).count()
    }

    fn chain(&self, auth: &Arc<Auth>, read: &ReadFile<'_>) -> Result<Arc<Chain>, String> {
        let mut contents = Contents::new();
        for path in files(auth) {
            let content = read(&path)?;
            contents.insert(path, content);
        }
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        chains.retain(|_, known| known.chain.strong_count() > 0);
        let known = chains.get(&auth.name).filter(|known| known.auth == *auth && known.contents == contents);
        if let Some(chain) = known.and_then(|known| known.chain.upgrade()) {
            return Ok(chain);
        }
        let chain = Arc::new(compile(auth, &contents)?);
        let compiled = Compiled { auth: Arc::clone(auth), contents, chain: Arc::downgrade(&chain) };
        chains.insert(auth.name.clone(), compiled);
        Ok(chain)
    }
}

/// Compiles an auth document, given the contents of its files by path.
///
/// # Errors
/// Everything that is wrong with what it refers to, a line each.
fn compile(auth: &Auth, contents: &Contents) -> Result<Chain, String> {
    let references = References { auth, contents };
    let mut links: Vec<Box<dyn Link>> = Vec::new();
    let mut problems = Vec::new();
    // The links so far whose answer to a client cannot be known again without its password.
    let mut opaque: Vec<String> = Vec::new();
    for (index, declared) in auth.chain.iter().enumerate() {
        let parts: Vec<&[u8]> = opaque.iter().map(String::as_bytes).collect();
        match link(declared, &references, &version_of(&parts)) {
            Ok(link) => links.push(link),
            Err(message) => problems.push(format!("auth {}: chain[{index}]: {message}", auth.name)),
        }
        opaque.extend(identity(declared));
    }
    if problems.is_empty() { Ok(Chain::new(links)) } else { Err(problems.join("\n")) }
}

/// What tells a link from another where its answer to a client cannot be known again; `None`: it can.
fn identity(declared: &Authenticator) -> Option<String> {
    match declared {
        Authenticator::PasswordFile(_) | Authenticator::Scram(_) | Authenticator::Anonymous(_) => None,
        Authenticator::Http(declared) => Some(format!("http {}", declared.url)),
        Authenticator::Jwt(declared) => Some(format!("jwt {}", jwt_terms(declared))),
        Authenticator::ClientCertificate(declared) => Some(format!("{declared:?}")),
    }
}

fn link(declared: &Authenticator, references: &References<'_>, after: &str) -> Result<Box<dyn Link>, String> {
    match declared {
        Authenticator::PasswordFile(declared) => {
            let (name, content) = references.file(&declared.file)?;
            let records = PasswordFile::parse(&content).map_err(|error| error.in_file(&name))?;
            Ok(Box::new(PasswordLink::new(records, after)))
        }
        Authenticator::Anonymous(declared) => Ok(Box::new(AnonymousLink::new(declared, after))),
        Authenticator::Scram(declared) => {
            let (name, content) = references.file(&declared.file)?;
            let users = ScramFile::parse(&content, after).map_err(|error| error.in_file(&name))?;
            Ok(Box::new(ScramLink::new(users, after)))
        }
        Authenticator::ClientCertificate(declared) => Ok(Box::new(CertificateLink::new(declared, after))),
        Authenticator::Jwt(declared) => {
            let keys = jwt_keys(declared, references)?;
            Ok(Box::new(JwtLink::new(declared, keys, after)))
        }
        Authenticator::Http(declared) => Ok(Box::new(HttpLink::new(declared, service(declared, references)?, after))),
    }
}

fn service(declared: &HttpHook, references: &References<'_>) -> Result<Service, String> {
    let url = parse_url(&declared.url)?;
    let mut headers = HeaderMap::new();
    for (name, value) in &declared.headers {
        let text = match value {
            HeaderValue::Plain(text) => text.to_string(),
            HeaderValue::Secret(secret) => references.secret(secret)?,
        };
        let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no header's name"))?;
        let value = text.parse().map_err(|_| format!("the value of header {name} has characters no header has"))?;
        headers.insert(name, value);
    }
    let roots = match (url.scheme_str(), &declared.ca_file) {
        (Some("https"), Some(file)) => Some(trusted(file, references)?),
        (Some("https"), None) => {
            return Err("https wants a `caFile`; the system's is often /etc/ssl/certs/ca-certificates.crt".into());
        }
        _ => None,
    };
    Service::new(url, headers, roots, declared.max_concurrent).map_err(|error| error.to_string())
}

fn trusted(file: &FileRef, references: &References<'_>) -> Result<RootCertStore, String> {
    let (name, content) = references.file(file)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&content) {
        let certificate = certificate.map_err(|error| format!("{name}: {error}"))?;
        roots.add(certificate).map_err(|error| format!("{name}: {error}"))?;
    }
    if roots.is_empty() { Err(format!("{name}: no certificate in it")) } else { Ok(roots) }
}

fn jwt_keys(declared: &Jwt, references: &References<'_>) -> Result<KeySet, String> {
    let (file, parse): (_, fn(&[u8], JwtAlgorithm) -> _) = match (&declared.key_file, &declared.jwks_file) {
        (Some(file), None) => (file, KeySet::from_key_file),
        (None, Some(file)) => (file, KeySet::from_jwks),
        _ => return Err("jwt wants either `keyFile` or `jwksFile`".into()),
    };
    let (name, content) = references.file(file)?;
    parse(&content, declared.algorithm).map_err(|error| format!("{name}: {error}"))
}

/// Every file that `auth` reads.
fn files(auth: &Auth) -> Vec<PathBuf> {
    let mut found: Vec<&FileRef> = Vec::new();
    for link in &auth.chain {
        match link {
            Authenticator::PasswordFile(link) => found.push(&link.file),
            Authenticator::Scram(link) => found.push(&link.file),
            Authenticator::Jwt(link) => found.extend(link.key_file.iter().chain(&link.jwks_file)),
            Authenticator::Http(link) => {
                found.extend(&link.ca_file);
                found.extend(link.secrets().filter_map(|secret| match secret {
                    SecretRef::File(file) => Some(file),
                    SecretRef::Env(_) => None,
                }));
            }
            Authenticator::ClientCertificate(_) | Authenticator::Anonymous(_) => {}
        }
    }
    found.into_iter().map(|file| auth.origin.resolve(file)).collect()
}

/// What one auth document refers to, as its links ask for it.
pub(super) struct References<'a> {
    auth: &'a Auth,
    contents: &'a Contents,
}

impl References<'_> {
    /// A file's name for messages, and its content.
    pub(super) fn file(&self, file: &FileRef) -> Result<(String, Arc<[u8]>), String> {
        let path = self.auth.origin.resolve(file);
        let name = path.display().to_string();
        let content = self.contents.get(&path).map(Arc::clone).ok_or_else(|| format!("{name} was not read"))?;
        Ok((name, content))
    }

    /// A secret, without a trailing line break.
    pub(super) fn secret(&self, secret: &SecretRef) -> Result<String, String> {
        let text = match secret {
            SecretRef::File(file) => {
                let (name, content) = self.file(file)?;
                String::from_utf8(content.to_vec()).map_err(|_| format!("{name} is not UTF-8"))?
            }
            SecretRef::Env(name) => {
                std::env::var(&**name).map_err(|_| format!("the environment variable {name} is not set"))?
            }
        };
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
    }
}

/// Refuses everybody, and confirms nobody.
struct RefuseAll;

impl Authenticate for RefuseAll {
    fn authenticate(&self, _: &Credentials<'_>) -> Decision {
        Decision::Refuse(Refusal::BadCredentials)
    }

    fn confirms(&self, _: &Principal, _: &str) -> bool {
        false
    }
}
