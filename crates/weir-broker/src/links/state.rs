//! This shard's ends of its links: positions, watermarks, and what waits.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ids::{NamespaceId, Origin, ShardId, SlabIndex};
use crate::limits::{LINK_ACKNOWLEDGE_BYTES, LINK_HIGH_BYTES};
use crate::links::link::{
    BarrierId, Batch, ForwardedBatch, ForwardedPublish, LinkMessage, PendingBarrier, PendingStorage, RANKS, Route,
    ShardLink, StorageWait,
};

/// The links to and from every other shard.
#[derive(Debug)]
pub(crate) struct Links {
    here: ShardId,
    links: Vec<ShardLink>,
    pending_barriers: Vec<PendingBarrier>,
    /// Of the gateway: how many entries of the log of retained messages are appended, and how many are settled.
    entries: u64,
    settled_entries: u64,
    /// Of a shard of a cluster: the gateway.
    gateway: Option<ShardId>,
    /// Work that messages from other shards may still take in this turn.
    budget: usize,
}

impl Links {
    pub(crate) fn new(here: ShardId, shards: u16) -> Self {
        let links = (0..shards).map(|_| ShardLink::default()).collect();
        Self {
            here,
            links,
            pending_barriers: Vec::new(),
            entries: 0,
            settled_entries: 0,
            gateway: None,
            budget: usize::MAX,
        }
    }

    /// How many shards there are, this one included.
    pub(crate) fn count(&self) -> u16 {
        self.links.len() as u16
    }

    /// Adds the link to one more shard, the gateway; returns that shard.
    pub(crate) fn add(&mut self) -> ShardId {
        self.links.push(ShardLink::default());
        let gateway = ShardId(self.links.len() as u16 - 1);
        self.gateway = Some(gateway);
        gateway
    }

    /// Every other shard.
    pub(crate) fn others(&self) -> impl Iterator<Item = ShardId> + use<> {
        let here = self.here;
        (0..self.links.len() as u16).map(ShardId).filter(move |shard| *shard != here)
    }

    // Sending.

    pub(crate) fn push(&mut self, to: ShardId, message: LinkMessage) {
        debug_assert!(to != self.here);
        if let Some(link) = self.links.get_mut(to.index()) {
            link.push(message);
        }
    }

    /// Sends a message to every other shard.
    pub(crate) fn broadcast(&mut self, mut message: impl FnMut() -> LinkMessage) {
        self.others().for_each(|to| self.push(to, message()));
    }

    /// Puts a PUBLISH on a link; `encode` appends its packet, whose range `publish` gets. `false`: it could not be encoded.
    pub(crate) fn forward(
        &mut self,
        to: ShardId,
        encode: impl FnOnce(&mut Vec<u8>) -> Option<ForwardedPublish>,
    ) -> bool {
        let here = self.here;
        let Some(link) = self.links.get_mut(to.index()) else { return false };
        let mut publish = None;
        let (start, end) = link.append(|bytes| publish = encode(bytes));
        let Some(mut publish) = publish else { return false };
        (publish.start, publish.end) = (start, end);
        // Forwarded for another shard, whose publisher waits to know that it may take the direct route again.
        let is_direct = matches!(publish.route, Route::Direct { .. });
        link.batch.wants_ack |= is_direct && publish.origin.shard != here && publish.origin != Origin::BROKER;
        link.push(LinkMessage::Publish(publish));
        true
    }

    /// Whether a publisher has to pause because a link has too much on the way; it is remembered then.
    pub(crate) fn must_pause(&mut self, to: ShardId, origin: Origin) -> bool {
        let Some(link) = self.links.get_mut(to.index()) else { return false };
        let pauses =
            link.sent - link.acked > LINK_HIGH_BYTES && origin != Origin::BROKER && !link.waiters.contains(&origin);
        if pauses {
            link.waiters.push(origin);
        }
        pauses
    }

    /// The positions of all links: a row of a vector clock.
    pub(crate) fn positions(&self) -> Vec<u64> {
        self.links.iter().map(|link| link.sent).collect()
    }

    /// The position of a link.
    pub(crate) fn position(&self, to: ShardId) -> u64 {
        self.links.get(to.index()).map_or(0, |link| link.sent)
    }

    /// Up to which position all was processed by the receiver and by everyone it forwarded to.
    pub(crate) fn settled(&self, to: ShardId) -> u64 {
        self.links.get(to.index()).map_or(u64::MAX, |link| link.settled)
    }

    /// Asks to hear when what was put on a link with `rank` so far is durable.
    pub(crate) fn request_stored(&mut self, to: ShardId, rank: usize) -> StorageWait {
        let position = self.position(to);
        if let Some(link) = self.links.get_mut(to.index()) {
            link.batch.wants_stored[rank] = true;
        }
        StorageWait { shard: to.0, rank, position }
    }

    /// Whether another shard has reported what a wait is for.
    pub(crate) fn has_stored(&self, wait: &StorageWait) -> bool {
        self.links.get(usize::from(wait.shard)).is_none_or(|link| link.stored[wait.rank] >= wait.position)
    }

    /// Finds how far what other shards sent is durable; `is_stored`: whether a batch of records of this shard is, by rank.
    pub(crate) fn settle_storage(&mut self, is_stored: impl Fn(usize, u64) -> bool) {
        if self.links.iter().flat_map(|link| &link.storing).all(VecDeque::is_empty) {
            return;
        }
        let stored: Vec<[u64; RANKS]> = self.links.iter().map(|link| link.stored).collect();
        let is_stored_there = |wait: &StorageWait| stored[usize::from(wait.shard)][wait.rank] >= wait.position;
        for link in &mut self.links {
            for (rank, (storing, their_stored)) in link.storing.iter_mut().zip(&mut link.their_stored).enumerate() {
                while let Some(first) = storing.front()
                    && is_stored(rank, first.batch)
                    && first.until.iter().all(is_stored_there)
                {
                    *their_stored = first.end;
                    link.owes_ack = true;
                    storing.pop_front();
                }
            }
        }
    }

    /// Takes the batch for another shard; `None`: nothing is to be sent.
    pub(crate) fn take_batch(&mut self, to: ShardId) -> Option<Batch> {
        self.settle(to);
        let link = self.links.get_mut(to.index())?;
        if link.batch.messages.is_empty() {
            if link.received - link.acknowledged < LINK_ACKNOWLEDGE_BYTES && !link.owes_ack {
                return None;
            }
            link.batch.messages.push_back(LinkMessage::Ack);
        }
        link.acknowledged = link.received;
        link.owes_ack = false;
        let mut batch = std::mem::take(&mut link.batch);
        (batch.end, batch.acked, batch.settled) = (link.sent, link.received, link.their_settled);
        batch.stored = link.their_stored;
        Some(batch)
    }

    /// Finds how far what came from a shard has been processed by those it was forwarded to.
    fn settle(&mut self, from: ShardId) {
        while let Some(forwarded) = self.links.get(from.index()).and_then(|link| link.forwarded.front()) {
            let is_behind = self.links.iter().zip(&forwarded.until).any(|(link, until)| link.acked < *until);
            if is_behind || forwarded.entries > self.settled_entries {
                return;
            }
            let Some(link) = self.links.get_mut(from.index()) else { return };
            if let Some(forwarded) = link.forwarded.pop_front() {
                link.their_settled = forwarded.end;
                link.owes_ack |= !forwarded.until.is_empty() || forwarded.entries > 0;
            }
        }
    }

    // Receiving.

    /// Begins a turn in which messages from other shards may take `work`. Returns whether the last turn ended because of that limit.
    pub(crate) fn begin_turn(&mut self, work: usize) -> bool {
        std::mem::replace(&mut self.budget, work) == 0
    }

    /// A batch has come. Returns the publishers that may go on.
    pub(crate) fn accept(&mut self, from: ShardId, batch: Batch) -> Vec<Origin> {
        let Some(link) = self.links.get_mut(from.index()) else { return Vec::new() };
        link.acked = link.acked.max(batch.acked);
        link.settled = link.settled.max(batch.settled);
        for (stored, reported) in link.stored.iter_mut().zip(batch.stored) {
            *stored = reported.max(*stored);
        }
        link.queued.push_back(batch);
        if link.sent - link.acked <= LINK_HIGH_BYTES / 2 { std::mem::take(&mut link.waiters) } else { Vec::new() }
    }

    /// A link whose next message may be processed now.
    pub(crate) fn next_deliverable(&self) -> Option<ShardId> {
        let is_deliverable = |batch: &Batch| self.is_deliverable(batch);
        let mut links = self.links.iter().map(|link| link.queued.front().is_some_and(is_deliverable));
        links.position(|deliverable| deliverable && self.budget > 0).map(|shard| ShardId(shard as u16))
    }

    /// Whether something is left to be processed for the end of the turn alone.
    pub(crate) fn has_undrained(&self) -> bool {
        self.budget == 0 && self.links.iter().any(|link| !link.queued.is_empty())
    }

    /// Whether a batch's first message need not wait. A PUBLISH that did not come from its publisher's shard does, until what
    /// that shard sent here before has been processed [MQTT-4.6.0-5]. `docs/links.md` shows that this cannot deadlock.
    fn is_deliverable(&self, batch: &Batch) -> bool {
        let Some(LinkMessage::Publish(ForwardedPublish { route, origin, .. })) = batch.messages.front() else {
            return true;
        };
        let after = match route {
            Route::Direct { after } => *after,
            Route::ViaOwner { after } => after.get(self.here.index()).copied().unwrap_or(0),
        };
        self.links.get(origin.shard.index()).is_none_or(|link| link.received >= after)
    }

    /// The first batch from a shard, to be drained by [`Links::next_message`].
    pub(crate) fn next_batch(&mut self, from: ShardId) -> Option<Batch> {
        self.links.get_mut(from.index())?.queued.pop_front()
    }

    /// The next message of a batch, where it may be processed now.
    pub(crate) fn next_message(&mut self, from: ShardId, batch: &mut Batch) -> Option<LinkMessage> {
        if self.budget == 0 || !self.is_deliverable(batch) {
            return None;
        }
        let message = batch.messages.pop_front()?;
        self.links.get_mut(from.index())?.received += message.bytes();
        batch.forwarded |=
            matches!(&message, LinkMessage::Publish(ForwardedPublish { route: Route::ViaOwner { .. }, .. }));
        Some(message)
    }

    /// Counts work against the turn's budget.
    pub(crate) fn spend(&mut self, work: usize) {
        self.budget = self.budget.saturating_sub(work);
    }

    /// A batch is drained, or its next message has to wait: then it is the first one again. `unstored`: by rank, the newest batch of
    /// records that is not on disk. Returns whether it is drained.
    pub(crate) fn end_batch(&mut self, from: ShardId, batch: Batch, unstored: impl Fn(usize) -> u64) -> bool {
        let mut until = if batch.forwarded && batch.messages.is_empty() { self.positions() } else { Vec::new() };
        if let Some(gateway) = self.gateway.and_then(|gateway| until.get_mut(gateway.index())) {
            *gateway = 0; // a topic's owner forwards nothing to it
        }
        let Some(link) = self.links.get_mut(from.index()) else { return false };
        if !batch.messages.is_empty() {
            link.queued.push_front(batch);
            return false;
        }
        let end = batch.end;
        let wants_settled = batch.wants_ack && !until.is_empty();
        link.received = end;
        link.forwarded.push_back(ForwardedBatch { end, until, entries: self.entries });
        link.owes_ack |= batch.wants_ack;
        let wanted = batch.stored_until.into_iter().enumerate().filter(|(rank, _)| batch.wants_stored[*rank]);
        for (rank, until) in wanted {
            link.storing[rank].push_back(PendingStorage { end, batch: unstored(rank), until });
        }
        if wants_settled {
            // Its sender waits for those that it was forwarded to: a gateway for entries of the log.
            self.others().for_each(|shard| self.request_ack(shard));
        }
        true
    }

    // The gateway's additions.

    /// An entry of the log of retained messages was appended because of the message that is being processed: its batch is not
    /// settled before the entry is. Returns its number.
    pub(crate) fn add_entry(&mut self) -> u64 {
        self.entries += 1;
        self.entries
    }

    /// Every node has applied the entries up to a number.
    pub(crate) fn settle_entries(&mut self, number: u64) {
        self.settled_entries = self.settled_entries.max(number);
    }

    /// Whether all that has come was processed.
    pub(crate) fn is_drained(&self) -> bool {
        self.links.iter().all(|link| link.queued.is_empty())
    }

    /// Bytes on the way to a shard.
    pub(crate) fn unacked_bytes(&self, to: ShardId) -> u64 {
        self.links.get(to.index()).map_or(0, |link| link.sent - link.acked)
    }

    /// The position up to which what a shard sent is processed.
    pub(crate) fn received(&self, from: ShardId) -> u64 {
        self.links.get(from.index()).map_or(0, |link| link.received)
    }

    /// The position up to which a shard has processed what it was sent.
    pub(crate) fn acked(&self, to: ShardId) -> u64 {
        self.links.get(to.index()).map_or(0, |link| link.acked)
    }

    /// Asks a shard to acknowledge what it was sent as soon as it has processed it.
    pub(crate) fn request_ack(&mut self, to: ShardId) {
        let Some(link) = self.links.get_mut(to.index()).filter(|link| link.acked < link.sent) else { return };
        if link.batch.messages.is_empty() {
            link.batch.messages.push_back(LinkMessage::Ack);
        }
        link.batch.wants_ack = true;
    }

    /// A shard is sent the watermarks, even if nothing else is.
    pub(crate) fn owe_ack(&mut self, to: ShardId) {
        if let Some(link) = self.links.get_mut(to.index()) {
            link.owes_ack = true;
        }
    }

    // Namespaces: each shard numbers its own.

    /// Sends another shard the meaning of a namespace's number, once.
    pub(crate) fn define_namespace(&mut self, to: ShardId, id: NamespaceId, name: &Arc<str>) {
        let Some(link) = self.links.get_mut(to.index()) else { return };
        let index = id.index();
        if link.defined.len() <= index {
            link.defined.resize(index + 1, false);
        }
        if !std::mem::replace(&mut link.defined[index], true) {
            link.push(LinkMessage::Namespace { id, name: Arc::clone(name) });
        }
    }

    /// Another shard's number of a namespace means `ours` here.
    pub(crate) fn learn_namespace(&mut self, from: ShardId, theirs: NamespaceId, ours: NamespaceId) {
        let Some(link) = self.links.get_mut(from.index()) else { return };
        if link.namespaces.len() <= theirs.index() {
            link.namespaces.resize(theirs.index() + 1, ours);
        }
        link.namespaces[theirs.index()] = ours;
    }

    /// The local meaning of another shard's number of a namespace.
    pub(crate) fn namespace_of(&self, from: ShardId, theirs: NamespaceId) -> Option<NamespaceId> {
        self.links.get(from.index())?.namespaces.get(theirs.index()).copied()
    }

    // Barriers.

    /// A member elsewhere has joined a group that is owned here: its barrier waits until every shard has learned that the
    /// group has interest in its filter.
    pub(crate) fn save_join_positions(&mut self, from: ShardId) {
        let positions = self.positions();
        if let Some(link) = self.links.get_mut(from.index()) {
            link.joined = positions;
        }
    }

    /// A barrier was received. Returns whether its condition holds already; if not, the answer is sent automatically later.
    pub(crate) fn begin_barrier(&mut self, from: ShardId, request: BarrierId) -> bool {
        let until = self.links.get_mut(from.index()).map(|link| std::mem::take(&mut link.joined)).unwrap_or_default();
        let complete = self.have_acked(from, &until);
        if !complete {
            // Shards that have not acked what they were sent acknowledge it as soon as they have processed it.
            for (link, _) in self.links.iter_mut().zip(&until).filter(|(link, until)| link.acked < **until) {
                link.batch.messages.push_back(LinkMessage::Ack);
                link.batch.wants_ack = true;
            }
            self.pending_barriers.push(PendingBarrier { from, request, until });
        }
        complete
    }

    /// Whether every shard has processed what it was sent up to `until`; `but` is sent nothing before it has, so it does not
    /// count.
    fn have_acked(&self, but: ShardId, until: &[u64]) -> bool {
        let links = self.links.iter().zip(until).enumerate();
        links.filter(|(to, _)| *to != but.index()).all(|(_, (link, until))| link.acked >= *until)
    }

    /// Answers the barriers whose condition holds now.
    pub(crate) fn answer_barriers(&mut self) {
        while let Some(index) = self.pending_barriers.iter().position(|b| self.have_acked(b.from, &b.until)) {
            let PendingBarrier { from, request, .. } = self.pending_barriers.swap_remove(index);
            self.push(from, LinkMessage::BarrierAck { request, retained: None, complete: true });
        }
    }
}
