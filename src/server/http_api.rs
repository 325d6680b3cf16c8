//! The HTTP API of a server: bound first, so that a second broker at the same address fails before it opens a listener.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;

use super::error::ServerError;
use super::options::ServerOptions;
use super::run::host_name;
use super::traces::Traces;
use crate::net::DataPlane;
use crate::state::{NodeFacts, SharedState};
use crate::status::{LiveStatus, Secret, StatusOptions, StatusServer, is_host_name, serve};
use crate::store::records::StoreStats;
use weir_declare::config::NodeContext;

/// What the API shows.
pub(super) type View = Arc<LiveStatus>;

/// The parts of a server that its API shows.
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

/// The API, where there is one.
pub(super) struct HttpApi(Option<StatusServer>);

impl HttpApi {
    /// Serves at the bound address.
    ///
    /// # Errors
    /// [`ServerError::Status`].
    pub(super) fn start(
        socket: Option<TcpListener>,
        shown: Shown,
        traces: &Traces,
        options: &ServerOptions,
    ) -> Result<(Self, View), ServerError> {
        let Shown { control, plane, context, shards, facts, resync, store, directory, .. } = shown;
        let view = LiveStatus::new(control, plane, context, shards, facts, resync);
        #[cfg(feature = "cluster")]
        let view = view.with_cluster(shown.cluster);
        let view = Arc::new(view.with_store(store).with_telemetry(traces.stats()).with_directory(directory));
        let server = socket.map(|socket| start_status(socket, Arc::clone(&view), options)).transpose()?;
        Ok((Self(server), view))
    }

    /// Ends it.
    pub(super) async fn shutdown(self) {
        if let Some(server) = self.0 {
            server.shutdown().await;
        }
    }
}

/// Binds the status address, if there is one; with port 0, `options` get the one that was picked.
///
/// # Errors
/// [`ServerError::StatusAddress`].
pub(super) fn bind(options: &mut ServerOptions) -> Result<Option<TcpListener>, ServerError> {
    let Some(address) = options.status_addr else { return Ok(None) };
    let socket = TcpListener::bind(address).map_err(|source| ServerError::StatusAddress { address, source })?;
    options.status_addr = Some(socket.local_addr().map_err(ServerError::Status)?);
    Ok(Some(socket))
}

/// Whether it has TLS.
pub(super) fn is_secure(options: &ServerOptions) -> bool {
    options.status_access.tls.is_some()
}

/// The files and variables that hold its own secrets.
pub(super) fn secrets(options: &ServerOptions) -> (Vec<PathBuf>, Vec<String>) {
    let (mut files, mut variables) = (Vec::new(), Vec::new());
    match &options.status_access.token {
        Some(Secret::File(path)) => files.push(path.clone()),
        Some(Secret::Environment(name)) => variables.push(name.clone()),
        None => {}
    }
    files.extend(options.status_access.tls.as_ref().map(|tls| tls.key.clone()));
    (files, variables)
}

fn start_status(
    socket: TcpListener,
    view: Arc<LiveStatus>,
    options: &ServerOptions,
) -> Result<StatusServer, ServerError> {
    if access_in_clear_text(options) {
        tracing::warn!(
            status = options.status_addr.map(tracing::field::display),
            "credentials in clear text: the status token goes over the network without TLS; set --status-tls-cert and \
             --status-tls-key"
        );
    }
    let mut access = options.status_access.clone();
    // Other brokers find this one by its host's name where it listens on all addresses.
    access.hosts.extend(Some(host_name()).filter(|name| is_host_name(name)));
    if access.is_open() && options.status_addr.is_some_and(|address| !address.ip().is_loopback()) {
        tracing::warn!(
            status = options.status_addr.map(tracing::field::display),
            "status address is open: every host that reaches it can read endpoints and metrics; clients, topics and \
             documents are shown over loopback only; set --status-bearer-token or --status-client-ca"
        );
    }
    let options = StatusOptions { access, ..StatusOptions::default() };
    serve(socket, view, options).map_err(ServerError::Status)
}

/// A token that other machines send can be read on the network.
fn access_in_clear_text(options: &ServerOptions) -> bool {
    let access = &options.status_access;
    let reachable = options.status_addr.is_some_and(|address| !address.ip().is_loopback());
    access.token.is_some() && access.tls.is_none() && reachable
}
