//! Connections that end in order: the node with the socket asks the owner to disconnect their clients.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use mio::Token;
use tokio::sync::oneshot;

use super::pump::RelayKey;
use super::thread::{RelayThread, SWEEP_MS};
use super::{RelayEnd, RelayMessage};
use crate::net::drain::{DrainPlan, DrainWhich};
use crate::net::plane::PlaneRef;
use weir_broker::{EndpointId, Millis};

/// How a client is disconnected. `within_ms`: what is in flight may be acknowledged for so long.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct EndRequest {
    pub(super) code: u8,
    pub(super) within_ms: u32,
    pub(super) reference: Arc<str>,
}

/// Connections that are to end, at the rate of their drain.
struct Leaving {
    targets: VecDeque<Token>,
    per_sweep: usize,
    request: EndRequest,
    /// How long the owner may take to answer after `within_ms`.
    answer_ms: Millis,
}

/// The ends that are under way.
#[derive(Default)]
pub(super) struct Ends {
    leaving: Vec<Leaving>,
    /// What peers have asked in this turn: sequence numbers of connections of this node's shards.
    asked: HashMap<(EndpointId, EndRequest), HashSet<u64>>,
    /// The shutdown waits until no client is left, to this time.
    shutdown: Option<(Millis, oneshot::Sender<()>)>,
}

impl Ends {
    pub(super) fn is_timed(&self) -> bool {
        !self.leaving.is_empty() || self.shutdown.is_some()
    }
}

impl RelayThread {
    /// Begins a drain of the connections with their socket here. Returns their number.
    pub(super) fn drain(&mut self, endpoint: Option<EndpointId>, plan: &DrainPlan, answer_ms: Millis) -> u32 {
        let is_meant = |&(_, slot): &(&RelayKey, &u32)| {
            let origin = self.pumps.get(*slot).and_then(|pump| pump.origin);
            origin.is_some_and(|(of, generation)| {
                endpoint.is_none_or(|endpoint| endpoint == of)
                    && match plan.which {
                        DrainWhich::All => true,
                        DrainWhich::Before(before) => generation < before,
                        DrainWhich::Newest(_) | DrainWhich::NewestOfAddress(_) | DrainWhich::Matching(_) => false,
                    }
            })
        };
        let opened = self.slots.iter().filter(|(key, _)| key.is_opener).filter(is_meant);
        let targets: VecDeque<Token> = opened.map(|(_, slot)| self.token(*slot)).collect();
        let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        if targets.is_empty() {
            return 0;
        }
        let per_sweep = |per_s: u32| (u64::from(per_s) * SWEEP_MS).div_ceil(1000).max(1) as usize;
        let per_sweep = plan.per_s.map_or(usize::MAX, per_sweep);
        let within_ms = if plan.revokes { 0 } else { plan.in_flight_ms };
        let reference = plan.server_reference.clone().unwrap_or_default();
        let request = EndRequest { code: plan.reason_code, within_ms, reference };
        self.ends.leaving.push(Leaving { targets, per_sweep, request, answer_ms });
        self.sweep_soon();
        count
    }

    /// `closed` is answered when no client is left, or after `within`.
    pub(super) fn await_ends(&mut self, within: Millis, closed: oneshot::Sender<()>) {
        self.ends.shutdown = Some((self.now.saturating_add(within), closed));
        self.sweep_soon();
    }

    /// Asks for the ends that are due, and closes what no owner has ended in time.
    pub(super) fn sweep_ends(&mut self) {
        let now = self.now;
        for mut leaving in std::mem::take(&mut self.ends.leaving) {
            let count = leaving.per_sweep.min(leaving.targets.len());
            for token in leaving.targets.drain(..count) {
                let Some(pump) = self.pump_mut(token).filter(|pump| !pump.is_closing()) else { continue };
                let deadline = now.saturating_add(Millis::from(leaving.request.within_ms) + leaving.answer_ms);
                pump.end_by(deadline);
                let (key, EndRequest { code, within_ms, reference }) = (pump.key, leaving.request.clone());
                self.send(key.peer, RelayMessage::End { relay: key.relay, code, within_ms, reference });
            }
            if !leaving.targets.is_empty() {
                self.ends.leaving.push(leaving);
            }
        }
        let unanswered =
            self.slots.iter().filter(|(_, slot)| self.pumps.get(**slot).is_some_and(|pump| pump.is_unanswered(now)));
        let unanswered: Vec<(RelayKey, Token)> = unanswered.map(|(key, slot)| (*key, self.token(*slot))).collect();
        for (key, token) in unanswered {
            if let Some(pump) = self.pump_mut(token) {
                pump.finish(&[], now);
            }
            self.slots.remove(&key);
            self.close(&key, RelayEnd::Ended);
            self.ready.push(token);
        }
        let has_clients = self.pumps.iter().any(|(_, pump)| pump.key.is_opener);
        if let Some((_, closed)) = self.ends.shutdown.take_if(|(until, _)| !has_clients || *until <= now) {
            let _ = closed.send(());
        }
    }

    /// A peer asks to disconnect a client that this node serves for it.
    pub(super) fn on_end(&mut self, key: &RelayKey, request: EndRequest) {
        let Some(token) = self.known(key) else { return };
        if let Some((endpoint, sequence)) = self.pump_mut(token).and_then(|pump| pump.origin) {
            self.ends.asked.entry((endpoint, request)).or_default().insert(sequence);
        }
    }

    /// Gives the shards what peers have asked in this turn.
    pub(super) fn carry_out_ends(&mut self) {
        let Some(plane) = self.plane.as_ref().and_then(PlaneRef::get) else { return };
        for ((endpoint, request), sequences) in self.ends.asked.drain() {
            let plan = DrainPlan {
                which: DrainWhich::All,
                per_s: None,
                reason_code: request.code,
                server_reference: Some(request.reference).filter(|reference| !reference.is_empty()),
                in_flight_ms: request.within_ms,
                revokes: false,
                handshake_ms: 0,
            };
            plane.drain_chosen(endpoint, sequences, plan);
        }
    }
}
