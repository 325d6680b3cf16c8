//! `ban`: clients that no endpoint admits.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Cidr, Glob, Name, Origin};

/// A list of bans. The bans of all documents apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ban {
    /// The document's name.
    #[serde(default)]
    pub name: Name,
    /// Where the document is.
    #[serde(skip)]
    pub origin: Origin,
    /// Free text for people.
    #[serde(default)]
    pub description: Option<Arc<str>>,
    /// The banned clients.
    #[serde(default)]
    pub entries: Vec<BanEntry>,
    /// Bans clients that connect too often, for a limited time.
    #[serde(default)]
    pub flapping: Option<Flapping>,
}

/// One ban. It matches if all its conditions match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BanEntry {
    /// Client ids; `None`: all.
    #[serde(default)]
    pub client_id: Option<Glob>,
    /// The user name; `None`: all.
    #[serde(default)]
    pub username: Option<Arc<str>>,
    /// Addresses; `None`: all.
    #[serde(default)]
    pub ipaddr: Option<Cidr>,
    /// The end of the ban; `None`: until it is removed from the declaration.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub until: Option<OffsetDateTime>,
    /// Free text for people.
    #[serde(default)]
    pub reason: Option<Arc<str>>,
}

/// A client id that connects more than `maxConnects` times within `windowS` seconds is banned for `banS` seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Flapping {
    /// Connects that are too many.
    pub max_connects: u32,
    /// The time in which they are counted, seconds.
    pub window_s: u32,
    /// How long the ban lasts, seconds.
    pub ban_s: u32,
}

impl Flapping {
    /// The window in milliseconds.
    pub fn window_ms(&self) -> u64 {
        u64::from(self.window_s) * 1000
    }

    /// The length of the ban in milliseconds.
    pub fn ban_ms(&self) -> u64 {
        u64::from(self.ban_s) * 1000
    }
}

impl Default for Flapping {
    fn default() -> Self {
        Self { max_connects: 15, window_s: 60, ban_s: 300 }
    }
}
