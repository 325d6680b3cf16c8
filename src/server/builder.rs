//! Opens everything that can fail before the broker serves: the store, the data plane, the runtime of the control
//! plane.

use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::error::ServerError;
use super::logging::LogControl;
use super::options::{ServerOptions, SourceOptions};
use super::run::{OnListening, ServerParts, serve_until_stopped};
use super::{durable_store, memory_size, signals};
use crate::apply::Signal;
use crate::net::{DataPlane, DataPlaneConfig};
use crate::store::records::Store;
use weir_broker::MemoryAccount;
use weir_broker::limits::SHARDS_MAX;

/// A server whose parts are open. It listens on nothing before [`Server::run`].
pub struct Server {
    options: ServerOptions,
    log: Option<Arc<LogControl>>,
    shards: u16,
    plane: DataPlane,
    store: Option<Store>,
    runtime: Runtime,
    listening: Option<OnListening>,
}

impl Server {
    /// Opens the store, with which durable sessions are back, and starts the threads that serve connections.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn build(options: ServerOptions) -> Result<Self, ServerError> {
        if let SourceOptions::Directory(directory) = &options.source
            && !directory.root.is_dir()
            && options.data_dir.is_none()
        {
            return Err(ServerError::NoSuchDirectory(directory.root.clone()));
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shards = options.shards.unwrap_or_else(|| default_shards(cores));
        let mut config = DataPlaneConfig { shards, ..DataPlaneConfig::default() };
        if let Some(bytes) = memory_size::resolve(options.memory) {
            config.memory = MemoryAccount::new(bytes);
        }
        let (plane, store) = match &options.data_dir {
            None => (DataPlane::start(&config).map_err(ServerError::DataPlane)?, None),
            Some(data_dir) => {
                let (plane, store) = durable_store::start(&config, data_dir)?;
                (plane, Some(store))
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("weir-control")
            .enable_all()
            .build()
            .map_err(ServerError::ControlPlane)?;
        Ok(Self { options, log: None, shards, plane, store, runtime, listening: None })
    }

    /// Keeps the levels of `log` as the endpoints declare them.
    #[must_use]
    pub fn with_log(mut self, log: Arc<LogControl>) -> Self {
        self.log = Some(log);
        self
    }

    /// Calls `listening` once, when all declared endpoints listen. It must not block.
    #[must_use]
    pub fn on_listening(mut self, listening: impl FnOnce() + Send + 'static) -> Self {
        self.listening = Some(Box::new(listening));
        self
    }

    /// Serves until SIGTERM or SIGINT. SIGHUP reads the source; a second SIGTERM ends without waiting for clients.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn run(self) -> Result<(), ServerError> {
        let signals = {
            let _inside = self.runtime.enter();
            signals::receive().map_err(ServerError::Signals)?
        };
        self.run_until(signals)
    }

    /// Serves until `signals` yields [`Signal::Stop`]; for programs that handle the process's signals themselves.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn run_until(self, signals: mpsc::Receiver<Signal>) -> Result<(), ServerError> {
        let Self { options, log, shards, plane, store, runtime, listening } = self;
        let stats = store.as_ref().map(Store::stats);
        let parts = ServerParts { options, log, shards, plane, store: stats, listening };
        runtime.block_on(serve_until_stopped(parts, signals))?;
        if let Some(store) = store {
            store.finish();
        }
        Ok(())
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
