//! Compiles auth and ban documents into the authentication of a listener.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::api::{AuthBackend, AuthRefusal, Authenticate, Credentials, Decision};
use super::backends::anonymous::{Anonymous, AnonymousBackend};
use super::backends::client_certificate::CertificateBackend;
use super::backends::custom::{self, CustomBackend};
use super::backends::jwt::{JwtBackend, KeyError, KeySet, jwt_terms};
use super::backends::password::{PasswordBackend, PasswordFile, RecordError};
use super::backends::scram::{ScramBackend, ScramFile};
use super::chain::Chain;
use super::counts::AuthCounters;
use super::custom::Authenticators;
use super::digest::version_of;
use super::guard::{AttemptCounters, AttemptGuard, Bans};
use crate::references::{AllowedVariables, VariableError};
use weir_broker::Principal;
use weir_declare::config::{self, Auth, Ban, FileRef, Jwt, JwtAlgorithm, Name, SecretRef};

/// Reads a referenced file: its content as of this pass, or an error line that names the file.
pub type ReadFile<'a> = dyn Fn(&Path) -> Result<Arc<[u8]>, String> + 'a;

/// Why an auth document cannot take effect. No variant holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A referenced file cannot be read; the text names it.
    #[error("{0}")]
    File(String),
    /// One line for each authenticator that cannot be used.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Chain(Vec<ChainError>),
}

impl AuthError {
    /// Whether authenticators that the program has not registered are all that is missing.
    pub(crate) fn is_unregistered(&self) -> bool {
        matches!(self, Self::Chain(errors) if errors.iter().all(ChainError::is_unregistered))
    }
}

/// Why one element of a chain cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("auth {auth}: chain[{index}]: {error}")]
pub struct ChainError {
    auth: Name,
    index: usize,
    error: BackendError,
}

impl ChainError {
    /// Whether the document names an authenticator that the program has not registered, or that is not built in.
    pub(crate) fn is_unregistered(&self) -> bool {
        #[cfg(not(feature = "http"))]
        if matches!(self.error, BackendError::NoHttp) {
            return true;
        }
        matches!(self.error, BackendError::Unregistered { .. })
    }
}

/// Why an authenticator cannot be made of its declaration.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackendError {
    #[error("{}", error.in_file(file))]
    Records { file: String, error: RecordError },
    #[error("{file}: {error}")]
    Keys { file: String, error: KeyError },
    #[error("jwt needs exactly one of `keyFile` and `jwksFile`")]
    KeyFileOrJwksFile,
    #[cfg(feature = "http")]
    #[error(transparent)]
    Service(#[from] super::http_service::ServiceError),
    #[cfg(not(feature = "http"))]
    #[error("this build has no `http` authenticator (feature `http`)")]
    NoHttp,
    #[error("{0} was not read")]
    NotRead(String),
    #[error("{0} is not UTF-8")]
    NotUtf8(String),
    #[error(transparent)]
    Variable(#[from] VariableError),
    #[error("no authenticator is registered as `{name}`; {}", described(registered))]
    Unregistered { name: Name, registered: Vec<String> },
}

/// What is registered, for an error.
fn described(registered: &[String]) -> String {
    if registered.is_empty() {
        return "this program registers none (the binary weir never does; a program that embeds the broker calls \
                ServerBuilder::authenticator)"
            .to_owned();
    }
    format!("registered: {}", registered.join(", "))
}

/// Compiles auth documents, and keeps what must outlive a change of them: the counters of attempts. One for the node.
pub struct AuthCompiler {
    counters: Arc<AttemptCounters>,
    shared: AuthCounters,
    authenticators: Authenticators,
    /// Chains in use: endpoints that name the same auth document share one, so a large password file is held once.
    chains: Mutex<BTreeMap<Name, Compiled>>,
    variables: AllowedVariables,
}

struct Compiled {
    auth: Arc<Auth>,
    contents: Contents,
    chain: Weak<Chain>,
}

type Contents = BTreeMap<PathBuf, Arc<[u8]>>;

#[cfg(test)]
impl Default for AuthCompiler {
    fn default() -> Self {
        Self::new(AllowedVariables::default(), &AuthCounters::default())
    }
}

impl AuthCompiler {
    /// A compiler of documents that may refer to `variables` of the environment; what it compiles counts in `counters`.
    pub fn new(variables: AllowedVariables, counters: &AuthCounters) -> Self {
        Self {
            counters: Arc::new(AttemptCounters::new(counters)),
            shared: counters.clone(),
            authenticators: Authenticators::default(),
            chains: Mutex::default(),
            variables,
        }
    }

    /// Documents may name these authenticators.
    pub(crate) fn register(&mut self, authenticators: Authenticators) {
        self.authenticators = authenticators;
    }

    /// Compiles the authentication of an endpoint: `enable_auth` as declared, the `auth` document that it names (`None`: it
    /// does not exist, and every client is rejected), and all `bans`.
    ///
    /// # Errors
    /// The declaration cannot take effect. The authentication in use must stay; an endpoint without one must not open.
    pub fn compile(
        &self,
        enable_auth: bool,
        auth: Result<&Arc<Auth>, &str>,
        bans: &BTreeMap<Name, Arc<Ban>>,
        read: &ReadFile<'_>,
    ) -> Result<Arc<dyn Authenticate>, AuthError> {
        let (inner, failures): (Arc<dyn Authenticate>, _) = match (enable_auth, auth) {
            (false, _) => (Arc::new(Anonymous::new()), None),
            (true, Err(name)) => (Arc::new(RefuseAll { missing: name.into() }), None),
            (true, Ok(auth)) => (self.chain(auth, read)?, Some(auth.rate_limit.clone())),
        };
        let bans = Bans::new(bans.values().cloned());
        Ok(Arc::new(AttemptGuard { counters: Arc::clone(&self.counters), bans, failures, inner }))
    }

    #[cfg(test)]
    pub(super) fn chains_in_force(&self) -> usize {
        let chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        chains.values().filter(|known| known.chain.strong_count() > 0).count()
    }

    fn chain(&self, auth: &Arc<Auth>, read: &ReadFile<'_>) -> Result<Arc<Chain>, AuthError> {
        let mut contents = Contents::new();
        for path in files(auth) {
            let content = read(&path).map_err(AuthError::File)?;
            contents.insert(path, content);
        }
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        chains.retain(|_, known| known.chain.strong_count() > 0);
        let known = chains.get(&auth.name).filter(|known| known.auth == *auth && known.contents == contents);
        if let Some(chain) = known.and_then(|known| known.chain.upgrade()) {
            return Ok(chain);
        }
        let (variables, authenticators) = (&self.variables, &self.authenticators);
        let references = References { auth, contents: &contents, variables, authenticators };
        let chain = Arc::new(build_chain(&references, &self.shared).map_err(AuthError::Chain)?);
        let compiled = Compiled { auth: Arc::clone(auth), contents, chain: Arc::downgrade(&chain) };
        chains.insert(auth.name.clone(), compiled);
        Ok(chain)
    }
}

/// Compiles an auth document.
///
/// # Errors
/// One for each authenticator that cannot be used.
fn build_chain(references: &References<'_>, counters: &AuthCounters) -> Result<Chain, Vec<ChainError>> {
    let auth = references.auth;
    let mut backends: Vec<Box<dyn AuthBackend>> = Vec::new();
    let mut errors = Vec::new();
    // The authenticators so far whose answer cannot be computed again without the client's password.
    let mut opaque: Vec<String> = Vec::new();
    for (index, declared) in auth.chain.iter().enumerate() {
        let parts: Vec<&[u8]> = opaque.iter().map(String::as_bytes).collect();
        match build_backend(declared, references, &version_of(&parts), counters) {
            Ok(backend) => backends.push(backend),
            Err(error) => errors.push(ChainError { auth: auth.name.clone(), index, error }),
        }
        opaque.extend(identity(declared));
    }
    if errors.is_empty() { Ok(Chain::new(backends)) } else { Err(errors) }
}

/// Distinguishes authenticators whose answer cannot be computed again without the password; `None`: it can.
fn identity(declared: &config::Authenticator) -> Option<String> {
    use config::Authenticator;
    match declared {
        Authenticator::PasswordFile(_) | Authenticator::Scram(_) | Authenticator::Anonymous(_) => None,
        Authenticator::Http(declared) => Some(format!("http {}", declared.url)),
        Authenticator::Jwt(declared) => Some(format!("jwt {}", jwt_terms(declared))),
        Authenticator::ClientCertificate(declared) => Some(format!("{declared:?}")),
        Authenticator::Custom(declared) => Some(custom::identity(declared)),
    }
}

fn build_backend(
    declared: &config::Authenticator,
    references: &References<'_>,
    predecessors: &str,
    counters: &AuthCounters,
) -> Result<Box<dyn AuthBackend>, BackendError> {
    use config::Authenticator;
    match declared {
        Authenticator::PasswordFile(declared) => {
            let (file, content) = references.file(&declared.file)?;
            let records = PasswordFile::parse(&content).map_err(|error| BackendError::Records { file, error })?;
            Ok(Box::new(PasswordBackend::new(records, predecessors)))
        }
        Authenticator::Anonymous(declared) => Ok(Box::new(AnonymousBackend::new(declared, predecessors))),
        Authenticator::Scram(declared) => {
            let (file, content) = references.file(&declared.file)?;
            let users =
                ScramFile::parse(&content, predecessors).map_err(|error| BackendError::Records { file, error })?;
            Ok(Box::new(ScramBackend::new(users, predecessors)))
        }
        Authenticator::ClientCertificate(declared) => Ok(Box::new(CertificateBackend::new(declared, predecessors))),
        Authenticator::Jwt(declared) => {
            let keys = jwt_keys(declared, references)?;
            Ok(Box::new(JwtBackend::new(declared, keys, predecessors)))
        }
        #[cfg(feature = "http")]
        Authenticator::Http(declared) => {
            Ok(super::http_service::build_backend(declared, references, predecessors, counters)?)
        }
        #[cfg(not(feature = "http"))]
        Authenticator::Http(_) => Err(BackendError::NoHttp),
        Authenticator::Custom(declared) => {
            let registered = references.authenticators.get(declared.name.as_str());
            let unregistered = || BackendError::Unregistered {
                name: declared.name.clone(),
                registered: references.authenticators.names().map(str::to_owned).collect(),
            };
            let registered = registered.ok_or_else(unregistered)?;
            Ok(Box::new(CustomBackend::new(declared, registered, predecessors, counters)))
        }
    }
}

fn jwt_keys(declared: &Jwt, references: &References<'_>) -> Result<KeySet, BackendError> {
    let (file, parse): (_, fn(&[u8], JwtAlgorithm) -> _) = match (&declared.key_file, &declared.jwks_file) {
        (Some(file), None) => (file, KeySet::from_key_file),
        (None, Some(file)) => (file, KeySet::from_jwks),
        _ => return Err(BackendError::KeyFileOrJwksFile),
    };
    let (file, content) = references.file(file)?;
    parse(&content, declared.algorithm).map_err(|error| BackendError::Keys { file, error })
}

/// Every file that `auth` reads.
fn files(auth: &Auth) -> Vec<PathBuf> {
    let mut found: Vec<&FileRef> = Vec::new();
    for declared in &auth.chain {
        use config::Authenticator;
        match declared {
            Authenticator::PasswordFile(declared) => found.push(&declared.file),
            Authenticator::Scram(declared) => found.push(&declared.file),
            Authenticator::Jwt(declared) => found.extend(declared.key_file.iter().chain(&declared.jwks_file)),
            Authenticator::Http(declared) => {
                found.extend(&declared.ca_file);
                found.extend(declared.secrets().filter_map(|secret| match secret {
                    SecretRef::File(file) => Some(file),
                    SecretRef::Env(_) => None,
                }));
            }
            Authenticator::ClientCertificate(_) | Authenticator::Custom(_) | Authenticator::Anonymous(_) => {}
        }
    }
    found.into_iter().map(|file| auth.origin.resolve(file)).collect()
}

/// The files and secrets that an auth document refers to.
pub(super) struct References<'a> {
    auth: &'a Auth,
    contents: &'a Contents,
    variables: &'a AllowedVariables,
    authenticators: &'a Authenticators,
}

impl References<'_> {
    /// A file's name for messages, and its content.
    pub(super) fn file(&self, file: &FileRef) -> Result<(String, Arc<[u8]>), BackendError> {
        let path = self.auth.origin.resolve(file);
        let name = path.display().to_string();
        match self.contents.get(&path) {
            Some(content) => Ok((name, Arc::clone(content))),
            None => Err(BackendError::NotRead(name)),
        }
    }

    /// A secret, without a trailing line break.
    pub(super) fn secret(&self, secret: &SecretRef) -> Result<String, BackendError> {
        let text = match secret {
            SecretRef::File(file) => {
                let (name, content) = self.file(file)?;
                String::from_utf8(content.to_vec()).map_err(|_| BackendError::NotUtf8(name))?
            }
            SecretRef::Env(name) => self.variables.read(name)?,
        };
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
    }
}

/// Rejects every client: the endpoint names an auth document that does not exist.
struct RefuseAll {
    /// The name of that document.
    missing: Box<str>,
}

impl Authenticate for RefuseAll {
    fn missing_document(&self) -> Option<&str> {
        Some(&self.missing)
    }

    fn authenticate(&self, _: &Credentials<'_>) -> Decision {
        Decision::Refuse(AuthRefusal::NoAuthDocument)
    }

    fn still_valid(&self, _: &Principal, _: &str) -> bool {
        false
    }
}
