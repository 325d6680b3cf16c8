//! `ban`: who is kept out of every endpoint.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Cidr, Glob, Name, Origin};

/// A list of bans. All such documents hold together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ban {
    #[serde(default)]
    pub name: Name,
    #[serde(skip)]
    pub origin: Origin,
    #[serde(default)]
    pub description: Option<Arc<str>>,
    #[serde(default)]
    pub entries: Vec<BanEntry>,
    /// Keeps out, for a while, clients that connect too often.
    #[serde(default)]
    pub flapping: Option<Flapping>,
}

/// One ban: it matches where every condition that it names holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BanEntry {
    #[serde(default)]
    pub client_id: Option<Glob>,
    #[serde(default)]
    pub username: Option<Arc<str>>,
    #[serde(default)]
    pub ipaddr: Option<Cidr>,
    /// When it ends; `None`: when it is taken out of the declaration.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub until: Option<OffsetDateTime>,
    #[serde(default)]
    pub reason: Option<Arc<str>>,
}

/// A client id that connects more than `maxConnects` times within `windowS` seconds is kept out for `banS` seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Flapping {
    pub max_connects: u32,
    pub window_s: u32,
    pub ban_s: u32,
}

impl Flapping {
    /// The time in which the connects are counted, in milliseconds.
    pub fn window_ms(&self) -> u64 {
        u64::from(self.window_s) * 1000
    }

    /// How long the client is kept out, in milliseconds.
    pub fn ban_ms(&self) -> u64 {
        u64::from(self.ban_s) * 1000
    }
}

impl Default for Flapping {
    fn default() -> Self {
        Self { max_connects: 15, window_s: 60, ban_s: 300 }
    }
}
