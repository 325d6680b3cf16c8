//! Work on the local session while there is no link: creating it with the declared subscriptions, and ending it.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use super::driver::BridgeDriver;
use super::local_connection;
use super::relay::poll_local;
use super::wire::Wire;
use crate::net::find::ClientFilter;
use crate::net::in_process::socket_pair;
use crate::net::plane::DataPlane;
use weir_bridge::{BridgeFailure, BridgeLink, FailureCause};

/// Timeout of work on the local session.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Work on the local session while there is no link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LocalTask {
    /// Create it, with the declared subscriptions and limits.
    Subscribe,
    /// End it.
    EndSession,
}

impl BridgeDriver {
    /// Opens the connection to this broker.
    pub(super) fn open_local(&mut self) -> Result<Wire, BridgeFailure> {
        let pair = socket_pair();
        let (ours, theirs) = pair
            .map_err(|error| BridgeFailure::new(FailureCause::Local, format!("local socket pair failed: {error}")))?;
        self.plane.open_internal(theirs, local_connection::policy(&self.settings), &self.settings.spec.local_id);
        self.link.local_opened(self.plane.now())?;
        Ok(Wire::new(Box::new(ours)))
    }

    /// Connects to the local session for a task while there is no link.
    pub(super) async fn run_local_task(&mut self, task: LocalTask) -> Result<(), BridgeFailure> {
        let wire = self.open_local()?;
        let timed_out = || BridgeFailure::new(FailureCause::Local, "this broker did not answer its bridge in time");
        let run = self.drive_local_task(wire, task);
        let result = tokio::time::timeout(LOCAL_TIMEOUT, run).await.unwrap_or_else(|_| Err(timed_out()));
        self.link.closed();
        result
    }

    async fn drive_local_task(&mut self, mut wire: Wire, task: LocalTask) -> Result<(), BridgeFailure> {
        let mut disconnect_sent = false;
        loop {
            if self.link.needs_local_subscriptions() {
                let filters = self.local_subscriptions().await;
                self.link.set_local_subscriptions(filters)?;
            }
            if self.link.is_local_up() {
                match task {
                    LocalTask::Subscribe if !self.link.wants_local() => return Ok(()),
                    LocalTask::Subscribe => {}
                    LocalTask::EndSession if disconnect_sent && self.link.to_local().waiting().is_empty() => {
                        return Ok(());
                    }
                    LocalTask::EndSession if disconnect_sent => {}
                    LocalTask::EndSession => {
                        self.link.end_local_session()?;
                        disconnect_sent = true;
                    }
                }
            }
            let (link, plane) = (&mut self.link, &self.plane);
            poll_fn(|cx| poll_local_only(link, &mut wire, plane, cx)).await?;
        }
    }

    /// The subscriptions of the local session.
    pub(super) async fn local_subscriptions(&self) -> Vec<String> {
        let client_id = Some(self.settings.spec.local_id.to_string());
        let filter = ClientFilter { endpoint: Some(self.settings.endpoint), client_id, limit: 1, ..Default::default() };
        let found = self.plane.find_clients(filter).await.unwrap_or_default();
        found.into_iter().filter_map(|client| client.detail).flat_map(|detail| detail.subscriptions).collect()
    }
}

/// Reads and writes the local connection, when there is no remote one.
fn poll_local_only(
    link: &mut BridgeLink,
    wire: &mut Wire,
    plane: &DataPlane,
    cx: &mut Context<'_>,
) -> Poll<Result<(), BridgeFailure>> {
    match poll_local(link, wire, plane, cx) {
        Ok(true) => Poll::Ready(Ok(())),
        Ok(false) => Poll::Pending,
        Err(failure) => Poll::Ready(Err(failure)),
    }
}
