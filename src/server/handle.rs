//! A running server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::builder::memory_files;
use super::error::ServerError;
use super::options::{ServerOptions, SourceOptions};
use super::parts;
#[cfg(feature = "cluster")]
use super::run::node_name;
use super::run::{Running, launch};
use super::status::ServerStatus;
use crate::apply::Signal;
use crate::client::ClientBuilder;
#[cfg(feature = "cluster")]
use crate::cluster::Cluster;
use crate::events::{EventFilter, Events};
use crate::net::DataPlane;
use crate::source::{MemoryFile, memory_snapshot};
use crate::state::{ControlState, SharedState};
#[cfg(feature = "status")]
use crate::status::LiveStatus;
use weir_declare::config::{Diagnostic, LastGood, NodeContext, load};

/// A running server. Dropping it stops the server without waiting for its clients; [`ServerHandle::shutdown`] disconnects
/// them in order.
pub struct ServerHandle {
    running: Running,
    /// `None`: it is being stopped.
    signals: Option<mpsc::Sender<Signal>>,
}

impl ServerHandle {
    /// Starts a server, and waits for its first pass.
    pub(super) async fn start(options: ServerOptions) -> Result<Self, ServerError> {
        let files = match &options.source {
            SourceOptions::Memory(files) => Some(files.clone()),
            _ => None,
        };
        let server = Self::launch(options).await?;
        match files {
            Some(files) => {
                validate(&files, &server.running.context)?;
                server.wait_until_applied(&files).await?;
            }
            None => server.wait_for(|state| state.passes > 0 || state.source.error.is_some()).await,
        }
        Ok(server)
    }

    /// Starts a server, without waiting for its first pass.
    pub(super) async fn launch(options: ServerOptions) -> Result<Self, ServerError> {
        #[cfg(feature = "cluster")]
        let cluster = match &options.cluster {
            Some(cluster) => Some(Cluster::connect(cluster.clone(), &node_name(&options)?).await?),
            None => None,
        };
        let open = move || {
            parts::open(
                options,
                #[cfg(feature = "cluster")]
                cluster,
            )
        };
        let opened = tokio::task::spawn_blocking(open).await;
        let (running, signals) = launch(opened.map_err(ServerError::Task)??)?;
        Ok(Self { running, signals: Some(signals) })
    }

    /// Replaces the documents of [`ServerBuilder::documents`](super::ServerBuilder::documents), and returns when they are
    /// live. Clients that the change does not concern stay connected.
    ///
    /// # Errors
    /// [`ServerError::Invalid`]: nothing was changed. [`ServerError::NotLive`]: a port or a file cannot be used; the rest is
    /// live, and the server tries again. [`ServerError::NotInMemory`]: the documents are in a directory, git or etcd.
    pub async fn apply<P: Into<String>, T: Into<String>>(
        &self,
        documents: impl IntoIterator<Item = (P, T)>,
    ) -> Result<(), ServerError> {
        let Some(sender) = &self.running.documents else { return Err(ServerError::NotInMemory) };
        let files = memory_files(documents);
        validate(&files, &self.running.context)?;
        sender.send_replace(files.clone());
        self.wait_until_applied(&files).await
    }

    /// Reads the source now, as SIGHUP has `weir run` do.
    pub async fn reload(&self) {
        if let Some(signals) = &self.signals {
            // The receiver is gone where the server has ended.
            let _ended = signals.send(Signal::Reload).await;
        }
    }

    /// The address of an endpoint's listener, with the port that was picked for 0; `None`: nothing of this name listens, or
    /// it is a Unix socket.
    pub fn address(&self, endpoint: &str) -> Option<SocketAddr> {
        self.status().endpoints.into_iter().find(|status| status.name == endpoint)?.address
    }

    /// Describes a client in this process with this client id. Unless it is [trusted](ClientBuilder::trusted), it has the
    /// rights of an endpoint's clients: its access list, its limits, its namespace. No password is asked.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use weirmq::client::QoS;
    /// let server = weirmq::Server::builder()
    ///     .documents([("mqtt.yaml", "endpoint: {name: mqtt, port: 0, enableAuth: false, enableAcl: false}")])
    ///     .start()
    ///     .await?;
    /// let (client, mut messages) = server.client("billing").connect().await?;
    /// client.subscribe("sensor/+/temp", QoS::AtLeastOnce).await?;
    /// client.publish("sensor/room1/temp", "25.5", QoS::AtLeastOnce).await?;
    /// let message = messages.next().await.expect("a message");
    /// assert_eq!((message.topic(), message.text()), ("sensor/room1/temp", Some("25.5")));
    /// message.ack();
    /// # Ok(())
    /// # }
    /// ```
    pub fn client(&self, client_id: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(self.plane(), self.control(), client_id.into())
    }

    /// A stream of what happens from now on, of the kinds that `filter` selects. It is bounded, and nothing waits for its
    /// reader: [`Events::missed`] counts what it was too slow for.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use weirmq::events::{Event, EventFilter};
    /// let server = weirmq::Server::builder()
    ///     .documents([("mqtt.yaml", "endpoint: {name: mqtt, port: 0, enableAuth: false, enableAcl: false}")])
    ///     .start()
    ///     .await?;
    /// let mut events = server.events(EventFilter::topics(["client/#"])?);
    /// let (_client, _messages) = server.client("billing").connect().await?;
    /// let Some(Event::ClientConnected { client, protocol, .. }) = events.next().await else { panic!() };
    /// assert_eq!((client.client_id.as_str(), client.endpoint.as_str(), protocol.as_str()), ("billing", "mqtt", "5.0"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self, filter: EventFilter) -> Events {
        self.running.plane.events(&filter)
    }

    /// The address of the HTTP API; `None`: there is none.
    pub fn status_address(&self) -> Option<SocketAddr> {
        self.running.status_addr
    }

    /// What is declared, live and rejected.
    pub fn status(&self) -> ServerStatus {
        ServerStatus::of(&self.running.state.load(), &self.running.plane)
    }

    /// Disconnects the clients (those of MQTT 5.0 with 0x8B), stores what is to be stored, and ends all threads.
    ///
    /// # Errors
    /// [`ServerError::StoreFailed`]: what was not acknowledged may be lost.
    pub async fn shutdown(mut self) -> Result<(), ServerError> {
        self.signals = None;
        self.ended().await
    }

    /// Returns when the server has ended: after a failure of its store, or because its runtime ends.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub async fn ended(&mut self) -> Result<(), ServerError> {
        (&mut self.running.task).await.map_err(ServerError::Task)?
    }

    /// What this server serves in its HTTP API.
    #[cfg(feature = "status")]
    pub(super) fn view(&self) -> &LiveStatus {
        &self.running.view
    }

    /// The published state of the control plane.
    pub(super) fn control(&self) -> Arc<SharedState> {
        Arc::clone(&self.running.state)
    }

    /// The data plane.
    pub(super) fn plane(&self) -> DataPlane {
        self.running.plane.clone()
    }

    /// The data plane, for a question.
    pub(super) fn data_plane(&self) -> &DataPlane {
        &self.running.plane
    }

    async fn wait_for(&self, condition: impl Fn(&ControlState) -> bool) {
        let mut changes = self.running.state.subscribe();
        while !condition(&self.running.state.load()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits for the pass that applies `files`.
    async fn wait_until_applied(&self, files: &[MemoryFile]) -> Result<(), ServerError> {
        let revision = memory_snapshot(files).revision.to_string();
        self.wait_for(|state| state.source.attempted_revision.as_ref() == Some(&revision)).await;
        let problems = self.status().problems;
        if problems.is_empty() { Ok(()) } else { Err(ServerError::NotLive(problems)) }
    }
}

impl std::fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerHandle").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        if self.signals.is_some() {
            self.running.grace.send_replace(Duration::ZERO);
        }
    }
}

/// All errors of all documents at once.
fn validate(files: &[MemoryFile], node: &NodeContext) -> Result<(), ServerError> {
    let loaded = load(&memory_snapshot(files), &LastGood::default(), node);
    let errors = loaded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).map(one_line);
    let errors: Vec<String> = errors.collect();
    if errors.is_empty() { Ok(()) } else { Err(ServerError::Invalid(errors)) }
}

/// `memory/lab.yaml:1:12: endpoint.prt: unknown field (did you mean `port`?)`
pub(super) fn one_line(diagnostic: &Diagnostic) -> String {
    let Diagnostic { file, position, path, message, help, .. } = diagnostic;
    let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
    let help = help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
    format!("{file}:{}:{}: {path}{message}{help}", position.line, position.col)
}

/// Returns once something is declared and all of it listens.
pub(super) async fn listens(shared: &SharedState) {
    let mut changes = shared.subscribe();
    while !all_listen(&shared.load()) {
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn all_listen(state: &ControlState) -> bool {
    let mut declared = state.endpoints.values().filter(|endpoint| endpoint.declared.is_some()).peekable();
    declared.peek().is_some() && declared.all(|endpoint| endpoint.live.is_some())
}
