//! The environment tier of `weir validate`: what only this machine knows, at its place in the documents.

use time::OffsetDateTime;

use crate::apply::obstacles;
use weir_declare::config::{Diagnostic, Loaded, NodeContext};

/// What this machine lacks of what was loaded.
pub(super) fn check(loaded: &Loaded, node: &NodeContext) -> Vec<Diagnostic> {
    let found = obstacles(&loaded.declared, node, OffsetDateTime::now_utc());
    let placed = found.into_iter().filter_map(|obstacle| {
        let place = (&obstacle.identity, obstacle.severity, obstacle.pointer.as_str());
        let mut diagnostic = loaded.last_good.diagnostic(place.0, place.1, "environment", place.2, obstacle.message)?;
        diagnostic.help = obstacle.help;
        Some(diagnostic)
    });
    placed.collect()
}
