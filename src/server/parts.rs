//! Opens everything that can fail before the broker serves: the store and the data plane.

use super::durable_store::{self, OpenStore};
use super::error::ServerError;
use super::memory_size;
use super::options::{ServerOptions, SourceOptions};
#[cfg(feature = "cluster")]
use crate::cluster::{Cluster, StartedCluster};
use crate::net::{DataPlane, DataPlaneConfig};
use weir_broker::MemoryAccount;
use weir_broker::limits::SHARDS_MAX;

/// What a server runs on.
pub(super) struct Parts {
    pub(super) options: ServerOptions,
    pub(super) shards: u16,
    pub(super) plane: DataPlane,
    pub(super) store: Option<OpenStore>,
    #[cfg(feature = "cluster")]
    pub(super) cluster: Option<StartedCluster>,
}

/// Opens the store, with which durable sessions are back, and starts the threads that serve connections. Blocks.
///
/// # Errors
/// See [`ServerError`].
pub(super) fn open(
    options: ServerOptions,
    #[cfg(feature = "cluster")] cluster: Option<Cluster>,
) -> Result<Parts, ServerError> {
    check_directory(&options)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let shards = options.shards.unwrap_or_else(|| default_shards(cores));
    let mut config =
        DataPlaneConfig { shards, raise_descriptor_limit: options.owns_process, ..DataPlaneConfig::default() };
    if let Some(bytes) = memory_size::resolve(options.memory) {
        config.memory = MemoryAccount::new(bytes);
    }
    #[cfg(feature = "cluster")]
    if let Some(cluster) = &cluster {
        if shards == SHARDS_MAX {
            return Err(ServerError::ClusterShards);
        }
        let port = cluster.port();
        (config.gateway, config.relay) = (Some(port.gateway), Some(port.relay));
    }
    let (plane, store) = match &options.data_dir {
        None => (DataPlane::start(&config).map_err(ServerError::DataPlane)?, None),
        Some(data_dir) => {
            let (plane, store) = durable_store::start(&config, data_dir)?;
            (plane, Some(store))
        }
    };
    #[cfg(feature = "cluster")]
    let cluster = cluster.map(|cluster| cluster.start(plane.clone(), shards)).transpose()?;
    Ok(Parts {
        options,
        shards,
        plane,
        store,
        #[cfg(feature = "cluster")]
        cluster,
    })
}

/// A missing directory is a mistake, unless an earlier run has left what to serve.
///
/// # Errors
/// [`ServerError::NoSuchDirectory`].
pub(super) fn check_directory(options: &ServerOptions) -> Result<(), ServerError> {
    match &options.source {
        SourceOptions::Directory(directory) if !directory.root.is_dir() && options.data_dir.is_none() => {
            Err(ServerError::NoSuchDirectory(directory.root.clone()))
        }
        _ => Ok(()),
    }
}

/// One core is left to everything that is not a shard.
fn default_shards(cores: usize) -> u16 {
    u16::try_from(cores.saturating_sub(1)).unwrap_or(u16::MAX).clamp(1, SHARDS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_number_of_shards_is_one_less_than_the_cores_within_the_bound() {
        let cases = [(0, 1), (1, 1), (2, 1), (8, 7), (256, 255), (257, 255), (1000, 255), (usize::MAX, 255)];
        for (cores, shards) in cases {
            assert_eq!(default_shards(cores), shards, "{cores} cores");
        }
    }
}
