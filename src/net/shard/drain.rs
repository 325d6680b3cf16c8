//! Draining connections: at a rate for an endpoint, or all at shutdown.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Shard;
use super::table::{Connection, ConnectionKey, ConnectionState};
use crate::net::drain::{ConnectionFacts, DrainPlan, DrainWhich};
use crate::net::stats::CloseReason;
use weir_broker::{ConnId, EndpointId, Millis};
use weir_mqtt::ReasonCode;

/// A drain in progress.
pub(super) struct ActiveDrain {
    targets: VecDeque<ConnId>,
    plan: Arc<DrainPlan>,
    /// This shard's share of the rate, connections per millisecond; `None`: all at once.
    per_ms: Option<f64>,
    /// Connections that may be disconnected now.
    credit: f64,
    updated: Millis,
    disconnected: u32,
    reply: oneshot::Sender<u32>,
}

/// A drain that has begun, kept for connections that were accepted before it and are not admitted yet.
pub(super) struct PastDrain {
    pub(super) endpoint: EndpointId,
    until_sequence: u64,
    plan: Arc<DrainPlan>,
    /// When every connection accepted before it is admitted or closed.
    until: Millis,
}

/// The effect of earlier drains on a connection that is about to be admitted.
pub(super) enum DrainDecision {
    Admit,
    /// It is admitted, and gets DISCONNECT at once.
    AdmitThenDisconnect(Arc<DrainPlan>),
    Refuse,
}

/// The shard's shutdown.
pub(super) struct Shutdown {
    pub(super) deadline: Millis,
    reply: oneshot::Sender<()>,
}

impl ActiveDrain {
    /// When the next connection may be disconnected.
    fn next_due(&self) -> Millis {
        match self.per_ms {
            Some(per_ms) if self.credit < 1.0 => {
                self.updated + (((1.0 - self.credit) / per_ms).ceil() as Millis).max(1)
            }
            _ => self.updated,
        }
    }
}

impl Shard {
    pub(super) fn begin_drain(
        &mut self,
        endpoint: EndpointId,
        chosen: Option<&HashSet<u64>>,
        until_sequence: u64,
        plan: Arc<DrainPlan>,
        reply: oneshot::Sender<u32>,
    ) {
        if let Some(chosen) = chosen {
            self.refuse_pending(endpoint, chosen);
        } else {
            let until = self.now + Millis::from(plan.handshake_ms);
            self.past_drains.retain(|past| past.until > self.now);
            self.past_drains.push(PastDrain { endpoint, until_sequence, plan: Arc::clone(&plan), until });
        }
        let mut targets: VecDeque<ConnId> = self.core.connections(endpoint).into();
        targets.retain(|&id| {
            let Some(connection) = self.table.key_of(id).and_then(|key| self.table.get(key)) else { return false };
            let sequence = connection.sequence;
            chosen.map_or(sequence <= until_sequence, |chosen| chosen.contains(&sequence))
                && match &plan.which {
                    DrainWhich::All | DrainWhich::Newest(_) | DrainWhich::NewestOfAddress(_) => true,
                    DrainWhich::Before(generation) => connection.generation < *generation,
                    DrainWhich::Matching(predicate) => {
                        self.facts(id, connection).is_some_and(|facts| predicate(&facts))
                    }
                }
        });
        let shards = self.peers.len() as f64;
        let per_ms = plan.per_s.map(|per_s| f64::from(per_s.max(1)) / shards / 1000.0);
        self.drains.push(ActiveDrain { targets, plan, per_ms, credit: 1.0, updated: self.now, disconnected: 0, reply });
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

    /// Applies the drains that began after a connection was accepted, at its admission.
    pub(super) fn drain_decision(
        &self,
        endpoint: EndpointId,
        sequence: u64,
        facts: &ConnectionFacts<'_>,
    ) -> DrainDecision {
        let mut decision = DrainDecision::Admit;
        for past in self.past_drains.iter().filter(|p| p.endpoint == endpoint && sequence <= p.until_sequence) {
            match &past.plan.which {
                DrainWhich::Matching(predicate) if predicate(facts) => return DrainDecision::Refuse,
                DrainWhich::Before(generation) if facts.generation >= *generation => {}
                DrainWhich::All | DrainWhich::Before(_) => {
                    decision = DrainDecision::AdmitThenDisconnect(Arc::clone(&past.plan))
                }
                DrainWhich::Matching(_) | DrainWhich::Newest(_) | DrainWhich::NewestOfAddress(_) => {}
            }
        }
        decision
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
        self.drains.iter().map(ActiveDrain::next_due).min().unwrap_or(Millis::MAX)
    }

    /// Disconnects as many clients as the rates allow.
    pub(super) fn run_drains(&mut self) {
        if self.drains.is_empty() {
            return;
        }
        let (core, now) = (&mut self.core, self.now);
        for drain in &mut self.drains {
            if let Some(per_ms) = drain.per_ms {
                drain.credit += now.saturating_sub(drain.updated) as f64 * per_ms;
            }
            drain.updated = now;
            while drain.per_ms.is_none() || drain.credit >= 1.0 {
                let Some(id) = drain.targets.pop_front() else { break };
                let (code, reference) = (drain.plan.reason_code, drain.plan.server_reference.clone());
                let until = now + Millis::from(drain.plan.in_flight_ms);
                let disconnected = if drain.plan.revokes {
                    core.revoke(id, code, now)
                } else {
                    core.begin_drain(id, code, reference, until, now)
                };
                // The client may have disconnected already.
                if disconnected {
                    drain.disconnected += 1;
                    drain.credit -= 1.0;
                }
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
