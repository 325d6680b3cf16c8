//! Diagnostics: what is wrong, where, and what to do.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::DocumentIdentity;

/// The severity of a diagnostic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document applies, but is probably a mistake. `--strict` makes it an error.
    Warning,
    /// For information.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// A position in a file. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub col: u32,
    /// Characters to underline, at least 1.
    pub len: u32,
}

impl Position {
    /// A file's first character.
    pub const START: Self = Self { line: 1, col: 1, len: 1 };
}

/// Another position that a diagnostic refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Related {
    /// The file.
    pub file: Arc<str>,
    /// Where in the file.
    #[serde(flatten)]
    pub position: Position,
    /// What is there.
    pub message: String,
}

/// An error, warning or note about a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// Whether the document can be applied.
    pub severity: Severity,
    /// Stable, for machines: `unknown-field`.
    pub code: &'static str,
    /// The file's path as messages show it.
    pub file: Arc<str>,
    /// Where in the file.
    #[serde(flatten)]
    pub position: Position,
    /// The instance path in the document: `endpoint.sslConfig.certFile`, `acl.rules[2].topics[0]`; empty: the whole
    /// document.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// Other places that belong to it.
    pub related: Vec<Related>,
    /// The declaration, where it is known.
    #[serde(skip)]
    pub identity: Option<DocumentIdentity>,
}

impl Diagnostic {
    /// Whether it makes the document invalid.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// One line: `file:line:col: path: message (help)`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.position.line, self.position.col)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.message)?;
        for related in &self.related {
            write!(f, "; {} at {}:{}:{}", related.message, related.file, related.position.line, related.position.col)?;
        }
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "; {help}"))
    }
}
