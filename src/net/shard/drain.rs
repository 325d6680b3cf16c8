//! Draining connections: at a rate for an endpoint, or all at shutdown.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;

use super::Shard;
use super::table::{Connection, ConnectionKey, ConnectionState};
use crate::net::drain::{ConnectionFacts, DrainRequest};
use crate::net::stats::CloseReason;
use weir_broker::{ConnId, EndpointId, Millis};
use weir_mqtt::ReasonCode;

/// A drain in progress.
pub(super) struct ActiveDrain {
    targets: VecDeque<ConnId>,
    request: DrainRequest,
    disconnected: u32,
    reply: oneshot::Sender<u32>,
}

/// The shard's shutdown.
pub(super) struct Shutdown {
    pub(super) deadline: Millis,
    reply: oneshot::Sender<()>,
}

impl Shard {
    pub(super) fn begin_drain(&mut self, request: DrainRequest, reply: oneshot::Sender<u32>) {
        if let Some(chosen) = &request.chosen {
            self.refuse_pending(request.endpoint, chosen);
        }
        self.past_drains.add(&request, self.now);
        let mut targets: VecDeque<ConnId> = self.core.connections(request.endpoint).into();
        targets.retain(|&id| {
            let Some(connection) = self.table.key_of(id).and_then(|key| self.table.get(key)) else { return false };
            request.selects(connection.sequence, connection.generation, || self.facts(id, connection))
        });
        self.drains.push(ActiveDrain { targets, request, disconnected: 0, reply });
    }

    /// Refuses pending connections that a drain has chosen.
    fn refuse_pending(&mut self, endpoint: EndpointId, sequences: &HashSet<u64>) {
        let is_chosen = |key: &ConnectionKey| {
            self.table.get(*key).is_some_and(|connection| {
                connection.guard.metrics().endpoint() == endpoint && sequences.contains(&connection.sequence)
            })
        };
        let pending: Vec<ConnectionKey> = self.pending.iter().copied().filter(is_chosen).collect();
        for key in pending {
            self.refuse(key, CloseReason::Shutdown, &[]);
        }
    }

    fn facts<'a>(&'a self, id: ConnId, connection: &'a Connection) -> Option<ConnectionFacts<'a>> {
        let client = self.core.client(id)?;
        Some(ConnectionFacts {
            client_id: client.client_id,
            principal: client.principal,
            peer: connection.peer,
            version: client.version,
            generation: connection.generation,
            certificates: connection.layers.as_ref().map(|layers| layers.peer_certificates()).unwrap_or_default(),
        })
    }

    pub(super) fn next_drain(&self) -> Millis {
        self.drains.iter().map(|drain| drain.request.rate.next_due()).min().unwrap_or(Millis::MAX)
    }

    /// Disconnects as many clients as the rates allow.
    pub(super) fn run_drains(&mut self) {
        if self.drains.is_empty() {
            return;
        }
        let (core, now) = (&mut self.core, self.now);
        for drain in &mut self.drains {
            let (plan, rate) = (&drain.request.plan, &drain.request.rate);
            let until = now + Millis::from(plan.in_flight_ms);
            let mut may_disconnect = false;
            while !drain.targets.is_empty() && (may_disconnect || rate.take(now)) {
                let Some(id) = drain.targets.pop_front() else { break };
                let disconnected = if plan.revokes {
                    core.revoke(id, plan.reason_code, now)
                } else {
                    core.begin_drain(id, plan.reason_code, plan.server_reference.clone(), until, now)
                };
                // The client may have disconnected already: then the next one has its turn.
                may_disconnect = !disconnected;
                drain.disconnected += u32::from(disconnected);
            }
        }
        for drain in self.drains.extract_if(.., |drain| drain.targets.is_empty()) {
            let _ = drain.reply.send(drain.disconnected);
        }
    }

    pub(super) fn begin_shutdown(&mut self, grace: Duration, reply: oneshot::Sender<()>) {
        for key in std::mem::take(&mut self.pending.clone()) {
            self.refuse(key, CloseReason::Shutdown, &[]);
        }
        let open: Vec<ConnId> = self
            .table
            .iter()
            .filter_map(|(_, connection)| match connection.state {
                ConnectionState::Open(id) => Some(id),
                _ => None,
            })
            .collect();
        let grace = Millis::try_from(grace.as_millis()).unwrap_or(Millis::MAX);
        let until = self.now.saturating_add(grace / 2);
        for id in open {
            self.core.begin_drain(id, ReasonCode::ServerShuttingDown.as_u8(), None, until, self.now);
        }
        self.shutdown = Some(Shutdown { deadline: self.now.saturating_add(grace), reply });
    }

    /// Stops the thread when all connections are closed, or the grace period is over.
    pub(super) fn check_shutdown(&mut self) {
        let Some(shutdown) = self.shutdown.take_if(|shutdown| self.table.len() == 0 || shutdown.deadline <= self.now)
        else {
            return;
        };
        let left: Vec<ConnectionKey> = self.table.iter().map(|(key, _)| key).collect();
        for key in left {
            self.abort_connection(key);
        }
        self.finish_turn();
        self.publish_counters();
        self.stopped = true;
        let _ = shutdown.reply.send(());
    }
}
