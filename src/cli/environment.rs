//! The environment tier of `weir validate`: checks of this machine, with their places in the documents.

use time::OffsetDateTime;

use crate::apply::{FileSystem, environment_problems};
use weir_declare::config::{Diagnostic, Loaded, NodeContext};

/// The problems of the loaded declaration on this machine.
/// `system`: the files and variables that documents may refer to.
pub(super) fn check(loaded: &Loaded, node: &NodeContext, system: &FileSystem) -> Vec<Diagnostic> {
    let found = environment_problems(&loaded.declared, node, system, OffsetDateTime::now_utc());
    let placed = found.into_iter().filter_map(|problem| {
        let place = (&problem.identity, problem.severity, problem.pointer.as_str());
        let mut diagnostic = loaded.last_good.diagnostic(place.0, place.1, "environment", place.2, problem.message)?;
        diagnostic.help = problem.help;
        Some(diagnostic)
    });
    placed.collect()
}
