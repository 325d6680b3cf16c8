//! The node's account of memory: what each kind of thing takes, over all shards, and how much it may take.
//!
//! A core counts for itself and publishes its sums to the account once a turn; so a limit is exact to what the other shards
//! did in their present turn, and the message path has no shared counter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Kinds of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum MemoryKind {
    /// Messages that wait in sessions' queues, or are not acknowledged and may have to be sent again.
    Queues,
    /// Bytes that wait for sockets.
    OutBuffers,
    /// Retained messages.
    Retained,
    /// Filters, subscriptions and shared groups.
    Subscriptions,
    /// Connections, sessions and their wills.
    Sessions,
    /// Topic aliases, remembered receivers of topics, timers.
    Tables,
    /// Publishes whose receivers are searched for, or that wait for room on the disk.
    Held,
    /// Connections that are not admitted yet, and partial packets.
    Handshakes,
}

impl MemoryKind {
    /// Every part.
    pub const ALL: [Self; 8] = [
        Self::Queues,
        Self::OutBuffers,
        Self::Retained,
        Self::Subscriptions,
        Self::Sessions,
        Self::Tables,
        Self::Held,
        Self::Handshakes,
    ];

    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Queues => "queues",
            Self::OutBuffers => "out_buffers",
            Self::Retained => "retained",
            Self::Subscriptions => "subscriptions",
            Self::Sessions => "sessions",
            Self::Tables => "tables",
            Self::Held => "held",
            Self::Handshakes => "handshakes",
        }
    }

    /// Percent of the whole that it may take. Together they are 100.
    pub fn share_percent(self) -> usize {
        match self {
            Self::Queues => 30,
            Self::OutBuffers => 13,
            Self::Retained => 20,
            Self::Subscriptions => 12,
            Self::Sessions => 11,
            Self::Tables => 6,
            Self::Held => 2,
            Self::Handshakes => 6,
        }
    }
}

#[derive(Debug)]
struct Share {
    used: AtomicUsize,
    limit: usize,
    refusals: AtomicU64,
}

/// The memory in use of a node, by kind; shared by its cores and its server.
#[derive(Debug, Clone)]
pub struct MemoryAccount(Arc<[Share; MemoryKind::ALL.len()]>);

impl Default for MemoryAccount {
    /// Without limits.
    fn default() -> Self {
        Self::with_limits(|_| usize::MAX)
    }
}

impl MemoryAccount {
    /// Of `bytes` together, by [`MemoryKind::share_percent`].
    pub fn new(bytes: usize) -> Self {
        Self::with_limits(|kind| bytes / 100 * kind.share_percent())
    }

    /// With a limit for each kind, bytes.
    pub fn with_limits(limit: impl Fn(MemoryKind) -> usize) -> Self {
        let share = |kind| Share { used: AtomicUsize::new(0), limit: limit(kind), refusals: AtomicU64::new(0) };
        Self(Arc::new(MemoryKind::ALL.map(share)))
    }

    fn share(&self, kind: MemoryKind) -> &Share {
        &self.0[kind as usize]
    }

    /// Bytes that it takes.
    pub fn used(&self, kind: MemoryKind) -> usize {
        self.share(kind).used.load(Ordering::Relaxed)
    }

    /// Bytes that it may take.
    pub fn limit(&self, kind: MemoryKind) -> usize {
        self.share(kind).limit
    }

    /// Requests that were refused because it takes as much as it may.
    pub fn refusals(&self, kind: MemoryKind) -> u64 {
        self.share(kind).refusals.load(Ordering::Relaxed)
    }

    /// Whether it may take `bytes` more.
    pub fn has_room(&self, kind: MemoryKind, bytes: usize) -> bool {
        self.used(kind).saturating_add(bytes) <= self.limit(kind)
    }

    /// It takes `bytes` more.
    pub fn add(&self, kind: MemoryKind, bytes: usize) {
        self.share(kind).used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It takes `bytes` less.
    pub fn subtract(&self, kind: MemoryKind, bytes: usize) {
        self.share(kind).used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Something was refused for want of room.
    pub fn count_refusal(&self, kind: MemoryKind) {
        self.share(kind).refusals.fetch_add(1, Ordering::Relaxed);
    }
}

/// A core's part in the account: what it has published.
#[derive(Debug, Default)]
pub(crate) struct MemoryPart {
    account: MemoryAccount,
    published: [usize; MemoryKind::ALL.len()],
}

impl MemoryPart {
    /// Of the node's account.
    pub(crate) fn of(account: MemoryAccount) -> Self {
        Self { account, ..Self::default() }
    }

    pub(crate) fn limit(&self, kind: MemoryKind) -> usize {
        self.account.limit(kind)
    }

    /// This core's part of a kind is `bytes` now.
    #[inline]
    pub(crate) fn publish(&mut self, kind: MemoryKind, bytes: usize) {
        let published = &mut self.published[kind as usize];
        if *published != bytes {
            self.account.add(kind, bytes);
            self.account.subtract(kind, *published);
            *published = bytes;
        }
    }

    /// Bytes of a kind that other cores and the server have published.
    pub(crate) fn others(&self, kind: MemoryKind) -> usize {
        self.account.used(kind).saturating_sub(self.published[kind as usize])
    }

    /// Whether `more` bytes of a kind have room, with `bytes` of this core.
    pub(crate) fn has_room(&self, kind: MemoryKind, bytes: usize, more: usize) -> bool {
        self.others(kind).saturating_add(bytes).saturating_add(more) <= self.account.limit(kind)
    }

    pub(crate) fn count_refusal(&self, kind: MemoryKind) {
        self.account.count_refusal(kind);
    }
}

impl Drop for MemoryPart {
    fn drop(&mut self) {
        MemoryKind::ALL.into_iter().for_each(|kind| self.publish(kind, 0));
    }
}

/// Bytes of one kind that a core holds, counted by what holds them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ByteCount(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    bytes: AtomicUsize,
    limit: AtomicUsize,
}

impl Default for Counted {
    fn default() -> Self {
        Self { bytes: AtomicUsize::new(0), limit: AtomicUsize::new(usize::MAX) }
    }
}

impl ByteCount {
    pub(crate) fn get(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, bytes: usize) {
        self.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// From how many bytes on it is full.
    pub(crate) fn bound(&self, limit: usize) {
        self.0.limit.store(limit, Ordering::Relaxed);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.get() >= self.0.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn is_half_full(&self) -> bool {
        self.get() >= self.0.limit.load(Ordering::Relaxed) / 2
    }

    /// Counts `bytes` for as long as the answer lives.
    pub(crate) fn charge(&self, bytes: usize) -> Charge {
        self.add(bytes);
        Charge { count: self.clone(), bytes }
    }
}

/// Bytes that are counted while it lives.
#[derive(Debug)]
pub(crate) struct Charge {
    count: ByteCount,
    bytes: usize,
}

impl Charge {
    /// Whether all that is counted with it is half of what it may be.
    pub(crate) fn is_half_full(&self) -> bool {
        self.count.is_half_full()
    }

    /// Counts `bytes` more.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.count.add(bytes);
        self.bytes += bytes;
    }

    /// Counts `bytes` less.
    pub(crate) fn subtract(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.count.subtract(bytes);
        self.bytes -= bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.count.subtract(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_the_whole() {
        assert_eq!(MemoryKind::ALL.map(MemoryKind::share_percent).iter().sum::<usize>(), 100);
        let index = MemoryKind::ALL.map(|kind| kind as usize);
        assert!(index.iter().enumerate().all(|(at, &index)| at == index));
    }

    #[test]
    fn what_cores_hold_is_summed_and_leaves_with_them() {
        let account = MemoryAccount::with_limits(|_| 100);
        let (mut one, mut two) = (MemoryPart::of(account.clone()), MemoryPart::of(account.clone()));
        one.publish(MemoryKind::Retained, 70);
        two.publish(MemoryKind::Retained, 20);
        assert_eq!(account.used(MemoryKind::Retained), 90);
        assert!(two.has_room(MemoryKind::Retained, 20, 10) && !two.has_room(MemoryKind::Retained, 20, 11));
        one.publish(MemoryKind::Retained, 10);
        assert!(two.has_room(MemoryKind::Retained, 90, 0));
        drop((one, two));
        assert_eq!(account.used(MemoryKind::Retained), 0);
    }

    #[test]
    fn a_charge_counts_while_it_lives() {
        let count = ByteCount::default();
        let mut charge = count.charge(5);
        charge.add(3);
        assert_eq!(count.get(), 8);
        charge.subtract(4);
        assert_eq!(count.get(), 4);
        drop(charge);
        assert_eq!(count.get(), 0);
    }
}
