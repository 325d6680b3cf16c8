//! Slots: which node serves which persistent sessions. The slot table is one register, in which nodes write what they take
//! and what they give, without a coordinator: a write that is based on an older table fails.
//!
//! A node serves a slot when it is in, has read the table up to its head since it came in, is the owner there, and every
//! other node that is in has applied that table or a later one: it has dropped what it had lost. A node that is out serves
//! nothing, and does not serve again before it has read the table.

mod plan;
mod register;
#[cfg(test)]
mod tests;
mod transfer;
mod view;

use weir_broker::Millis;
use weir_broker::gateway::{SlotSets, Slots};

pub use self::view::{SlotOwner, SlotPlace, SlotView, SlotsWrite, SlotsWritten};

use self::plan::{Candidates, blocks, is_live};
use self::register::Register;
pub(crate) use self::transfer::Given;
use self::transfer::Transfers;
use crate::members::{Members, PeerState};
use crate::wire::{SlotRow, SlotTable};
use crate::{Incarnation, MembersConfig};

/// What has to be checked as time passes, and not because of an event, is checked so often.
const CHECK_INTERVAL: Millis = 250;

/// The cores of a node.
pub(crate) trait Cores {
    /// Tells the cores what to do with the slots. Slots of none of the sets have no sessions any more. Returns a number that
    /// grows.
    fn set_slots(&mut self, per_class: u16, sets: SlotSets) -> u64;
    /// The newest number that all cores have applied, and which of the slots that they keep have sessions.
    fn slots_applied(&self) -> (u64, u128);
    /// Of these, those with sessions that cannot be copied: they stay on a node that stays.
    fn slots_pinned(&self) -> u128 {
        0
    }
}

/// What the rest of the node knows.
pub(crate) struct Surroundings<'a, C> {
    pub(crate) members: &'a mut Members,
    pub(crate) cores: &'a mut C,
    /// The links to the peers are up to date: this node may acknowledge.
    pub(crate) is_confirmed: bool,
    /// The node may serve clients.
    pub(crate) is_ready: bool,
    pub(crate) now: Millis,
}

/// The slots of a node.
#[derive(Debug)]
pub(crate) struct SlotManager {
    node: String,
    own: Incarnation,
    per_class: u16,
    register: Register,
    /// Founding and class size of the table that `held` is of.
    basis: (Incarnation, u16),
    /// Slots that the cores serve, or keep: with which version this node got them.
    held: Vec<Option<u64>>,
    /// Slots that the cores have confirmed.
    served: u128,
    releasing: u128,
    /// Of `releasing`, those without sessions.
    empty: u128,
    /// When a slot with sessions is next tried to be given away, by slot.
    give_at: Vec<Millis>,
    transfers: Transfers,
    /// The rows of a move that is abandoned are not written any more.
    is_cancelled: bool,
    sent: Sent,
    /// The version of the table that the cores have applied, with its founding.
    applied: (Incarnation, u64),
    /// When the heartbeat of this sequence was read, all heartbeats from before this version of the table was known were read.
    fence: Option<(u64, u64)>,
    /// The node has come in: the cores are told again what they serve, before they are told that the node is in.
    tell_again: bool,
    planned: Option<Planned>,
    view: SlotView,
    is_dirty: bool,
    check_at: Millis,
    last: (u64, bool, bool),
    #[cfg(test)]
    fault: Option<crate::sim::Fault>,
}

/// What this node should write.
#[derive(Debug)]
struct Planned {
    /// The version on which the table is based.
    version: u64,
    table: SlotTable,
    /// The slots that it gives to other nodes.
    gives: u128,
}

/// What the cores were told last.
#[derive(Debug, Default)]
struct Sent {
    per_class: u16,
    sets: SlotSets,
    number: u64,
    /// The table for which it was.
    version: (Incarnation, u64),
}

const fn bit(slot: usize) -> u128 {
    1 << slot
}

impl SlotManager {
    pub(crate) fn new(config: &MembersConfig, per_class: u16) -> Self {
        Self {
            node: config.node.clone(),
            own: config.incarnation,
            per_class,
            register: Register::default(),
            basis: (0, 0),
            held: Vec::new(),
            served: 0,
            releasing: 0,
            empty: 0,
            give_at: Vec::new(),
            transfers: Transfers::default(),
            is_cancelled: false,
            sent: Sent::default(),
            applied: (0, 0),
            fence: None,
            tell_again: false,
            planned: None,
            view: SlotView::default(),
            is_dirty: true,
            check_at: 0,
            last: (0, false, false),
            #[cfg(test)]
            fault: None,
        }
    }

    /// Slots of each class, where this node founds the cluster. 0: not known yet, so it does not.
    pub(crate) const fn set_per_class(&mut self, per_class: u16) {
        self.per_class = per_class;
        self.is_dirty = true;
    }

    pub(crate) fn on_slots(&mut self, version: u64, bytes: &[u8]) {
        self.is_dirty |= self.register.on_slots(version, bytes);
    }

    pub(crate) fn on_in(&mut self) {
        self.register.on_in();
        (self.is_dirty, self.tell_again) = (true, true);
    }

    pub(crate) fn head_wanted(&self) -> Option<u64> {
        self.register.head_wanted()
    }

    pub(crate) fn on_head(&mut self, request: u64, version: u64) {
        self.register.on_head(request, version);
        self.is_dirty = true;
    }

    pub(crate) fn on_reset(&mut self) {
        self.register.on_reset();
        self.planned = None;
        self.is_dirty = true;
    }

    pub(crate) fn on_written(&mut self, result: SlotsWritten) {
        self.register.on_written(result);
        self.is_dirty = true;
    }

    /// Members, or what is known of them, have changed.
    pub(crate) const fn on_members(&mut self) {
        self.is_dirty = true;
    }

    pub(crate) fn next_write(&mut self) -> Option<SlotsWrite> {
        let Planned { version, table, gives } = self.planned.take()?;
        (version == self.register.version()).then(|| self.register.begin_write(table, gives))
    }

    /// Whether this node knows which slots it owns: it has read the table since it came in.
    pub(crate) fn is_current(&self) -> bool {
        #[cfg(test)]
        if self.fault == Some(crate::sim::Fault::ServesUnread) {
            return true;
        }
        self.register.is_current()
    }

    const fn ignores_fence(&self) -> bool {
        #[cfg(test)]
        if matches!(self.fault, Some(crate::sim::Fault::OldMembers)) {
            return true;
        }
        false
    }

    const fn serves_at_once(&self) -> bool {
        #[cfg(test)]
        if matches!(self.fault, Some(crate::sim::Fault::ServesBeforeApplied)) {
            return true;
        }
        false
    }

    pub(crate) const fn view(&self) -> &SlotView {
        &self.view
    }

    pub(crate) const fn undecodable(&self) -> u64 {
        self.register.undecodable()
    }

    /// Whether this node owns slots that another node should own.
    pub(crate) fn is_giving(&self) -> bool {
        (self.releasing | self.transfers.away | self.transfers.frozen) != 0
    }

    /// Does what can be done. Returns whether the view has changed.
    pub(crate) fn step<C: Cores>(&mut self, with: &mut Surroundings<'_, C>) -> bool {
        let state = (with.cores.slots_applied().0, with.is_confirmed, with.is_ready);
        if !self.is_dirty && self.last == state && with.now < self.check_at {
            return false;
        }
        (self.is_dirty, self.last, self.check_at) = (false, state, with.now + CHECK_INTERVAL);
        self.drop_lost();
        self.tell_cores(with);
        self.settle(with);
        self.take_over(with);
        self.give(with);
        self.drop_claimed(with);
        self.tell_cores(with);
        self.plan(with);
        self.update_view(with)
    }

    /// Slots that the table gives to another node are dropped at once.
    fn drop_lost(&mut self) {
        let Some(table) = self.register.table() else { return };
        let basis = (table.founded, table.per_class);
        let is_new = self.basis != basis;
        if self.basis.1 != table.per_class {
            self.held = vec![None; table.rows.len()];
            self.give_at = vec![0; table.rows.len()];
            (self.releasing, self.empty) = (0, 0);
            self.transfers.reset();
        }
        for (slot, (held, row)) in self.held.iter_mut().zip(&table.rows).enumerate() {
            let is_own = row.incarnation == self.own && row.node == self.node;
            // The first table of a new register has the owners of the one before.
            let is_carried = is_new && self.register.is_carried() && row.since == 1;
            let is_same = is_own && held.is_some_and(|since| since == row.since && !is_new || is_carried);
            *held = is_same.then_some(row.since);
            if !is_same {
                self.releasing &= !bit(slot);
                self.give_at[slot] = 0;
                self.transfers.on_lost(slot, row, self.own);
            }
        }
        let held = self.held.iter().enumerate().filter(|(_, held)| held.is_some());
        let held = held.fold(0, |held, (slot, _)| held | bit(slot));
        self.transfers.check_import(&table.rows, self.own, held);
        self.empty &= self.releasing;
        if is_new {
            (self.basis, self.fence) = (basis, None);
        }
    }

    /// What the cores have applied.
    fn settle<C: Cores>(&mut self, with: &mut Surroundings<'_, C>) {
        let (number, occupied) = with.cores.slots_applied();
        if number < self.sent.number {
            return;
        }
        let SlotSets { owned, releasing, frozen, .. } = self.sent.sets;
        self.served = owned.without(releasing).without(frozen).0;
        let given_up = releasing.0 & occupied & self.releasing;
        for slot in (0..self.give_at.len()).filter(|slot| given_up & bit(*slot) != 0) {
            self.give_at[slot] = Self::again_at(with.now);
        }
        let leaves = with.members.is_leaving() || with.members.is_evacuating();
        let pinned = if leaves { 0 } else { with.cores.slots_pinned() };
        self.transfers.want(given_up & !self.register.gives() & !pinned);
        self.releasing &= !given_up | self.register.gives();
        self.empty = releasing.0 & self.releasing & !occupied;
        if self.sent.version.1 > 0 && self.applied != self.sent.version {
            self.applied = self.sent.version;
            with.members.set_slots_applied(self.applied.0, self.applied.1, with.now);
        }
    }

    /// Whether this node may serve what it owns: it is in, and knows all others that are.
    fn may_serve<C: Cores>(&self, with: &Surroundings<'_, C>) -> bool {
        Self::knows_members(with) && self.is_current()
    }

    fn knows_members<C: Cores>(with: &Surroundings<'_, C>) -> bool {
        with.members.is_in(with.now) && with.members.is_current() && with.members.is_settled()
    }

    /// Begins to serve slots that this node has got.
    fn take_over<C: Cores>(&mut self, with: &mut Surroundings<'_, C>) {
        let Some(table) = self.register.table().filter(|_| self.may_serve(with)) else { return };
        for (slot, row) in table.rows.iter().enumerate() {
            let is_own = row.incarnation == self.own && row.node == self.node && self.register.gives() & bit(slot) == 0;
            if !is_own || self.held[slot].is_some() || self.applied.0 != table.founded || self.applied.1 < row.since {
                continue;
            }
            match self.fence {
                Some((version, sequence)) if version >= row.since => {
                    if with.members.own_read() < sequence && !self.ignores_fence() {
                        continue;
                    }
                }
                _ => {
                    let sequence = with.members.request_heartbeat(with.now);
                    self.fence = Some((self.register.version(), sequence));
                    continue;
                }
            }
            let members = &*with.members;
            let is_blocked = members.peers().any(|peer| blocks(members, &peer, row, table.founded));
            if !is_blocked || self.serves_at_once() {
                self.held[slot] = Some(row.since);
            }
        }
    }

    /// Slots without sessions go to the members that should have them: no new sessions from now on.
    fn give<C: Cores>(&mut self, with: &Surroundings<'_, C>) {
        let Some(table) = self.register.table().filter(|_| with.is_ready && self.may_serve(with)) else { return };
        let candidates = Candidates::new(with.members, with.now);
        let given = self.register.gives();
        self.transfers.away = 0;
        for slot in (0..table.rows.len()).filter(|slot| self.held[*slot].is_some()) {
            let goes = candidates.preferred(slot as u16, table).is_some_and(|(node, _)| node != self.node);
            self.transfers.away |= if goes { bit(slot) } else { 0 };
            if self.transfers.frozen & bit(slot) != 0 {
                continue;
            }
            if goes && with.now >= self.give_at[slot] {
                self.releasing |= bit(slot);
                self.transfers.forget(bit(slot));
            } else if !goes && given & bit(slot) == 0 {
                self.releasing &= !bit(slot);
                self.transfers.forget(bit(slot));
                self.give_at[slot] = 0;
            }
        }
        self.empty &= self.releasing;
    }

    fn tell_cores<C: Cores>(&mut self, with: &mut Surroundings<'_, C>) {
        let held = self.held_slots();
        let sets = SlotSets {
            owned: Slots(held),
            releasing: Slots(held & self.releasing),
            frozen: Slots(held & self.transfers.frozen),
            importing: Slots(self.transfers.importing(held)),
            moved: Slots(self.transfers.moved),
        };
        let per_class = self.basis.1;
        let is_same = (per_class, SlotSets { moved: self.sent.sets.moved, ..sets })
            == (self.sent.per_class, self.sent.sets)
            && self.transfers.moved == 0;
        let again = self.tell_again && self.is_current();
        if !is_same || again {
            self.tell_again &= !again;
            self.transfers.moved = 0;
            let number = with.cores.set_slots(per_class, sets);
            self.sent = Sent { per_class, sets, number, version: (0, 0) };
            self.served &= sets.owned.without(sets.releasing).without(sets.frozen).0;
        }
        if let Some(table) = self.register.table() {
            self.sent.version = (table.founded, self.register.version());
        }
    }

    /// What this node should write.
    fn plan<C: Cores>(&mut self, with: &Surroundings<'_, C>) {
        self.planned = None;
        let is_founding = self.per_class > 0 && self.register.is_empty() && Self::knows_members(with);
        let may_change = self.register.table().is_some() && with.is_ready && self.may_serve(with);
        if !self.register.may_write() || !(is_founding || may_change) {
            return;
        }
        let candidates = Candidates::new(with.members, with.now);
        if is_founding && !candidates.has_own() {
            return;
        }
        let basis = self.register.basis(self.per_class, self.own);
        let since = self.register.version() + 1;
        let (mut table, mut gives) = (basis.clone(), 0);
        for (at, row) in table.rows.iter_mut().enumerate() {
            let slot = at as u16;
            if let Some(given) = self.transfers.given(at).filter(|_| !self.is_cancelled) {
                gives |= bit(at);
                let (node, from, transfer) = (given.node.clone(), row.incarnation, given.number);
                *row = SlotRow { node, incarnation: given.incarnation, from, since, transfer };
                continue;
            }
            let is_own = row.incarnation == self.own && row.node == self.node;
            let new = if is_own {
                // Of a slot on disk that is not served yet, it is not known whether it has sessions.
                let is_unused = slot < basis.per_class && self.held.get(at).is_none_or(Option::is_none);
                let is_unused = is_unused && self.transfers.importing(0) & bit(at) == 0;
                let is_free = is_unused || self.empty & bit(at) != 0;
                candidates.preferred(slot, &basis).filter(|(node, _)| is_free && *node != self.node)
            } else {
                candidates.should_claim(slot, &basis).then_some((self.node.as_str(), self.own))
            };
            if let Some((node, incarnation)) = new {
                gives |= if is_own { bit(at) } else { 0 };
                *row = SlotRow { node: node.to_owned(), incarnation, from: row.incarnation, since, transfer: 0 };
            }
        }
        if is_founding || table != basis || self.register.must_write() {
            self.planned = Some(Planned { version: self.register.version(), table, gives });
        }
    }

    fn update_view<C: Cores>(&mut self, with: &Surroundings<'_, C>) -> bool {
        let (may_serve, members) = (self.may_serve(with) && with.is_confirmed, &*with.members);
        let owner = |slot: usize, row: &SlotRow| {
            if row.node.is_empty() || !may_serve {
                SlotOwner::Unknown
            } else if row.node == self.node && row.incarnation == self.own {
                if self.served & !self.transfers.frozen & bit(slot) != 0 { SlotOwner::Here } else { SlotOwner::Unknown }
            } else if members.peer(&row.node).is_some_and(|peer| {
                matches!(peer.state, PeerState::In | PeerState::Leaving | PeerState::Evacuating)
                    && peer.heartbeat.incarnation == row.incarnation
                    && is_live(members, row)
            }) {
                SlotOwner::Peer(row.incarnation)
            } else {
                SlotOwner::Unknown
            }
        };
        let place = |(slot, row): (usize, &SlotRow)| SlotPlace {
            owner: owner(slot, row),
            node: row.node.as_str().into(),
            incarnation: row.incarnation,
            since: row.since,
        };
        let table = self.register.table();
        let view = SlotView {
            version: self.register.version(),
            per_class: table.map_or(0, |table| table.per_class),
            slots: table.map(|table| table.rows.iter().enumerate().map(place).collect()).unwrap_or_default(),
        };
        let has_changed = self.view != view;
        self.view = view;
        has_changed
    }

    #[cfg(test)]
    pub(crate) const fn plant(&mut self, fault: crate::sim::Fault) {
        self.fault = Some(fault);
    }
}
