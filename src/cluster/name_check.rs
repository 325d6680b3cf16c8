//! A node that starts does not take the name of one that runs.

use std::time::{Duration, Instant};

use super::engine::{Engine, EngineError};
use super::start::ClusterError;
use weir_broker::Millis;
use weir_cluster::members::{NameCheck, NameUse};
use weir_cluster::wire::Heartbeat;

/// How often the record is read.
const READ_EVERY: Duration = Duration::from_millis(250);

/// Waits until it is known that no process that runs has this name.
///
/// # Errors
/// One has it, or the record cannot be read for `within`.
pub(super) async fn check_name(
    engine: &Engine,
    node: &str,
    incarnation: u64,
    within: Duration,
) -> Result<(), ClusterError> {
    let mut check = NameCheck::new(incarnation);
    let began = Instant::now();
    let mut read_at = began;
    let mut is_logged = false;
    loop {
        match engine.newest_heartbeat(node).await {
            Ok(bytes) => {
                read_at = Instant::now();
                // A record that cannot be decoded is of another version of Weir; peers that read it report it.
                let newest = bytes.and_then(|bytes| Heartbeat::decode(&bytes).ok());
                let now = Millis::try_from(began.elapsed().as_millis()).unwrap_or(Millis::MAX);
                match check.on_record(newest.as_ref(), now) {
                    NameUse::Free => return Ok(()),
                    NameUse::Taken(incarnation) => {
                        return Err(ClusterError::NameTaken { node: node.to_owned(), incarnation });
                    }
                    NameUse::Unknown if !std::mem::replace(&mut is_logged, true) => tracing::info!(
                        node,
                        "cluster node name was used before: checking for 2.5 s that no other process has it"
                    ),
                    NameUse::Unknown => {}
                }
            }
            Err((stream, reason)) if read_at.elapsed() >= within => {
                return Err(EngineError::Stream { stream, reason }.into());
            }
            Err(_) => check.on_failed_read(),
        }
        tokio::time::sleep(READ_EVERY).await;
    }
}
