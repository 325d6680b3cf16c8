//! A node of a cluster: its gateway, its links, the members and its part of the log of retained messages, as one state
//! machine. A driver feeds it what the engine and the shards report, calls [`ClusterNode::run`], and carries out what the
//! `next_*` methods answer.

mod compaction;
mod failed_links;
#[cfg(test)]
mod failed_links_tests;
mod log;
mod moves;
mod outputs;
mod peers;
mod relays;
mod slots;
mod status;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use weir_broker::gateway::Gateway;
use weir_broker::{Batch, Millis, ShardId};

pub use self::failed_links::LinkFailure;
pub use self::log::LogMessage;
pub use self::moves::{COPY_BYTES_MAX, HOLD_MS, MoveCounters, MoveEvent, MoveFailure, REBALANCE_SLOTS};
pub use self::outputs::{Append, Purge};
pub use self::relays::{RelayCounters, RelayEvent};
pub use self::status::{LinkStatus, NodeStatus, PeerStatus, SlotClass, SlotStatus, SlotsStatus};

use self::compaction::Compaction;
use self::log::Log;
use self::moves::Moves;
use self::outputs::Ends;
use self::peers::PeerLinks;
use self::relays::Relays;
use crate::slots::SlotManager;
use crate::wire::{Envelope, Heartbeat};
use crate::{Incarnation, MemberEvent, Members, MembersConfig, placement};

/// Bytes of appends that the engine has not stored above which publishers wait.
const APPENDS_HIGH_BYTES: usize = 8 << 20;
/// Acknowledged appends tell the shards no more often that this node is in.
const RENEWAL_INTERVAL: Millis = 250;
/// Messages of one peer that are taken in one run, so that no peer and no shard waits long for another.
const MESSAGES_PER_RUN: usize = 4096;

/// How a node is set up.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// How the node describes itself.
    pub members: MembersConfig,
    /// Shards with clients.
    pub shards: u16,
    /// The seed of the hash tables of filters and topics.
    pub hash_seed: u64,
    /// Bytes of a frame's body at most: the largest packet, and room for names.
    pub max_frame: usize,
    /// Bytes that wait to be taken from one peer at most.
    pub receive_limit: usize,
    /// Bytes on the way to one peer above which publishers wait.
    pub link_high_bytes: u64,
    /// Slots of each class, 8 to 64, where this node writes the first slot table. Otherwise, what that table has counts.
    pub slots_per_class: u16,
}

/// A node of a cluster.
#[derive(Debug)]
pub struct ClusterNode {
    config: NodeConfig,
    gateway: Gateway,
    members: Members,
    peers: PeerLinks,
    log: Log,
    compaction: Compaction,
    appends: VecDeque<Append>,
    /// Bytes of appends that are not stored.
    unstored_bytes: usize,
    is_in: bool,
    /// It has been in since it started.
    was_in: bool,
    /// Until when this node is in, as the shards know it; 0: it is out.
    in_until: Millis,
    /// It has come in and then known all peers' interest and the log. A peer that comes later serves no client before this
    /// node has its interest, so this node need not wait for it.
    is_joined: bool,
    slots: SlotManager,
    slot_view_changed: bool,
    members_changed: bool,
    /// The peer that keeps the wills of this node's clients.
    will_keeper: Option<Incarnation>,
    relays: Relays,
    moves: Moves,
    events: VecDeque<MemberEvent>,
    link_failures: VecDeque<LinkFailure>,
    /// Heartbeats and envelopes that could not be decoded.
    undecodable: u64,
}

impl ClusterNode {
    /// A node that is out and knows no peers.
    pub fn new(config: NodeConfig, now: Millis) -> Self {
        let incarnation = config.members.incarnation;
        let gateway = Gateway::new(config.shards, config.hash_seed, incarnation);
        Self {
            gateway,
            members: Members::new(config.members.clone(), now),
            peers: PeerLinks::new(incarnation, config.max_frame, config.receive_limit),
            log: Log::default(),
            compaction: Compaction::default(),
            appends: VecDeque::new(),
            unstored_bytes: 0,
            is_in: false,
            was_in: false,
            in_until: 0,
            is_joined: false,
            slots: SlotManager::new(&config.members, config.slots_per_class),
            slot_view_changed: false,
            members_changed: false,
            will_keeper: None,
            relays: Relays::default(),
            moves: Moves::default(),
            events: VecDeque::new(),
            link_failures: VecDeque::new(),
            undecodable: 0,
            config,
        }
    }

    /// This start of the node.
    pub fn incarnation(&self) -> Incarnation {
        self.config.members.incarnation
    }

    /// The members, for what the engine reports of heartbeats. Call [`ClusterNode::run`] afterwards.
    pub fn members_mut(&mut self) -> &mut Members {
        &mut self.members
    }

    /// A heartbeat from the stream of members.
    pub fn on_heartbeat(&mut self, bytes: &[u8], now: Millis) {
        match Heartbeat::decode(bytes) {
            Ok(heartbeat) => {
                self.members.on_heartbeat(heartbeat, now);
                self.slots.on_members();
            }
            Err(_) => self.undecodable += 1,
        }
    }

    /// An envelope from a peer.
    pub fn on_envelope(&mut self, bytes: &[u8], now: Millis) {
        let Ok(envelope) = Envelope::decode(bytes) else { return self.undecodable += 1 };
        let mut ends = Ends { peers: &mut self.peers, appends: &mut self.appends, bytes: &mut self.unstored_bytes };
        PeerLinks::receive(&envelope, &mut self.gateway, &mut ends, &mut self.relays, now);
    }

    /// A batch from a shard.
    pub fn accept_batch(&mut self, from: ShardId, batch: Batch) {
        self.gateway.accept_batch(from, batch);
    }

    /// A message of the log of retained messages, in its order.
    pub fn on_log_message(&mut self, message: LogMessage) {
        self.log.push(message);
    }

    /// The engine takes entries of the log of retained messages of so many bytes.
    pub fn set_log_entry_max(&mut self, bytes: usize) {
        self.gateway.set_log_entry_max(bytes);
    }

    /// The number of a question for the last sequence of the log; `None`: it is known.
    pub fn log_head_wanted(&self) -> Option<u64> {
        self.log.head_wanted()
    }

    /// The last sequence of the log, 0 if it is empty, which was asked for after [`ClusterNode::log_head_wanted`] had answered
    /// that number.
    pub fn on_log_head(&mut self, request: u64, sequence: u64) {
        self.log.set_head(request, sequence);
    }

    /// The log begins anew, from sequence 1.
    pub fn on_log_reset(&mut self) {
        self.log.reset();
        self.compaction = Compaction::default();
        self.gateway.reset_log();
    }

    /// The log has stored this node's entry of that number, whose payload has so many bytes, at that sequence; `None`: it never
    /// will.
    pub fn on_append_stored(&mut self, number: u64, sequence: Option<u64>, bytes: usize) {
        self.unstored_bytes = self.unstored_bytes.saturating_sub(bytes);
        self.gateway.entry_stored(number, sequence);
    }

    /// Does what can be done: takes members' changes, peers' messages and entries of the log, and processes what shards have
    /// sent. Returns whether there is more to do at once.
    pub fn run(&mut self, now: Millis) -> bool {
        self.members.poll(now);
        self.apply_member_events(now);
        let more =
            self.peers.take_messages(&mut self.gateway, (&mut self.relays, &mut self.moves), MESSAGES_PER_RUN, now);
        self.renew_failed_links(now);
        let applied = self.log.apply(&mut self.gateway, &mut self.compaction, self.moves.log_limit(), now);
        self.peers.report_progress(&mut self.gateway);
        let congested =
            self.unstored_bytes > APPENDS_HIGH_BYTES || self.peers.unacknowledged_bytes() > self.config.link_high_bytes;
        self.step_slots(now);
        self.step_moves(now);
        self.choose_will_keeper(now);
        self.renew(now);
        // What is sent to a peer that begins anew is lost; one that has taken this node for out will begin anew.
        let waits = if self.is_in { !self.is_confirmed() } else { self.was_in };
        let mut ends = Ends { peers: &mut self.peers, appends: &mut self.appends, bytes: &mut self.unstored_bytes };
        self.gateway.run(congested || waits, &mut ends, now);
        self.peers.acknowledge(&self.gateway, now);
        self.is_joined = self.is_in && (self.is_joined || self.knows_all());
        more || applied || self.peers.is_released(&self.gateway)
    }

    fn apply_member_events(&mut self, now: Millis) {
        let mut came_in = false;
        while let Some(event) = self.members.next_event() {
            let mut ends = Ends { peers: &mut self.peers, appends: &mut self.appends, bytes: &mut self.unstored_bytes };
            PeerLinks::apply(&event, &mut self.gateway, &mut ends, &mut self.relays, now);
            self.slots.on_members();
            self.members_changed = true;
            came_in |= event == MemberEvent::SelfIn;
            self.events.push_back(event);
        }
        if came_in {
            let mut ends = Ends { peers: &mut self.peers, appends: &mut self.appends, bytes: &mut self.unstored_bytes };
            self.gateway.confirm(&mut ends);
            self.slots.on_in();
            self.log.on_in();
            self.was_in = true;
        }
        self.is_in = self.members.is_in(now);
    }

    /// Gives the wills of this node's clients to the peer that rendezvous hashing prefers.
    fn choose_will_keeper(&mut self, now: Millis) {
        if std::mem::take(&mut self.members_changed) {
            let own = self.config.members.node.as_str();
            let others = self.members.placement(now).into_iter().filter(|name| *name != own);
            let keeper = placement::keeper_of(own, others).map(str::to_owned);
            self.will_keeper = keeper.and_then(|name| self.members.incarnation_in(&name));
        }
        let keeper = self.will_keeper.and_then(|incarnation| self.peers.find_in(incarnation));
        let mut ends = Ends { peers: &mut self.peers, appends: &mut self.appends, bytes: &mut self.unstored_bytes };
        self.gateway.set_will_keeper(keeper, &mut ends);
    }

    /// Whether what this node knows of its peers, and they of it, is of after it came in.
    fn is_confirmed(&self) -> bool {
        self.members.is_current() && self.gateway.is_confirmed()
    }

    /// Tells the shards until when they may acknowledge.
    fn renew(&mut self, now: Millis) {
        let until = self.members.in_until(now).filter(|_| self.is_confirmed() && self.slots.is_current()).unwrap_or(0);
        let is_late = now > self.in_until || until >= self.in_until + RENEWAL_INTERVAL;
        if until == 0 && self.in_until > 0 || until > self.in_until && is_late {
            self.in_until = until;
            self.gateway.set_in_until(until);
        }
    }

    /// The node begins to leave: the next heartbeat says so.
    pub fn leave(&mut self, now: Millis) {
        self.members.set_leaving(now);
        self.slots.on_members();
    }

    /// Whether this node is in: it acknowledges.
    pub fn is_in(&self) -> bool {
        self.is_in
    }

    /// Whether clients may be served: the node is in, has every peer's interest, has applied the log, and has read the slot table.
    pub fn is_ready(&self) -> bool {
        self.is_joined
    }

    /// Whether this node has every peer's interest, has applied the log, and has read the slot table.
    fn knows_all(&self) -> bool {
        self.members.is_settled()
            && self.is_confirmed()
            && self.slots.is_current()
            && self.log.head().is_some_and(|head| self.gateway.is_ready(head))
    }

    /// Whether all peers that are in have processed what they were sent, the log has stored this node's entries, and this node
    /// has done what it was sent.
    pub fn is_flushed(&self) -> bool {
        self.unstored_bytes == 0
            && self.peers.unacknowledged_bytes() == 0
            && self.peers.are_taken()
            && self.gateway.is_at_rest()
    }

    /// The node has shut down: the next heartbeat is its last.
    pub fn end(&mut self, now: Millis) {
        self.members.set_gone(now);
    }

    /// When [`ClusterNode::run`] is next needed, if nothing is reported.
    pub fn next_deadline(&self) -> Millis {
        let links = self.peers.next_deadline().unwrap_or(Millis::MAX);
        self.members.next_deadline().min(links).min(self.moves.next_deadline().unwrap_or(Millis::MAX))
    }

    // What the driver carries out.

    /// The batch for a shard; `None`: nothing is to be sent.
    pub fn next_batch(&mut self, to: ShardId) -> Option<Batch> {
        self.gateway.take_batch(to)
    }

    /// The heartbeat to append, and its bytes.
    pub fn next_heartbeat(&mut self, now: Millis) -> Option<(u64, Vec<u8>)> {
        let heartbeat = self.members.next_heartbeat(now)?;
        let mut bytes = Vec::new();
        heartbeat.encode(&mut bytes);
        Some((heartbeat.sequence, bytes))
    }

    /// Replaces `out` by the next envelope, and answers the incarnation it is for.
    pub fn next_envelope(&mut self, max_bytes: usize, out: &mut Vec<u8>, now: Millis) -> Option<Incarnation> {
        self.peers.next_envelope(max_bytes, out, now)
    }

    /// The next entry to append to the log of retained messages.
    pub fn next_append(&mut self) -> Option<Append> {
        self.appends.pop_front()
    }

    /// The next superseded entries to remove from the log. One node does it for all.
    pub fn next_purge(&mut self, now: Millis) -> Option<Purge> {
        if !self.is_ready() {
            return None; // it may not know all nodes that have to apply the log
        }
        let placement = self.members.placement(now);
        let is_first = placement.first() == Some(&self.config.members.node.as_str());
        self.compaction.next(is_first, self.gateway.log_applied_everywhere())
    }

    /// The next change of the members, for the log and the metrics.
    pub fn next_event(&mut self) -> Option<MemberEvent> {
        self.events.pop_front()
    }
}
