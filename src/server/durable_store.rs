//! Starts the data plane on the store of durable sessions.

use std::path::Path;

use super::error::ServerError;
use crate::net::{DataPlane, DataPlaneConfig, DurableStore};
use crate::store::records::{self, Store};

/// Opens the store in `data_dir` and starts the data plane with it. The sessions of an earlier run are restored before
/// anything listens.
///
/// # Errors
/// The directory is in use, cannot be written, is of a newer version, or damaged.
pub(super) fn start(config: &DataPlaneConfig, data_dir: &Path) -> Result<(DataPlane, Store), ServerError> {
    std::fs::create_dir_all(data_dir)
        .map_err(|source| ServerError::DataDirectory { path: data_dir.to_owned(), source })?;
    let opened = records::open(data_dir).map_err(ServerError::Store)?;
    if opened.torn_bytes > 0 {
        tracing::warn!(bytes = opened.torn_bytes, "store recovered: the last commit was incomplete and is removed");
    }
    let (store, stored) = Store::start(
        opened,
        Box::new(|error| {
            // What the disk holds is unknown from here on: a broker that went on would acknowledge messages that may be
            // lost. A restart reads what the disk holds.
            tracing::error!(%error, "store write failed: the process exits");
            std::process::exit(1);
        }),
    )
    .map_err(ServerError::Store)?;
    let keeping = DurableStore { sink: store.sink(), stored };
    let plane = DataPlane::start_with(config, keeping).map_err(ServerError::DataPlane)?;
    Ok((plane, store))
}
