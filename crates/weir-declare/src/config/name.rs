//! Names, kinds and identities of declarations.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A declaration's name, unique among those of its [`Kind`]: `eu/tenant-a`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(try_from = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name, bytes.
    pub const MAX_LEN: usize = 255;

    /// Parses a name: segments separated by `/`, without white space and without the characters of `FORBIDDEN`.
    ///
    /// # Errors
    /// `text` is not a name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Self::MAX_LEN {
            return Err(NameError::TooLong(text.len()));
        }
        if text.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(NameError::Segment(text.to_owned()));
        }
        if let Some(bad) = text.chars().find(|&c| c.is_whitespace() || c.is_control() || FORBIDDEN.contains(c)) {
            return Err(NameError::Character(bad, text.to_owned()));
        }
        Ok(Self(Arc::from(text)))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as shared text.
    pub fn to_arc(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("a name must not be empty")]
    Empty,
    /// Holds the length in bytes.
    #[error("a name has at most {} bytes, this one has {}", Name::MAX_LEN, .0)]
    TooLong(usize),
    /// This segment is `.` or `..`, or empty.
    #[error("a name's segments must not be empty, `.` or `..`: {0:?}")]
    Segment(String),
    /// It has a character that a name must not have.
    #[error("a name must not contain {0:?}: {1:?}")]
    Character(char, String),
}

/// Characters that a name must not contain, because they need quotes in YAML, in a shell or in a metric's label.
const FORBIDDEN: &str = "\"'\\<>|*?:#,{}[]`$&!%";

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The kinds of documents; each is the top-level key of its documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A listener.
    Endpoint,
    /// How clients authenticate.
    Auth,
    /// What clients may publish and subscribe.
    Acl,
    /// A connection to another broker.
    Bridge,
    /// Clients that are rejected.
    Ban,
    /// Defaults for endpoints.
    Defaults,
    /// How the broker reconciles.
    Reconcile,
    /// Which events are published as messages.
    Events,
    /// What the nodes of a cluster have in common.
    Cluster,
}

impl Kind {
    /// Every kind, in the order of the canonical form.
    pub const ALL: [Self; 9] = [
        Self::Endpoint,
        Self::Auth,
        Self::Acl,
        Self::Bridge,
        Self::Ban,
        Self::Defaults,
        Self::Reconcile,
        Self::Events,
        Self::Cluster,
    ];

    /// The top-level key.
    pub fn key(self) -> &'static str {
        match self {
            Self::Defaults => "defaults",
            Self::Endpoint => "endpoint",
            Self::Auth => "auth",
            Self::Acl => "acl",
            Self::Bridge => "bridge",
            Self::Ban => "ban",
            Self::Reconcile => "reconcile",
            Self::Events => "events",
            Self::Cluster => "cluster",
        }
    }

    /// The kind of a top-level key.
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.key() == key)
    }

    /// Whether there is at most one document of this kind. It has no name.
    pub fn is_single(self) -> bool {
        matches!(self, Self::Defaults | Self::Reconcile | Self::Events | Self::Cluster)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// A declaration's identity. For the kinds with one document, the name is the kind's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DocumentIdentity {
    /// The kind of document.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
}

impl DocumentIdentity {
    /// The identity of the document of `kind` with the name `name`.
    pub fn new(kind: Kind, name: Name) -> Self {
        Self { kind, name }
    }

    /// The identity of the one document of `kind`; see [`Kind::is_single`].
    pub fn single(kind: Kind) -> Self {
        Self { kind, name: Name(Arc::from(kind.key())) }
    }
}

impl fmt::Display for DocumentIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind.is_single() { write!(f, "{}", self.kind) } else { write!(f, "{} `{}`", self.kind, self.name) }
    }
}
