//! The store of `weir run`.

use std::path::Path;

use anyhow::Context;

use crate::net::{DataPlane, DataPlaneConfig, DurableStore};
use crate::store::records::{self, Store};

/// The data plane with what an earlier run left in `data_dir`, all of it back before anything listens.
///
/// # Errors
/// The directory is in use, cannot be written, is of a newer version, or damaged.
pub(super) fn start(config: &DataPlaneConfig, data_dir: &Path) -> anyhow::Result<(DataPlane, Store)> {
    std::fs::create_dir_all(data_dir).with_context(|| format!("--data-dir {}", data_dir.display()))?;
    let opened = records::open(data_dir).context("the store")?;
    if opened.torn_bytes > 0 {
        tracing::warn!(bytes = opened.torn_bytes, "the last commit was cut short, and what there was of it is removed");
    }
    let (store, stored) = Store::start(
        opened,
        Box::new(|error| {
            // What is on the disk is not known any more: to go on would be to acknowledge what may be lost. A restart
            // reads what is there.
            tracing::error!(%error, "the store has failed; the process ends");
            std::process::exit(1);
        }),
    )?;
    let keeping = DurableStore { sink: store.sink(), stored };
    let plane = DataPlane::start_with(config, keeping).context("the data plane cannot be started")?;
    Ok((plane, store))
}
