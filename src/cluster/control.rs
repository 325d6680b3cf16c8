//! The control plane's end of a cluster: the declared settings go to its thread, and what it wants disconnected comes back.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::driver::ClusterView;
use super::inbox::Inbox;
use super::settings::{DisconnectCause, DisconnectCounts};
use weir_declare::config::ClusterSpec;

/// The control plane's end of a cluster.
#[derive(Debug)]
pub struct ClusterControl {
    pub(super) inbox: Arc<Inbox>,
    pub(super) requests: mpsc::UnboundedReceiver<DisconnectCause>,
    pub(super) counts: Arc<DisconnectCounts>,
    pub(super) view: watch::Receiver<ClusterView>,
    pub(super) replicas: u8,
}

impl ClusterControl {
    /// The settings that hold from now on; `None`: the defaults.
    pub fn set_spec(&self, spec: Option<Arc<ClusterSpec>>) {
        self.inbox.set_spec(spec);
    }

    /// Yields when all clients are to be disconnected.
    pub async fn next_disconnect(&mut self) -> DisconnectCause {
        match self.requests.recv().await {
            Some(cause) => cause,
            // The thread has ended.
            None => std::future::pending().await,
        }
    }

    /// Clients were disconnected.
    pub fn count_disconnects(&self, cause: DisconnectCause, clients: u32) {
        self.counts.add(cause, u64::from(clients));
    }

    /// Copies that the nats-servers keep, as the node was started.
    pub fn replicas(&self) -> u8 {
        self.replicas
    }

    /// The slots with which the cluster was founded; `None`: not known yet.
    pub fn founded_slots(&self) -> Option<u16> {
        self.view.borrow().founded_slots
    }
}
