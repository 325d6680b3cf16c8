//! In a build without the feature `status`: there is no HTTP API.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;

use super::error::ServerError;
use super::options::ServerOptions;
use super::traces::Traces;
use crate::net::DataPlane;
use crate::state::{NodeFacts, SharedState};
use crate::store::records::StoreStats;
use weir_declare::config::NodeContext;

/// What the API would show.
pub(super) struct View;

pub(super) struct Shown {
    pub(super) control: Arc<SharedState>,
    pub(super) plane: DataPlane,
    pub(super) context: NodeContext,
    pub(super) shards: u16,
    pub(super) facts: NodeFacts,
    pub(super) resync: Arc<Notify>,
    pub(super) store: Option<Arc<StoreStats>>,
    pub(super) directory: Option<PathBuf>,
    #[cfg(feature = "cluster")]
    pub(super) cluster: Option<tokio::sync::watch::Receiver<crate::cluster::ClusterView>>,
}

pub(super) struct HttpApi;

/// Nothing is bound.
pub(super) struct NoSocket;

impl HttpApi {
    pub(super) fn start(_: NoSocket, _: Shown, _: &Traces, _: &ServerOptions) -> Result<(Self, View), ServerError> {
        Ok((Self, View))
    }

    pub(super) async fn shutdown(self) {}
}

pub(super) fn bind(_: &mut ServerOptions) -> Result<NoSocket, ServerError> {
    Ok(NoSocket)
}

pub(super) fn is_secure(_: &ServerOptions) -> bool {
    false
}

pub(super) fn secrets(_: &ServerOptions) -> (Vec<PathBuf>, Vec<String>) {
    (Vec::new(), Vec::new())
}
