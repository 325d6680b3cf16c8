//! What a declaration is called.

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

    /// Parses a name: segments between slashes, each without white space, quotes and the like.
    ///
    /// # Errors
    /// What is wrong with it, as a phrase.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a name must not be empty".into());
        }
        if text.len() > Self::MAX_LEN {
            return Err(format!("a name has at most {} bytes, this one has {}", Self::MAX_LEN, text.len()));
        }
        for segment in text.split('/') {
            if segment.is_empty() || segment == "." || segment == ".." {
                return Err(format!("a name's segments must not be empty, `.` or `..`: {text:?}"));
            }
        }
        if let Some(bad) = text.chars().find(|&c| c.is_whitespace() || c.is_control() || FORBIDDEN.contains(c)) {
            return Err(format!("a name must not contain {bad:?}: {text:?}"));
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

/// What no name contains: it would have to be quoted in YAML, in a shell or in a metric's label.
const FORBIDDEN: &str = "\"'\\<>|*?:#,{}[]`$&!%";

impl TryFrom<String> for Name {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
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
    Endpoint,
    Auth,
    Acl,
    Bridge,
    Ban,
    Defaults,
    Reconcile,
}

impl Kind {
    /// Every kind, in the order of the canonical form.
    pub const ALL: [Self; 7] =
        [Self::Endpoint, Self::Auth, Self::Acl, Self::Bridge, Self::Ban, Self::Defaults, Self::Reconcile];

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
        }
    }

    /// The kind of a top-level key.
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.key() == key)
    }

    /// Whether there is at most one, without a name.
    pub fn is_single(self) -> bool {
        matches!(self, Self::Defaults | Self::Reconcile)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// A declaration's identity. For the kinds of which there is one, the name is the kind's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    pub kind: Kind,
    pub name: Name,
}

impl Identity {
    /// `kind` called `name`.
    pub fn new(kind: Kind, name: Name) -> Self {
        Self { kind, name }
    }

    /// The one of a kind of which there is one.
    pub fn single(kind: Kind) -> Self {
        Self { kind, name: Name(Arc::from(kind.key())) }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind.is_single() { write!(f, "{}", self.kind) } else { write!(f, "{} `{}`", self.kind, self.name) }
    }
}
