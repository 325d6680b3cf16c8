//! Drains of an endpoint, and the shutdown: over the shards and the relay thread.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{DataPlane, PlaneError};
use crate::net::acceptor::Command;
use crate::net::drain::{DrainPlan, DrainRate, DrainRequest, DrainWhich, newest};
use crate::net::relay::RelayEvent;
use crate::net::shard::{Control, ShardEvent};
use weir_broker::{EndpointId, Millis};

impl DataPlane {
    /// Disconnects connections of an endpoint as planned. Returns their number when DISCONNECT was sent to, or is
    /// scheduled for, all of them. Dropping the future does not stop the drain.
    pub async fn drain(&self, endpoint: EndpointId, plan: DrainPlan) -> Result<u32, PlaneError> {
        let chosen = match plan.which {
            DrainWhich::Newest(_) | DrainWhich::NewestOfAddress(_) => {
                Some(newest(self.sequences(endpoint).await?, &plan.which))
            }
            DrainWhich::All | DrainWhich::Before(_) | DrainWhich::Matching(_) => None,
        };
        let request = self.drain_request(endpoint, chosen, plan);
        let (reply, relayed) = oneshot::channel();
        self.inner.tell_relay(RelayEvent::Drain { request: request.clone(), reply });
        let drained = self.ask_all(|reply| Control::Drain { request: request.clone(), reply }).await?;
        // Without relayed connections there is no thread that answers.
        Ok(drained.into_iter().sum::<u32>().saturating_add(relayed.await.unwrap_or(0)))
    }

    /// The sequence numbers and addresses of the connections that count for the limits of an endpoint.
    async fn sequences(&self, endpoint: EndpointId) -> Result<Vec<(u64, Option<IpAddr>)>, PlaneError> {
        let (reply, relayed) = oneshot::channel();
        self.inner.tell_relay(RelayEvent::Sequences { endpoint, reply });
        let mut accepted = self.ask_all(|reply| Control::Sequences { endpoint, reply }).await?.concat();
        accepted.extend(relayed.await.unwrap_or_default());
        Ok(accepted)
    }

    fn drain_request(&self, endpoint: EndpointId, chosen: Option<HashSet<u64>>, plan: DrainPlan) -> DrainRequest {
        let until_sequence = self.inner.sequence.load(Ordering::Acquire);
        let rate = Arc::new(DrainRate::new(plan.per_s, self.now()));
        DrainRequest { endpoint, chosen: chosen.map(Arc::new), until_sequence, plan: Arc::new(plan), rate }
    }

    /// Disconnects these connections of an endpoint, by sequence number.
    pub(in crate::net) fn drain_chosen(&self, endpoint: EndpointId, sequences: HashSet<u64>, plan: DrainPlan) {
        let request = self.drain_request(endpoint, Some(sequences), plan);
        for shard in &self.inner.shards {
            let (request, reply) = (request.clone(), oneshot::channel().0);
            shard.send(ShardEvent::Control(Control::Drain { request, reply }));
        }
        // The session may have moved before its client was admitted.
        self.inner.tell_relay(RelayEvent::Drain { request, reply: oneshot::channel().0 });
    }

    /// Stops accepting, sends DISCONNECT 0x8B (server shutting down; 5.0) to each client when it has nothing in flight,
    /// or after half of `grace`, and stops the threads when all connections are closed or `grace` is over.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), PlaneError> {
        let (reply, receiver) = oneshot::channel();
        self.inner.send_to_acceptor(Command::Stop { reply });
        receiver.await.map_err(|_| PlaneError::Stopped)?;
        let (relayed, relayed_closed) = oneshot::channel();
        let grace_ms = Millis::try_from(grace.as_millis()).unwrap_or(Millis::MAX);
        self.inner.tell_relay(RelayEvent::Shutdown { grace: grace_ms, closed: relayed });
        let closed = self.ask_all(|reply| Control::Shutdown { grace, reply }).await.map(|_| ());
        let _ = relayed_closed.await;
        let (stopped, receiver) = oneshot::channel();
        self.inner.tell_relay(RelayEvent::Stop { stopped });
        // Without relayed connections there is no thread that answers.
        let _ = receiver.await;
        closed
    }
}
