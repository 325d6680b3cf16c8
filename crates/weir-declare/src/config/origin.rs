//! Where a declaration stands, and what its file references are relative to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Position;

/// Where a declaration stands.
#[derive(Debug, Clone)]
pub struct Origin {
    /// As messages show it.
    pub file: Arc<str>,
    pub position: Position,
    /// What relative file references are relative to.
    pub base: Arc<Path>,
}

impl Origin {
    /// The file a reference means.
    pub fn resolve(&self, reference: &FileRef) -> PathBuf {
        self.base.join(&*reference.0)
    }
}

impl Default for Origin {
    fn default() -> Self {
        Self { file: Arc::from(""), position: Position::START, base: Arc::from(Path::new("")) }
    }
}

/// Moving a declaration within its directory does not change what it declares.
impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        self.base == other.base
    }
}
impl Eq for Origin {}

/// A file as written in a declaration; [`Origin::resolve`] finds it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct FileRef(pub Arc<str>);

impl FileRef {
    /// Parses a path.
    ///
    /// # Errors
    /// What is wrong with it, as a phrase.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a path must not be empty".into());
        }
        if text.contains("-----BEGIN") || text.contains('\n') {
            return Err("a path is wanted, not the file's content".into());
        }
        if text.chars().any(char::is_control) {
            return Err("a path must not contain control characters".into());
        }
        Ok(Self(Arc::from(text)))
    }
}

impl TryFrom<String> for FileRef {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

/// Where a secret is kept. A secret itself never stands in a declaration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretRef {
    /// `file:cloud.secret`: the file's content, without a trailing line break.
    File(FileRef),
    /// `env:NAME`: the broker's environment variable.
    Env(Arc<str>),
}

impl SecretRef {
    /// Parses `file:PATH` or `env:NAME`.
    ///
    /// # Errors
    /// What is wrong with it, as a phrase that does not repeat what may be the secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("file:") {
            return FileRef::parse(path).map(Self::File);
        }
        let Some(name) = text.strip_prefix("env:") else {
            return Err("a secret must not stand in a declaration".into());
        };
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && name.chars().next().is_some_and(|c| !c.is_ascii_digit());
        if is_name {
            Ok(Self::Env(Arc::from(name)))
        } else {
            Err(format!("no environment variable is called {name:?}"))
        }
    }
}

impl TryFrom<String> for SecretRef {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<SecretRef> for String {
    fn from(secret: SecretRef) -> Self {
        match secret {
            SecretRef::File(file) => format!("file:{}", file.0),
            SecretRef::Env(name) => format!("env:{name}"),
        }
    }
}
