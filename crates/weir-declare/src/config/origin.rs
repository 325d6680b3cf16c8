//! The place of a declaration, and references to files and secrets.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Position;

/// The place of a declaration.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The file's path as messages show it.
    pub file: Arc<str>,
    /// Where in the file.
    pub position: Position,
    /// The directory that relative file references start from.
    pub base: Arc<Path>,
}

impl Origin {
    /// The path of the file that `reference` names.
    pub fn resolve(&self, reference: &FileRef) -> PathBuf {
        self.base.join(&*reference.0)
    }
}

impl Default for Origin {
    fn default() -> Self {
        Self { file: Arc::from(""), position: Position::START, base: Arc::from(Path::new("")) }
    }
}

/// A declaration that moves within its directory declares the same.
impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        self.base == other.base
    }
}
impl Eq for Origin {}

/// A file path as written in a declaration; see [`Origin::resolve`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct FileRef(pub Arc<str>);

impl FileRef {
    /// Parses a path.
    ///
    /// # Errors
    /// `text` is empty, is a file's content, or has control characters.
    pub fn parse(text: &str) -> Result<Self, FileRefError> {
        if text.is_empty() {
            return Err(FileRefError::Empty);
        }
        if text.contains("-----BEGIN") || text.contains('\n') {
            return Err(FileRefError::Content);
        }
        if text.chars().any(char::is_control) {
            return Err(FileRefError::ControlCharacter);
        }
        Ok(Self(Arc::from(text)))
    }
}

/// Why a text is not a [`FileRef`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileRefError {
    /// It is empty.
    #[error("a path must not be empty")]
    Empty,
    /// It is a secret itself, not the path of one.
    #[error("a path is wanted, not the file's content")]
    Content,
    /// It has a control character.
    #[error("a path must not contain control characters")]
    ControlCharacter,
}

impl TryFrom<String> for FileRef {
    type Error = FileRefError;
    fn try_from(text: String) -> Result<Self, FileRefError> {
        Self::parse(&text)
    }
}

/// A reference to a secret. Declarations never contain the secret itself.
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
    /// `text` is not a reference. The error does not repeat `text` where that may be the secret.
    pub fn parse(text: &str) -> Result<Self, SecretRefError> {
        if let Some(path) = text.strip_prefix("file:") {
            return Ok(Self::File(FileRef::parse(path)?));
        }
        let Some(name) = text.strip_prefix("env:") else { return Err(SecretRefError::Literal) };
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && name.chars().next().is_some_and(|c| !c.is_ascii_digit());
        if is_name { Ok(Self::Env(Arc::from(name))) } else { Err(SecretRefError::VariableName(name.to_owned())) }
    }
}

/// Why a text is not a [`SecretRef`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretRefError {
    /// The text may be the secret itself, so the error does not hold it.
    #[error("a secret must not stand in a declaration")]
    Literal,
    /// It is not the name of a variable.
    #[error("{0:?} is not the name of an environment variable")]
    VariableName(String),
    /// It is not the path of a file.
    #[error(transparent)]
    File(#[from] FileRefError),
}

impl TryFrom<String> for SecretRef {
    type Error = SecretRefError;
    fn try_from(text: String) -> Result<Self, SecretRefError> {
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
