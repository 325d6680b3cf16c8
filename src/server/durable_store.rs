//! Starts the data plane on the store of durable sessions.

use std::path::Path;

use tokio::sync::oneshot;

use super::error::ServerError;
use crate::net::{DataPlane, DataPlaneConfig, DurableStore};
use crate::store::records::{self, RecordLogError, Store};

/// A data plane with its store.
pub(super) struct OpenStore {
    pub(super) store: Store,
    /// Yields the error after which what the disk holds is unknown.
    pub(super) failed: oneshot::Receiver<RecordLogError>,
}

/// Opens the store in `data_dir` and starts the data plane with it. The sessions of an earlier run are restored before
/// anything listens.
///
/// # Errors
/// The directory is in use, cannot be written, is of a newer version, or damaged.
pub(super) fn start(config: &DataPlaneConfig, data_dir: &Path) -> Result<(DataPlane, OpenStore), ServerError> {
    std::fs::create_dir_all(data_dir)
        .map_err(|source| ServerError::DataDirectory { path: data_dir.to_owned(), source })?;
    let opened = records::open(data_dir).map_err(ServerError::Store)?;
    if opened.torn_bytes > 0 {
        tracing::warn!(bytes = opened.torn_bytes, "store recovered: the last commit was incomplete and is removed");
    }
    let (failure, failed) = oneshot::channel();
    // Nothing is acknowledged after a failure; the receiver is gone where the server has ended already.
    let on_failure = Box::new(move |error| drop(failure.send(error)));
    let (store, stored) = Store::start(opened, on_failure).map_err(ServerError::Store)?;
    let keeping = DurableStore { sink: store.sink(), stored };
    let plane = DataPlane::start_with(config, keeping).map_err(ServerError::DataPlane)?;
    Ok((plane, OpenStore { store, failed }))
}
