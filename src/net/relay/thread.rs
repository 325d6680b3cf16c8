//! The thread that copies the bytes of relayed connections.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};

use super::admission::Admission;
use super::ends::Ends;
use super::openings::{Opening, Openings};
use super::pump::{Pump, RelayKey, Role, Step};
use super::{Owner, RelayConfig, RelayEnd, RelayEvent, RelayMessage, WINDOW_BYTES};
use crate::auth::AuthRefusal;
use crate::log_value::log_value;
use crate::net::mailbox::{CloseOnEnd, Mailbox};
use crate::net::plane::PlaneRef;
use crate::net::shard::{HandOver, refusal_packet};
use crate::net::stats::CloseReason;
use crate::net::threads::Threads;
use weir_broker::placement::needs_owner;
use weir_broker::{EndpointPolicy, Millis, Slab};
use weir_mqtt::Connect;

const WAKER: Token = Token(usize::MAX);
const EVENTS: usize = 1024;
/// Interval of the check for deadlines, milliseconds.
const SWEEP_MS: u64 = 50;
/// Turns in which the last bytes of a connection are read at the end: each is of a window.
const STOP_TURNS: usize = 4;

/// The way to the thread.
#[derive(Clone)]
pub(in crate::net) struct RelayHandle {
    mailbox: Arc<Mailbox<RelayEvent>>,
    config: RelayConfig,
}

impl RelayHandle {
    pub(in crate::net) fn send(&self, event: RelayEvent) {
        self.mailbox.send(event);
    }

    /// Whether another node has the session that a CONNECT continues, or begins.
    pub(in crate::net) fn is_elsewhere(&self, policy: &EndpointPolicy, connect: &Connect<'_>, client_id: &str) -> bool {
        needs_owner(connect, client_id) && self.owner(policy, client_id).1 != Owner::Here
    }

    pub(super) fn owner(&self, policy: &EndpointPolicy, client_id: &str) -> (u16, Owner) {
        self.config.lookup.owner(policy.limits.durability, &policy.namespace, client_id)
    }
}

/// The thread, before it runs and while it does.
pub(in crate::net) struct RelayThread {
    pub(super) handle: RelayHandle,
    poll: Poll,
    pub(super) plane: Option<PlaneRef>,
    pub(super) pumps: Slab<u32, Pump>,
    pub(super) slots: HashMap<RelayKey, u32>,
    pub(super) openings: Openings,
    /// Peers to which too much is on the way.
    pub(super) congested: HashSet<u64>,
    pub(super) served: usize,
    pub(super) ends: Ends,
    last_relay: u64,
    /// Connections with something to do for which no event comes.
    pub(super) ready: Vec<Token>,
    buffer: Vec<u8>,
    pub(super) now: Millis,
    /// When deadlines are looked at next; `Millis::MAX`: nothing has one.
    next_sweep: Millis,
    is_stopped: bool,
}

impl RelayThread {
    pub(in crate::net) fn new(config: RelayConfig) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mailbox = Arc::new(Mailbox::new(Waker::new(poll.registry(), WAKER)?));
        Ok(Self {
            handle: RelayHandle { mailbox, config },
            poll,
            plane: None,
            pumps: Slab::default(),
            slots: HashMap::new(),
            openings: Openings::default(),
            congested: HashSet::new(),
            served: 0,
            ends: Ends::default(),
            last_relay: 0,
            ready: Vec::new(),
            buffer: vec![0; WINDOW_BYTES],
            now: 0,
            next_sweep: Millis::MAX,
            is_stopped: false,
        })
    }

    pub(in crate::net) fn handle(&self) -> RelayHandle {
        self.handle.clone()
    }

    /// # Errors
    /// The system refused the thread.
    pub(in crate::net) fn start(mut self, plane: PlaneRef, threads: &Threads) -> io::Result<()> {
        self.plane = Some(plane);
        threads.spawn("weir-relay", move || {
            let _closes = CloseOnEnd(Arc::clone(&self.handle.mailbox));
            let (mut events, mut mail) = (Events::with_capacity(EVENTS), Vec::new());
            while !self.is_stopped {
                self.turn(&mut events, &mut mail);
            }
        })
    }

    fn turn(&mut self, events: &mut Events, mail: &mut Vec<RelayEvent>) {
        let may_sleep = self.ready.is_empty() && self.handle.mailbox.may_sleep();
        let timeout = if may_sleep { self.sleep() } else { Some(Duration::ZERO) };
        if let Err(error) = self.poll.poll(events, timeout)
            && error.kind() != io::ErrorKind::Interrupted
        {
            tracing::error!(%error, "relay event loop failed");
        }
        self.handle.mailbox.awake();
        let Some(plane) = self.plane.as_ref().and_then(PlaneRef::get) else { return self.is_stopped = true };
        self.now = plane.now();
        drop(plane);
        self.handle.mailbox.take_all(mail);
        mail.drain(..).for_each(|event| self.on_event(event));
        self.carry_out_ends();
        let now = self.now;
        for event in events.iter().filter(|event| event.token() != WAKER) {
            if let Some(pump) = self.pump_mut(event.token()) {
                pump.set_unread();
                let has_hung_up = (event.is_read_closed() || event.is_error()) && pump.set_hung_up(now);
                self.ready.push(event.token());
                if has_hung_up {
                    self.sweep_soon();
                }
            }
        }
        for token in std::mem::take(&mut self.ready) {
            self.run_pump(token);
        }
        if self.now >= self.next_sweep {
            self.sweep();
        }
    }

    fn sleep(&self) -> Option<Duration> {
        let is_timed = self.next_sweep != Millis::MAX;
        is_timed.then(|| Duration::from_millis(self.next_sweep.saturating_sub(self.now).clamp(1, SWEEP_MS)))
    }

    /// Something has a deadline.
    pub(super) fn sweep_soon(&mut self) {
        self.next_sweep = self.next_sweep.min(self.now + SWEEP_MS);
    }

    pub(super) fn pump_mut(&mut self, token: Token) -> Option<&mut Pump> {
        let bits = token.0 as u64;
        self.pumps.get_generation_mut(bits as u32, (bits >> 32) as u32)
    }

    pub(super) fn token(&self, slot: u32) -> Token {
        Token(((u64::from(self.pumps.generation(slot)) << 32) | u64::from(slot)) as usize)
    }

    fn on_event(&mut self, event: RelayEvent) {
        match event {
            RelayEvent::HandOver(hand_over) => self.open(Opening::new(hand_over, self.now)),
            RelayEvent::Message { peer, message } => self.on_message(peer, message),
            RelayEvent::PeerLost(peer) => self.on_peer_lost(peer),
            RelayEvent::Congested { peer, congested: true } => {
                self.congested.insert(peer);
            }
            RelayEvent::Congested { peer, congested: false } => {
                self.congested.remove(&peer);
                let of_peer = self.slots.iter().filter(|(key, _)| key.peer == peer);
                let tokens: Vec<Token> = of_peer.map(|(_, slot)| self.token(*slot)).collect();
                self.ready.extend(tokens);
            }
            RelayEvent::Drain { request, reply } => self.begin_drain(&request, reply),
            RelayEvent::Sequences { endpoint, reply } => {
                let _ = reply.send(self.sequences(endpoint));
            }
            RelayEvent::Shutdown { grace, closed } => self.begin_shutdown(grace, closed),
            RelayEvent::SlotsChanged => self.look_again(),
            RelayEvent::Stop { stopped } => {
                self.stop();
                let _ = stopped.send(());
            }
        }
    }

    fn look_again(&mut self) {
        for opening in self.openings.take_waiting() {
            self.open(opening);
        }
    }

    /// Looks again for an owner, soon.
    pub(super) fn wait(&mut self, opening: Opening) {
        self.openings.wait(opening);
        self.sweep_soon();
    }

    /// Brings a client to the node that has its session.
    fn open(&mut self, opening: Opening) {
        if !self.ends.admits(&opening.hand_over) {
            return self.refuse(*opening.hand_over, "the node disconnects its clients");
        }
        if self.openings.is_full() {
            return self.refuse(*opening.hand_over, "too many clients wait for their sessions");
        }
        let hand_over = &opening.hand_over;
        let (slot, owner) = self.handle.owner(&hand_over.policy, &hand_over.client_id);
        let peer = match owner {
            Owner::Unknown => return self.wait(opening),
            Owner::Here => return self.serve_here(*opening.hand_over),
            Owner::Peer(peer) => peer,
        };
        match Admission::encode(hand_over, self.now) {
            Ok(admission) => {
                self.last_relay += 1;
                let key = RelayKey { peer, relay: self.last_relay, is_opener: true };
                self.send(peer, RelayMessage::Open { relay: key.relay, slot, admission });
                self.openings.ask(key, opening);
                self.sweep_soon();
            }
            Err(error) => self.refuse(*opening.hand_over, &error.to_string()),
        }
    }

    fn serve_here(&self, hand_over: HandOver) {
        if let Some(plane) = self.plane.as_ref().and_then(PlaneRef::get) {
            plane.hand_over(hand_over);
        }
    }

    pub(super) fn send(&self, peer: u64, message: RelayMessage) {
        self.handle.config.port.send(peer, message);
    }

    /// Answers CONNECT with 0x88 (3.x: 3).
    pub(super) fn refuse(&mut self, hand_over: HandOver, why: &str) {
        let HandOver { stream, layers, guard, version, client_id, policy, .. } = hand_over;
        guard.metrics().count_refused(CloseReason::NodeOut);
        let (endpoint, client_id) = (&*policy.name, log_value(&client_id));
        tracing::info!(endpoint, client_id = &*client_id, why, "session not reached: client refused with 0x88");
        let key = RelayKey { peer: 0, relay: 0, is_opener: true };
        self.sweep_soon();
        let mut pump = Pump::new(key, stream, layers, Role::Refused { _guard: guard }, 0);
        pump.finish_with(&refusal_packet(version, AuthRefusal::Unavailable), self.now);
        self.insert(pump, false);
    }

    /// Refuses a client that waits; with the key where an owner was asked.
    pub(super) fn abandon(&mut self, key: Option<RelayKey>, opening: Opening, why: &str) {
        if let Some(key) = key {
            self.close(&key, RelayEnd::Ended);
        }
        self.refuse(*opening.hand_over, why);
    }

    /// Begins to copy. `is_known`: messages of the peer find it by its key.
    pub(super) fn insert(&mut self, pump: Pump, is_known: bool) {
        let key = pump.key;
        let (slot, _) = self.pumps.insert(pump);
        let token = self.token(slot);
        if is_known {
            self.slots.insert(key, slot);
        }
        let registry = self.poll.registry();
        if let Some(pump) = self.pumps.get_mut(slot)
            && let Err(error) = pump.register(registry, token)
        {
            tracing::error!(%error, "relayed connection not registered: closing it");
            return self.remove(token, true);
        }
        self.ready.push(token);
    }

    pub(super) fn remove(&mut self, token: Token, tell_peer: bool) {
        let slot = token.0 as u64 as u32;
        let Some(pump) = self.pumps.remove(slot) else { return };
        let key = pump.key;
        if self.slots.get(&key) == Some(&slot) {
            self.slots.remove(&key);
            self.served -= usize::from(!key.is_opener);
            if tell_peer {
                self.close(&key, RelayEnd::Ended);
            }
        }
    }

    pub(super) fn close(&self, key: &RelayKey, reason: RelayEnd) {
        self.send(key.peer, RelayMessage::Close { relay: key.relay, from_opener: key.is_opener, reason });
    }

    fn run_pump(&mut self, token: Token) {
        let (mut step, mut buffer) = (Step::default(), std::mem::take(&mut self.buffer));
        let (registry, now) = (self.poll.registry(), self.now);
        let bits = token.0 as u64;
        let Some(pump) = self.pumps.get_generation_mut(bits as u32, (bits >> 32) as u32) else {
            self.buffer = buffer;
            return;
        };
        let key = pump.key;
        pump.read(!self.congested.contains(&key.peer), &mut buffer, &mut step);
        if step.ended.is_none() {
            pump.flush(registry, token, now, &mut step);
        }
        self.buffer = buffer;
        for bytes in step.data {
            self.send(key.peer, RelayMessage::Data { relay: key.relay, from_opener: key.is_opener, bytes });
        }
        if let Some(tell_peer) = step.ended {
            return self.remove(token, tell_peer);
        }
        if step.credit > 0 {
            let bytes = u32::try_from(step.credit).unwrap_or(u32::MAX);
            self.send(key.peer, RelayMessage::Credit { relay: key.relay, from_opener: key.is_opener, bytes });
        }
        if step.more {
            self.ready.push(token);
        }
    }

    fn sweep(&mut self) {
        if !self.openings.is_empty() {
            self.look_again();
            for (key, opening) in self.openings.take_late(self.now) {
                self.abandon(key, opening, "no node has it now");
            }
        }
        self.sweep_ends();
        let (now, mut has_deadlines) = (self.now, false);
        let mut late = Vec::new();
        for (slot, pump) in self.pumps.iter().filter(|(_, pump)| pump.has_deadline()) {
            has_deadlines = true;
            if pump.is_late(now) {
                late.push((slot, !pump.is_closing()));
            }
        }
        late.into_iter().for_each(|(slot, tell_peer)| self.remove(self.token(slot), tell_peer));
        let is_timed = has_deadlines || !self.openings.is_empty() || self.ends.is_timed();
        self.next_sweep = if is_timed { now + SWEEP_MS } else { Millis::MAX };
    }

    fn stop(&mut self) {
        // DISCONNECT waits in the sockets of the shards, which have closed them.
        self.congested.clear();
        let served: Vec<Token> =
            self.slots.iter().filter(|(key, _)| !key.is_opener).map(|(_, slot)| self.token(*slot)).collect();
        for token in served {
            for _ in 0..STOP_TURNS {
                let Some(pump) = self.pump_mut(token) else { break };
                pump.set_unread();
                self.run_pump(token);
            }
        }
        for (key, _) in self.openings.take_if(|_| true) {
            if let Some(key) = key {
                self.close(&key, RelayEnd::Ended);
            }
        }
        for key in self.slots.keys() {
            self.close(key, RelayEnd::Ended);
        }
        self.is_stopped = true;
    }
}
