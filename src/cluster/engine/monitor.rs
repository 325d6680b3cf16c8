//! Reports changes of a connection.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Event};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::connect::is_new_enough;
use super::counters::Counters;
use super::events::{ConnectionChange, EngineConnection, EngineEvent, EventSender, ReceiverEnded};

/// How long a new connection may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Watches one connection.
pub(super) struct Monitor {
    pub(super) connection: EngineConnection,
    pub(super) client: Client,
    pub(super) events: EventSender,
    pub(super) counters: Arc<Counters>,
}

impl Monitor {
    /// Reports what the client says, until the engine stops; then waits until the client has ended.
    pub(super) async fn run(self, mut reports: mpsc::UnboundedReceiver<Event>, mut stopped: watch::Receiver<bool>) {
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => {}
            // The receiver of events may end before the engine does.
            _ = self.report(&mut reports) => {}
        }
        drop(self);
        while reports.recv().await.is_some() {}
    }

    async fn report(&self, reports: &mut mpsc::UnboundedReceiver<Event>) -> Result<(), ReceiverEnded> {
        let connection = self.connection;
        while let Some(report) = reports.recv().await {
            let change = match report {
                Event::Connected => {
                    self.counters.connections.one();
                    connected(&self.client, connection).await
                }
                Event::Disconnected => {
                    self.counters.disconnections.one();
                    ConnectionChange::Disconnected
                }
                Event::SlowConsumer(_) => {
                    self.counters.slow_consumer_drops.one();
                    continue;
                }
                Event::LameDuckMode => failed(connection, "the server shuts down".to_owned()),
                Event::ServerError(error) => failed(connection, error.to_string()),
                Event::ClientError(error) => failed(connection, error.to_string()),
                Event::Draining | Event::Closed => continue,
            };
            self.events.small(EngineEvent::Connection { connection, change }).await?;
        }
        Ok(())
    }
}

async fn connected(client: &Client, connection: EngineConnection) -> ConnectionChange {
    // The client reports the connection before it knows the new server.
    let flushed = timeout(ANSWER_WITHIN, client.flush()).await;
    if !matches!(flushed, Ok(Ok(()))) {
        tracing::debug!(connection = connection.as_str(), "engine does not answer yet");
    }
    let info = client.server_info();
    if !is_new_enough(&info.version) {
        tracing::error!(server = info.server_name, version = info.version, "engine server too old: upgrade it");
    }
    ConnectionChange::Connected { server: info.server_name, version: info.version }
}

fn failed(connection: EngineConnection, reason: String) -> ConnectionChange {
    tracing::debug!(connection = connection.as_str(), reason, "cluster engine connection failed");
    ConnectionChange::Failed { reason }
}
