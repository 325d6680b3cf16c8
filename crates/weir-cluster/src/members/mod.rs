//! Which nodes of the cluster are in, from the heartbeats in the stream of members. Only this node's monotonic clock counts.
//!
//! This node is in while its newest acknowledged append was sent at most 2 s ago. A peer is out when its heartbeat has not
//! moved for 3 s in which the stream worked: reads worked, and this node's own heartbeats came back through it. So an
//! election in the engine takes no peer out.

mod events;
mod name_check;
mod peer;
mod stream_health;
mod suspects;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use weir_broker::Millis;

pub use self::events::{MemberEvent, Refusal};
pub use self::name_check::{NAME_WATCH, NameCheck, NameUse};
use self::peer::Peer;
pub use self::peer::PeerState;
use self::stream_health::StreamHealth;
pub use self::suspects::{Suspect, SuspectReason};
use crate::Incarnation;
use crate::wire::{Heartbeat, HeartbeatSlots, Load, WireVersions};

/// Time between two heartbeats of a node.
pub const HEARTBEAT_INTERVAL: Millis = 1000;
/// This node is out when its newest acknowledged append was sent longer ago.
pub const OWN_TIMEOUT: Millis = 2000;
/// A peer is out when it has not moved for so long while the stream worked.
pub const PEER_TIMEOUT: Millis = 3000;
/// The stream works while reads, and this node's own heartbeats in it, are at most this far apart.
pub const STREAM_GAP: Millis = 1500;
/// Two nodes have one name when the older incarnation moves for so long after it was replaced.
const DUPLICATE_AFTER: Millis = 1500;
/// Two nodes have one name as long as the older incarnation moved within this time.
const DUPLICATE_TIMEOUT: Millis = 5000;

/// This node, as its heartbeats describe it.
#[derive(Debug, Clone)]
pub struct MembersConfig {
    /// Its name.
    pub node: String,
    /// This start of its process.
    pub incarnation: Incarnation,
    /// Versions of the wire format that it reads and writes.
    pub wire: WireVersions,
    /// Version of Weir.
    pub weir_version: String,
    /// Addresses for clients and operators.
    pub addresses: Vec<String>,
    /// It keeps sessions in a data directory.
    pub has_data_dir: bool,
}

/// A peer, as status and links need it.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// Its newest heartbeat.
    pub heartbeat: &'a Heartbeat,
    /// Whether it is in.
    pub state: PeerState,
    /// When its heartbeat moved last.
    pub moved_at: Millis,
}

/// The members of the cluster, as this node sees them.
#[derive(Debug)]
pub struct Members {
    config: MembersConfig,
    load: Load,
    report: Arc<[u8]>,
    started: Millis,
    /// Founding and version of the slot table that this node has applied.
    slots_applied: (Incarnation, u64),
    leaving: bool,
    gone: bool,
    evacuating: bool,
    sequence: u64,
    heartbeat_at: Millis,
    /// When the newest acknowledged append was sent.
    acknowledged: Option<Millis>,
    is_in: bool,
    /// The newest heartbeat when this node came in.
    in_sequence: u64,
    stream: StreamHealth,
    caught_up: bool,
    removed: BTreeSet<String>,
    /// Other processes with this node's name.
    namesake: Option<Peer>,
    /// When one of them that started later than this one moved last.
    successor_at: Option<Millis>,
    peers: BTreeMap<String, Peer>,
    events: VecDeque<MemberEvent>,
    #[cfg(test)]
    fault: Option<crate::sim::Fault>,
}

impl Members {
    /// A node that is out, knows no peers, and has a heartbeat due.
    pub fn new(config: MembersConfig, now: Millis) -> Self {
        Self {
            config,
            load: Load::default(),
            report: Arc::default(),
            started: now,
            slots_applied: (0, 0),
            leaving: false,
            gone: false,
            evacuating: false,
            sequence: 0,
            heartbeat_at: now,
            acknowledged: None,
            is_in: false,
            in_sequence: 0,
            stream: StreamHealth::default(),
            caught_up: false,
            removed: BTreeSet::new(),
            namesake: None,
            successor_at: None,
            peers: BTreeMap::new(),
            events: VecDeque::new(),
            #[cfg(test)]
            fault: None,
        }
    }

    /// The heartbeat to append now. `None`: none is due. Heartbeats of one incarnation must be appended in order.
    pub fn next_heartbeat(&mut self, now: Millis) -> Option<Heartbeat> {
        if now < self.heartbeat_at {
            return None;
        }
        self.heartbeat_at = now + HEARTBEAT_INTERVAL;
        if self.is_removed(&self.config.node) {
            return None; // the others expect nothing of it
        }
        self.sequence += 1;
        Some(Heartbeat {
            node: self.config.node.clone(),
            incarnation: self.config.incarnation,
            sequence: self.sequence,
            wire: self.config.wire,
            weir_version: self.config.weir_version.clone(),
            addresses: self.config.addresses.clone(),
            load: self.load,
            leaving: self.leaving,
            gone: self.gone,
            evacuating: self.evacuating,
            uptime_ms: self.uptime(now),
            slots: Some(HeartbeatSlots {
                has_data_dir: self.config.has_data_dir,
                founded: self.slots_applied.0,
                applied: self.slots_applied.1,
            }),
            report: Arc::clone(&self.report),
        })
    }

    /// How long this node has run.
    pub const fn uptime(&self, now: Millis) -> Millis {
        now.saturating_sub(self.started)
    }

    /// What the following heartbeats say about the slot table that this node has applied. A heartbeat that says so is due now.
    pub fn set_slots_applied(&mut self, founded: Incarnation, version: u64, now: Millis) {
        if self.slots_applied != (founded, version) {
            self.slots_applied = (founded, version);
            self.heartbeat_at = now;
        }
    }

    /// A heartbeat is due now. Returns its sequence: when this node has read it, it has read every heartbeat that was stored
    /// before this call.
    pub const fn request_heartbeat(&mut self, now: Millis) -> u64 {
        self.heartbeat_at = now;
        self.sequence + 1
    }

    /// The sequence of the newest of its heartbeats that this node has read.
    pub const fn own_read(&self) -> u64 {
        self.stream.own_sequence
    }

    /// What the following heartbeats say about load.
    pub const fn set_load(&mut self, load: Load) {
        self.load = load;
    }

    /// What the following heartbeats carry for the control planes of the other nodes, at most
    /// [`REPORT_MAX_BYTES`](crate::wire::REPORT_MAX_BYTES).
    pub fn set_report(&mut self, report: Arc<[u8]>) {
        self.report = report;
    }

    /// Whether the node is evacuated: it should own no slots, and stays a member. A heartbeat that says so is due now.
    pub const fn set_evacuating(&mut self, evacuating: bool, now: Millis) {
        if self.evacuating != evacuating {
            self.evacuating = evacuating;
            self.heartbeat_at = now;
        }
    }

    /// The node shuts down: a heartbeat that says so is due now.
    pub const fn set_leaving(&mut self, now: Millis) {
        self.leaving = true;
        self.heartbeat_at = now;
    }

    /// The node has shut down: its last heartbeat, which says so, is due now.
    pub const fn set_gone(&mut self, now: Millis) {
        self.gone = true;
        self.set_leaving(now);
    }

    /// The engine acknowledged a heartbeat of this node that was sent at `sent`. It brings the node in.
    pub fn on_heartbeat_acked(&mut self, sent: Millis, now: Millis) {
        self.update_own(now); // it may have been out since it was polled
        self.acknowledged = self.acknowledged.max(Some(sent));
        if !self.is_in && now <= sent + OWN_TIMEOUT {
            self.is_in = true;
            self.in_sequence = self.sequence;
            self.events.push_back(MemberEvent::SelfIn);
        }
        self.update_own(now);
    }

    /// The engine acknowledged another append of this node, to any stream, that was sent at `sent`. It keeps the node in, and does not bring
    /// it in.
    pub fn on_append_acked(&mut self, sent: Millis, now: Millis) {
        self.update_own(now);
        self.acknowledged = self.acknowledged.max(Some(sent));
    }

    /// A read of the stream of members worked, and its records, if there were any, have been given. At least one per second
    /// is expected.
    pub fn on_read(&mut self, now: Millis) {
        self.stream.on_read(now);
        self.poll(now);
    }

    /// All records that were in the stream when this node started have been given. Nodes that appear later are running.
    pub const fn on_caught_up(&mut self) {
        self.caught_up = true;
    }

    /// A record of the stream of members, in the order of the stream, this node's own records too.
    pub fn on_heartbeat(&mut self, heartbeat: Heartbeat, now: Millis) {
        if heartbeat.node == self.config.node {
            self.on_own_name(heartbeat, now);
        } else {
            self.on_peer(heartbeat, now);
        }
        self.poll(now);
    }

    fn on_own_name(&mut self, heartbeat: Heartbeat, now: Millis) {
        if heartbeat.incarnation == self.config.incarnation {
            self.stream.on_own_heartbeat(heartbeat.sequence, now);
        } else if self.caught_up && self.sequence > 0 {
            // The previous incarnation's last record may still arrive: one that moves is a second node.
            if heartbeat.slots.is_some() && heartbeat.uptime_ms < self.uptime(now) {
                self.successor_at = Some(now);
            }
            let own = self.config.incarnation;
            let namesake = self.namesake.get_or_insert_with(|| Peer::namesake(own, heartbeat.clone(), now));
            namesake.on_namesake(heartbeat, now, &mut self.events);
        }
    }

    fn on_peer(&mut self, heartbeat: Heartbeat, now: Millis) {
        let refusal = self.refusal(&heartbeat);
        match self.peers.get_mut(&heartbeat.node) {
            Some(peer) => peer.on_heartbeat(heartbeat, refusal, self.config.wire, now, &mut self.events),
            None => {
                let name = heartbeat.node.clone();
                let mut peer = Peer::first_seen(heartbeat, now);
                if (self.caught_up || refusal.is_some()) && peer.member().state != PeerState::Left {
                    peer.on_moved(refusal, self.config.wire, &mut self.events);
                }
                self.peers.insert(name, peer);
            }
        }
    }

    fn refusal(&self, heartbeat: &Heartbeat) -> Option<Refusal> {
        if self.removed.contains(&heartbeat.node) {
            return Some(Refusal::Removed);
        }
        let (own, peer) = (self.config.wire, heartbeat.wire);
        own.common(peer).is_none().then_some(Refusal::WireVersions { own, peer })
    }

    /// The record of a node was removed from the stream.
    pub fn on_removed(&mut self, node: &str) {
        if let Some(peer) = self.peers.remove(node) {
            peer.on_removed(&mut self.events);
        }
    }

    /// The nodes that the cluster document removes: they are refused from now on, the others no longer.
    pub fn set_removed(&mut self, nodes: impl IntoIterator<Item = String>) {
        self.removed = nodes.into_iter().collect();
        for (name, peer) in &mut self.peers {
            if self.removed.contains(name) {
                peer.refuse(Refusal::Removed, &mut self.events);
            }
        }
    }

    /// Applies the time that has passed. To be called at [`Self::next_deadline`].
    pub fn poll(&mut self, now: Millis) {
        self.update_own(now);
        for peer in self.peers.values_mut() {
            let silence = self.stream.silence(peer.moved_at());
            #[cfg(test)]
            let silence = match self.fault {
                Some(crate::sim::Fault::ElectionCountsAsAbsence) => now - peer.moved_at(),
                _ => silence,
            };
            if silence >= PEER_TIMEOUT {
                peer.on_silent(&mut self.events);
            }
            peer.update_duplicate(now, &mut self.events);
        }
        if let Some(namesake) = &mut self.namesake {
            namesake.update_duplicate(now, &mut self.events);
        }
    }

    fn update_own(&mut self, now: Millis) {
        if self.is_in && !self.is_in(now) {
            self.is_in = false;
            self.events.push_back(MemberEvent::SelfOut);
        }
    }

    /// Whether this node is in. To be asked, with the time of that moment, before anything is acknowledged to a client.
    pub fn is_in(&self, now: Millis) -> bool {
        self.is_in && self.acknowledged.is_some_and(|sent| now <= sent + OWN_TIMEOUT)
    }

    /// Whether this node has read the stream up to when it came in: it knows all members of that moment.
    pub const fn is_current(&self) -> bool {
        self.stream.own_sequence >= self.in_sequence
    }

    /// Until when this node is in, if nothing more is acknowledged. `None`: it is out.
    pub fn in_until(&self, now: Millis) -> Option<Millis> {
        self.acknowledged.filter(|_| self.is_in(now)).map(|sent| sent + OWN_TIMEOUT)
    }

    /// When [`Self::next_heartbeat`] or [`Self::poll`] has something to do next, if nothing else happens.
    pub fn next_deadline(&self) -> Millis {
        let out = self.acknowledged.filter(|_| self.is_in).map(|sent| sent + OWN_TIMEOUT + 1);
        out.map_or(self.heartbeat_at, |at| at.min(self.heartbeat_at))
    }

    /// The next change.
    pub fn next_event(&mut self) -> Option<MemberEvent> {
        self.events.pop_front()
    }

    /// All peers that have a record, in order of their names.
    pub fn peers(&self) -> impl Iterator<Item = Member<'_>> {
        self.peers.values().map(Peer::member)
    }

    /// A peer by name.
    pub fn peer(&self, node: &str) -> Option<Member<'_>> {
        self.peers.get(node).map(Peer::member)
    }

    /// Whether every record from before the start has moved or proved to be old, so that all live peers are known.
    pub fn is_settled(&self) -> bool {
        self.caught_up && self.peers.values().all(|peer| peer.member().state != PeerState::Unconfirmed)
    }

    /// How this node describes itself.
    pub const fn config(&self) -> &MembersConfig {
        &self.config
    }

    /// Whether this node is evacuated.
    pub const fn is_evacuating(&self) -> bool {
        self.evacuating
    }

    /// Whether this node shuts down.
    pub const fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Whether the cluster document removes a node.
    pub fn is_removed(&self, node: &str) -> bool {
        self.removed.contains(node)
    }

    /// Whether a peer has not moved for so long while the stream worked that it is out, whatever its state is.
    pub fn is_silent(&self, peer: &Member<'_>) -> bool {
        self.stream.silence(peer.moved_at) >= PEER_TIMEOUT
    }

    /// Whether a process with this node's name that started later runs.
    pub fn is_superseded(&self, now: Millis) -> bool {
        self.successor_at.is_some_and(|at| now <= at + DUPLICATE_TIMEOUT)
    }

    /// Names of the nodes that may own slots: those that are in and not leaving, this node among them, in order.
    pub fn placement(&self, now: Millis) -> Vec<&str> {
        let own = (self.is_in(now) && !self.leaving && !self.evacuating).then_some(self.config.node.as_str());
        let peers = self.peers().filter(|peer| peer.state == PeerState::In).map(|peer| peer.heartbeat.node.as_str());
        let mut names: Vec<&str> = peers.chain(own).collect();
        names.sort_unstable();
        names
    }

    /// The incarnation of a peer that is in.
    pub fn incarnation_in(&self, node: &str) -> Option<Incarnation> {
        let mut peers = self.peers().filter(|peer| peer.state == PeerState::In);
        peers.find(|peer| peer.heartbeat.node == node).map(|peer| peer.heartbeat.incarnation)
    }

    #[cfg(test)]
    pub(crate) const fn plant(&mut self, fault: crate::sim::Fault) {
        self.fault = Some(fault);
    }
}
