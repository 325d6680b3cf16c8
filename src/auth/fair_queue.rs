//! Waiting work of authentication, bounded and fair: endpoints take turns, and on each endpoint the source addresses do.
//!
//! It owns the order and the bounds. It runs nothing, and knows neither threads nor tasks. Every operation, also the
//! removal of an entry in the middle, takes logarithmic time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use super::counts::DroppedCounters;
use super::source_key::SourceKey;

/// Cost of the waiting entries of one source on one endpoint.
const SOURCE_WAITING_MAX: usize = 1024;
/// Cost of the waiting entries of one endpoint. Above it, the source with most gives up its newest for a source with less.
const ENDPOINT_WAITING_MAX: usize = 4096;
/// An entry costs 1, and 1 more for each so many bytes: of small entries the bounds are numbers, of large ones bytes (4 and
/// 16 MiB).
const BYTES_PER_COST: usize = 4096;

/// The bounds of a queue, in costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLimits {
    pub(crate) per_source: usize,
    pub(crate) per_endpoint: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { per_source: SOURCE_WAITING_MAX, per_endpoint: ENDPOINT_WAITING_MAX }
    }
}

/// The queue is full for this source or endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many authentications wait")]
pub(crate) struct Busy;

/// Entries of endpoints `E`.
#[derive(Debug)]
pub(crate) struct FairQueue<E, T> {
    limits: QueueLimits,
    dropped: DroppedCounters,
    endpoints: HashMap<E, EndpointQueue<T>>,
    /// Endpoints with entries, in the order in which they are served.
    turns: BTreeMap<u64, E>,
    /// Numbers entries and turns.
    next: u64,
}

/// Names an entry, whether it still waits or not.
#[derive(Debug, Clone)]
pub(crate) struct Ticket<E> {
    endpoint: E,
    source: SourceKey,
    number: u64,
}

/// A new entry, and those that it displaced.
#[derive(Debug)]
pub(crate) struct Pushed<E, T> {
    pub(crate) ticket: Ticket<E>,
    pub(crate) evicted: Vec<T>,
}

#[derive(Debug)]
struct EndpointQueue<T> {
    turn: u64,
    cost: usize,
    sources: HashMap<SourceKey, SourceQueue<T>>,
    /// Sources with entries, in the order in which they are served.
    turns: BTreeMap<u64, SourceKey>,
    /// The same by the cost of their entries.
    by_cost: BTreeSet<(usize, SourceKey)>,
}

#[derive(Debug)]
struct SourceQueue<T> {
    turn: u64,
    cost: usize,
    /// Each with its cost.
    entries: BTreeMap<u64, (usize, T)>,
}

impl<E: Clone + Eq + Hash, T> FairQueue<E, T> {
    pub(crate) fn new(limits: QueueLimits, dropped: DroppedCounters) -> Self {
        Self { limits, dropped, endpoints: HashMap::new(), turns: BTreeMap::new(), next: 0 }
    }

    /// Adds an entry that holds `bytes` of a client behind the others of its source.
    ///
    /// # Errors
    /// Its source has too much waiting; or its endpoint has, and no source has more than this one.
    pub(crate) fn push(
        &mut self,
        endpoint: E,
        source: SourceKey,
        bytes: usize,
        entry: T,
    ) -> Result<Pushed<E, T>, Busy> {
        let cost = 1 + bytes / BYTES_PER_COST;
        let mut evicted = Vec::new();
        let queue = self.endpoints.get_mut(&endpoint);
        let waiting = queue.as_ref().and_then(|queue| queue.sources.get(&source)).map_or(0, |source| source.cost);
        if waiting + cost > self.limits.per_source {
            self.dropped.source_busy.add(1);
            return Err(Busy);
        }
        if let Some(queue) = queue
            && queue.cost + cost > self.limits.per_endpoint
        {
            self.dropped.endpoint_busy.add(1);
            evicted = queue.evict(self.limits.per_endpoint.saturating_sub(cost), waiting + cost)?;
        }
        let (number, turn, endpoint_turn) = (self.next, self.next + 1, self.next + 2);
        self.next += 3;
        let queue = self.endpoints.entry(endpoint.clone()).or_insert_with(|| {
            self.turns.insert(endpoint_turn, endpoint.clone());
            EndpointQueue::new(endpoint_turn)
        });
        queue.push(source, number, turn, (cost, entry));
        Ok(Pushed { ticket: Ticket { endpoint, source, number }, evicted })
    }

    /// The entry whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let (_, endpoint) = self.turns.pop_first()?;
        let (turn, endpoint_turn) = (self.next, self.next + 1);
        self.next += 2;
        let queue = self.endpoints.get_mut(&endpoint)?;
        let entry = queue.pop(turn);
        if queue.sources.is_empty() {
            self.endpoints.remove(&endpoint);
        } else {
            queue.turn = endpoint_turn;
            self.turns.insert(endpoint_turn, endpoint);
        }
        entry
    }

    /// Takes an entry out. `None`: it has had its turn, or was displaced.
    pub(crate) fn remove(&mut self, ticket: &Ticket<E>) -> Option<T> {
        let queue = self.endpoints.get_mut(&ticket.endpoint)?;
        let entry = queue.remove(ticket.source, |entries| entries.remove(&ticket.number))?;
        if queue.sources.is_empty() {
            self.turns.remove(&queue.turn);
            self.endpoints.remove(&ticket.endpoint);
        }
        Some(entry)
    }
}

impl<T> EndpointQueue<T> {
    fn new(turn: u64) -> Self {
        Self { turn, cost: 0, sources: HashMap::new(), turns: BTreeMap::new(), by_cost: BTreeSet::new() }
    }

    fn push(&mut self, source: SourceKey, number: u64, turn: u64, (cost, entry): (usize, T)) {
        let queue = self.sources.entry(source).or_insert_with(|| {
            self.turns.insert(turn, source);
            SourceQueue { turn, cost: 0, entries: BTreeMap::new() }
        });
        self.by_cost.remove(&(queue.cost, source));
        queue.entries.insert(number, (cost, entry));
        queue.cost += cost;
        self.by_cost.insert((queue.cost, source));
        self.cost += cost;
    }

    /// Takes the oldest entry of the source whose turn it is; the source's next turn is `turn`.
    fn pop(&mut self, turn: u64) -> Option<T> {
        let (_, source) = self.turns.first_key_value()?;
        let source = *source;
        let entry = self.remove(source, |entries| entries.pop_first().map(|(_, entry)| entry));
        if let Some(queue) = self.sources.get_mut(&source) {
            self.turns.remove(&queue.turn);
            queue.turn = turn;
            self.turns.insert(turn, source);
        }
        entry
    }

    /// Takes the newest entries of the source with most, until at most `cost` are left on the endpoint.
    ///
    /// # Errors
    /// No source has more than `own`, what the source of the new entry would have. (One that has, has enough to give up.)
    fn evict(&mut self, cost: usize, own: usize) -> Result<Vec<T>, Busy> {
        let (most, source) = *self.by_cost.last().ok_or(Busy)?;
        if most <= own {
            return Err(Busy);
        }
        let mut evicted = Vec::new();
        while self.cost > cost {
            let newest = self.remove(source, |entries| entries.pop_last().map(|(_, entry)| entry));
            evicted.push(newest.ok_or(Busy)?);
        }
        Ok(evicted)
    }

    /// Takes an entry of `source` out; a source without entries loses its turn.
    fn remove(
        &mut self,
        source: SourceKey,
        take: impl FnOnce(&mut BTreeMap<u64, (usize, T)>) -> Option<(usize, T)>,
    ) -> Option<T> {
        let queue = self.sources.get_mut(&source)?;
        let before = queue.cost;
        let (cost, entry) = take(&mut queue.entries)?;
        queue.cost -= cost;
        self.cost -= cost;
        self.by_cost.remove(&(before, source));
        if queue.entries.is_empty() {
            self.turns.remove(&queue.turn);
            self.sources.remove(&source);
        } else {
            self.by_cost.insert((queue.cost, source));
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn source(number: u8) -> SourceKey {
        SourceKey::new(Some(SocketAddr::from(([192, 0, 2, number], 4000))))
    }

    type Queue = FairQueue<u32, (u32, u8, u32)>;

    fn queue(per_source: usize, per_endpoint: usize) -> Queue {
        Queue::new(QueueLimits { per_source, per_endpoint }, DroppedCounters::default())
    }

    fn push(queue: &mut Queue, endpoint: u32, from: u8, number: u32) -> Result<Pushed<u32, (u32, u8, u32)>, Busy> {
        queue.push(endpoint, source(from), 100, (endpoint, from, number))
    }

    fn assert_empty(queue: &Queue) {
        assert!(queue.endpoints.is_empty() && queue.turns.is_empty(), "{queue:?}");
    }

    #[test]
    fn endpoints_and_the_sources_of_each_take_turns() {
        let mut queue = queue(100, 100);
        for number in 0..3 {
            push(&mut queue, 1, 1, number).unwrap();
        }
        for (endpoint, from) in [(1, 2), (2, 1), (1, 3)] {
            push(&mut queue, endpoint, from, 0).unwrap();
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [(1, 1, 0), (2, 1, 0), (1, 2, 0), (1, 3, 0), (1, 1, 1), (1, 1, 2)]);
        assert_empty(&queue);
    }

    /// The attack: a flood of one source delays the others by one entry.
    #[test]
    fn a_flood_of_one_source_delays_another_by_one_entry() {
        let mut queue = queue(1000, 1000);
        for number in 0..1000 {
            push(&mut queue, 1, 1, number).unwrap();
        }
        queue.pop();
        push(&mut queue, 1, 2, 0).unwrap();
        assert_eq!([queue.pop(), queue.pop()], [Some((1, 1, 1)), Some((1, 2, 0))]);
    }

    #[test]
    fn a_source_and_an_endpoint_have_their_bounds() {
        let mut queue = queue(3, 5);
        for number in 0..3 {
            push(&mut queue, 1, 1, number).unwrap();
        }
        assert_eq!(push(&mut queue, 1, 1, 3).unwrap_err(), Busy);
        push(&mut queue, 2, 1, 0).unwrap();
        push(&mut queue, 1, 2, 0).unwrap();
        push(&mut queue, 1, 3, 0).unwrap();
        // The endpoint is full: the source with most entries gives up its newest for one with fewer.
        assert_eq!(push(&mut queue, 1, 4, 0).unwrap().evicted, [(1, 1, 2)]);
        assert_eq!(push(&mut queue, 1, 4, 1).unwrap_err(), Busy, "no source has more than two");
        assert_eq!(push(&mut queue, 1, 1, 4).unwrap_err(), Busy);
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), 6);
        assert_empty(&queue);
    }

    /// Large entries count by their bytes, so the bounds are bounds of memory, too.
    #[test]
    fn large_entries_cost_more() {
        let mut queue = queue(10, 12);
        let mut push = |from: u8, bytes: usize| {
            let entry = queue.push(1, source(from), bytes, (1, from, bytes as u32));
            entry.map(|pushed| pushed.evicted.into_iter().map(|(_, from, bytes)| (from, bytes)).collect::<Vec<_>>())
        };
        assert_eq!(push(1, 10 * 4096), Err(Busy), "above the bound of a source by itself");
        assert_eq!([push(1, 4 * 4096), push(1, 4096), push(1, 2 * 4096)], [Ok(vec![]), Ok(vec![]), Ok(vec![])]);
        assert_eq!(push(1, 0), Err(Busy));
        assert_eq!(push(2, 4096), Ok(vec![]));
        assert_eq!(push(3, 4 * 4096), Ok(vec![(1, 2 * 4096), (1, 4096)]));
        assert_eq!(push(3, 0), Err(Busy), "no source has more than this one would have");
        assert_eq!(std::iter::from_fn(|| queue.pop()).map(|(_, from, _)| from).collect::<Vec<_>>(), [1, 2, 3]);
        assert_empty(&queue);
    }

    #[test]
    fn removed_entries_leave_nothing_behind() {
        let mut queue = queue(100, 100);
        let tickets: Vec<_> = (0..10_u32)
            .map(|number| push(&mut queue, number % 2, (number % 3) as u8, number).unwrap().ticket)
            .collect();
        let first = queue.pop().unwrap();
        assert_eq!(first, (0, 0, 0));
        assert_eq!(queue.remove(&tickets[0]), None, "it has had its turn");
        for (number, ticket) in (0..).zip(&tickets).skip(1) {
            assert_eq!(queue.remove(ticket).map(|(_, _, entry)| entry), Some(number));
            assert_eq!(queue.remove(ticket), None);
        }
        assert_empty(&queue);
        assert_eq!(queue.pop(), None);
    }

    /// Against a model: whatever is pushed, taken and removed, the counts agree and nothing is lost or left.
    #[test]
    fn random_operations_keep_every_entry_until_it_is_taken() {
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut queue = queue(8, 20);
        let mut waiting: HashMap<u32, Ticket<u32>> = HashMap::new();
        for number in 0..20_000 {
            match random(10) {
                0..5 => {
                    if let Ok(pushed) = push(&mut queue, random(3) as u32, random(6) as u8, number) {
                        waiting.insert(number, pushed.ticket);
                        for (_, _, evicted) in pushed.evicted {
                            assert!(waiting.remove(&evicted).is_some());
                        }
                    }
                }
                5..8 => match queue.pop() {
                    Some((_, _, taken)) => assert!(waiting.remove(&taken).is_some()),
                    None => assert!(waiting.is_empty()),
                },
                _ => {
                    let chosen = waiting.keys().min().copied();
                    if let Some(ticket) = chosen.and_then(|chosen| waiting.remove(&chosen)) {
                        assert_eq!(queue.remove(&ticket).map(|entry| entry.2), chosen);
                    }
                }
            }
            let lens: Vec<usize> = queue.endpoints.values().map(|endpoint| endpoint.cost).collect();
            assert_eq!(lens.iter().sum::<usize>(), waiting.len());
            assert!(lens.iter().all(|len| (1..=20).contains(len)) && lens.len() == queue.turns.len());
            for endpoint in queue.endpoints.values() {
                let of_sources: Vec<usize> = endpoint.sources.values().map(|source| source.entries.len()).collect();
                assert_eq!(of_sources.iter().sum::<usize>(), endpoint.cost);
                assert!(of_sources.iter().all(|len| (1..=8).contains(len)));
                assert_eq!((endpoint.turns.len(), endpoint.by_cost.len()), (of_sources.len(), of_sources.len()));
            }
        }
    }
}
