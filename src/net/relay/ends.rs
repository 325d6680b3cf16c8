//! Connections that end in order: the node with the socket asks the owner to disconnect their clients, and does it itself where
//! the owner does not answer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use mio::Token;
use tokio::sync::oneshot;

use super::client::facts_of;
use super::pump::{Pump, RelayKey};
use super::thread::RelayThread;
use super::{RelayEnd, RelayMessage};
use crate::net::drain::{DrainDecision, DrainPlan, DrainRate, DrainRequest, DrainWhich, PastDrains};
use crate::net::plane::PlaneRef;
use crate::net::shard::HandOver;
use weir_broker::{EndpointId, Millis};
use weir_mqtt::ReasonCode;

/// How long an owner may take, after the time for what is in flight, to end a connection as asked, milliseconds.
const ANSWER_MS: Millis = 5_000;

/// How a client is disconnected. `within_ms`: what is in flight may be acknowledged for so long. `revokes`: it has lost its right
/// to be connected, and its will is not published.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct EndRequest {
    pub(super) code: u8,
    pub(super) within_ms: u32,
    pub(super) revokes: bool,
    pub(super) reference: Arc<str>,
}

impl EndRequest {
    fn new(plan: &DrainPlan) -> Self {
        let within_ms = if plan.revokes { 0 } else { plan.in_flight_ms };
        let reference = plan.server_reference.clone().unwrap_or_default();
        Self { code: plan.reason_code, within_ms, revokes: plan.revokes, reference }
    }
}

/// Connections that are to end, at the rate of their drain.
struct Leaving {
    targets: VecDeque<Token>,
    rate: Arc<DrainRate>,
    request: EndRequest,
    /// How long the owner may take to answer after `within_ms`.
    answer_ms: Millis,
    asked: u32,
    reply: Option<oneshot::Sender<u32>>,
}

/// The ends that are under way.
#[derive(Default)]
pub(super) struct Ends {
    leaving: Vec<Leaving>,
    /// Drains that still apply to clients that are handed over later.
    past: PastDrains,
    /// What peers have asked in this turn: sequence numbers of connections of this node's shards.
    asked: HashMap<(EndpointId, EndRequest), HashSet<u64>>,
    /// The shutdown waits until no client is left, to this time.
    shutdown: Option<(Millis, oneshot::Sender<()>)>,
}

impl Ends {
    pub(super) fn is_timed(&self) -> bool {
        !self.leaving.is_empty() || self.shutdown.is_some()
    }

    /// Whether a client that is handed over now may be brought to its session.
    pub(super) fn admits(&self, hand_over: &HandOver) -> bool {
        let decision = self.past.decision(hand_over.policy.id, hand_over.sequence, &facts_of(hand_over));
        self.shutdown.is_none() && matches!(decision, DrainDecision::Admit)
    }
}

impl RelayThread {
    /// Begins a drain of the clients with their socket here. `reply` gets their number when the owners of all were asked.
    pub(super) fn begin_drain(&mut self, request: &DrainRequest, reply: oneshot::Sender<u32>) {
        self.ends.past.add(request, self.now);
        self.refuse_openings(Some(request));
        let leaving = Leaving {
            targets: self.selected(Some(request)),
            rate: Arc::clone(&request.rate),
            request: EndRequest::new(&request.plan),
            answer_ms: ANSWER_MS,
            asked: 0,
            reply: Some(reply),
        };
        self.disconnect_in_turn(leaving);
    }

    /// Begins to disconnect all clients with their socket here. `closed` is answered when none is left, or after `grace`.
    pub(super) fn begin_shutdown(&mut self, grace: Millis, closed: oneshot::Sender<()>) {
        self.refuse_openings(None);
        let request = EndRequest {
            code: ReasonCode::ServerShuttingDown.as_u8(),
            within_ms: u32::try_from(grace / 2).unwrap_or(u32::MAX),
            revokes: false,
            reference: Arc::default(),
        };
        let (targets, rate) = (self.selected(None), Arc::new(DrainRate::new(None, self.now)));
        self.disconnect_in_turn(Leaving { targets, rate, request, answer_ms: grace / 4, asked: 0, reply: None });
        self.ends.shutdown = Some((self.now.saturating_add(grace), closed));
        self.sweep_soon();
    }

    fn selected(&self, request: Option<&DrainRequest>) -> VecDeque<Token> {
        let known =
            self.slots.values().filter(|slot| self.pumps.get(**slot).is_some_and(|pump| pump.is_selected(request)));
        known.map(|slot| self.token(*slot)).collect()
    }

    /// Clients whose owner has not answered yet are refused.
    fn refuse_openings(&mut self, request: Option<&DrainRequest>) {
        let is_selected = |hand_over: &HandOver| {
            request.is_none_or(|request| {
                let facts = || Some(facts_of(hand_over));
                request.endpoint == hand_over.policy.id
                    && request.selects(hand_over.sequence, hand_over.policy.generation, facts)
            })
        };
        for (key, opening) in self.openings.take_if(|opening| is_selected(&opening.hand_over)) {
            self.abandon(key, opening, "the node disconnects its clients");
        }
    }

    /// The sequence numbers and addresses of the clients that count for the limits of an endpoint.
    pub(super) fn sequences(&self, endpoint: EndpointId) -> Vec<(u64, Option<IpAddr>)> {
        let address = |hand_over: &HandOver| hand_over.peer.map(|peer| peer.ip());
        let openings = self.openings.iter().map(|opening| &opening.hand_over);
        let openings = openings.filter(|hand_over| hand_over.guard.counts_for() == Some(endpoint));
        let openings = openings.map(|hand_over| (hand_over.sequence, address(hand_over)));
        let known = self.slots.values().filter_map(|slot| self.pumps.get(*slot)?.client()?.counted(endpoint));
        known.chain(openings).collect()
    }

    /// Asks the owners, as far as the rate allows. The others have their turn in a later sweep.
    fn disconnect_in_turn(&mut self, mut leaving: Leaving) {
        let now = self.now;
        let deadline = now.saturating_add(Millis::from(leaving.request.within_ms) + leaving.answer_ms);
        let mut may_ask = false;
        while !leaving.targets.is_empty() && (may_ask || leaving.rate.take(now)) {
            let Some(token) = leaving.targets.pop_front() else { break };
            // The client may have gone, or been asked, already: then the next one has its turn.
            may_ask = true;
            let Some(pump) = self.pump_mut(token).filter(|pump| !pump.is_closing()) else { continue };
            let (key, request) = (pump.key, leaving.request.clone());
            let Some(client) = pump.client_mut() else { continue };
            let is_first = client.end_by(deadline, request.clone());
            let EndRequest { code, within_ms, revokes, reference } = request;
            self.send(key.peer, RelayMessage::End { relay: key.relay, code, within_ms, revokes, reference });
            (may_ask, leaving.asked) = (!is_first, leaving.asked + u32::from(is_first));
            self.sweep_soon();
        }
        if !leaving.targets.is_empty() {
            self.ends.leaving.push(leaving);
            self.sweep_soon();
        } else if let Some(reply) = leaving.reply {
            let _ = reply.send(leaving.asked);
        }
    }

    /// Asks for the ends that are due, and ends what no owner has ended in time.
    pub(super) fn sweep_ends(&mut self) {
        let now = self.now;
        for leaving in std::mem::take(&mut self.ends.leaving) {
            self.disconnect_in_turn(leaving);
        }
        let is_unanswered = |slot: &u32| self.pumps.get(*slot).is_some_and(|pump: &Pump| pump.is_unanswered(now));
        let unanswered = self.slots.iter().filter(|(_, slot)| is_unanswered(slot));
        let unanswered: Vec<(RelayKey, Token)> = unanswered.map(|(key, slot)| (*key, self.token(*slot))).collect();
        for (key, token) in unanswered {
            self.end_here(token);
            self.slots.remove(&key);
            self.close(&key, RelayEnd::Ended);
        }
        let has_clients = self.pumps.iter().any(|(_, pump)| pump.key.is_opener);
        if let Some((_, closed)) = self.ends.shutdown.take_if(|(until, _)| !has_clients || *until <= now) {
            let _ = closed.send(());
        }
    }

    /// Ends a connection whose owner does not: with the last packet, where the owner was asked to.
    pub(super) fn end_here(&mut self, token: Token) {
        let now = self.now;
        if let Some(pump) = self.pump_mut(token) {
            pump.finish_alone(now);
        }
        self.ready.push(token);
    }

    /// A peer asks to disconnect a client that this node serves for it.
    pub(super) fn on_end(&mut self, key: &RelayKey, request: EndRequest) {
        let Some(token) = self.known(key) else { return };
        if let Some((endpoint, sequence)) = self.pump_mut(token).and_then(|pump| pump.served()) {
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
                revokes: request.revokes,
                handshake_ms: 0,
            };
            plane.drain_chosen(endpoint, sequences, plan);
        }
    }
}
