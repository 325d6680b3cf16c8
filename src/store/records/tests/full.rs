//! A disk that the log itself fills: what is refused, what is accepted, and how it gets space again.

use std::collections::VecDeque;

use super::super::committer::{Committer, Wait};
use super::disk::FaultyDisk;
use super::{Model, Random, model, numbered_batch};
use crate::store::records::{LogLimits, RecordLog};
use weir_broker::{RecordBatch, ShardId, StoreAck};

type Changes = Vec<(u64, Option<Vec<u8>>)>;

const LIMITS: LogLimits = LogLimits { file_bytes: 4_000, history_bytes: 8_000, block_bytes: 16 };
const CAPACITY: usize = 200_000;
/// The key of a session, which connects to fetch messages; those have lower ones.
const SESSION: u64 = 1 << 40;

/// A broker as the store sees it: it publishes unless the disk is reported as full, and fetches messages.
struct Broker {
    disk: FaultyDisk,
    committer: Committer<FaultyDisk>,
    model: Model,
    /// Sent to the store and not durable.
    sent: VecDeque<(u64, Changes)>,
    number: u64,
    next_message: u64,
    full: bool,
}

impl Broker {
    fn new(capacity: usize) -> Self {
        let disk = FaultyDisk::new();
        disk.set_capacity(capacity);
        let committer = committer(&disk).0;
        Self { disk, committer, model: Model::new(), sent: VecDeque::new(), number: 0, next_message: 0, full: false }
    }

    /// The process ends and another one starts. Records that were not durable are lost; of removal-only batches, the
    /// removals may be durable.
    fn restart(&mut self) {
        let (committer, found) = committer(&self.disk);
        let removes = |batch: &&(u64, Changes)| batch.1.iter().all(|(_, value)| value.is_none());
        let may_be_gone: Vec<u64> =
            self.sent.iter().filter(removes).flat_map(|(_, changes)| changes).map(|(key, _)| *key).collect();
        self.model.retain(|key, _| found.contains_key(key) || !may_be_gone.contains(key));
        assert!(found == self.model, "{} records, {} expected", found.len(), self.model.len());
        self.sent.clear();
        (self.committer, self.full) = (committer, false);
    }

    fn hand_over(&mut self, changes: Changes) {
        self.number += 1;
        let batch = numbered_batch(self.number, &changes);
        self.sent.push_back((self.number, changes));
        self.round(vec![(ShardId(0), batch)], false);
    }

    /// One round of the writer thread.
    fn make_durable(&mut self) {
        for _ in 0..1_000 {
            match self.committer.wait() {
                Wait::Nothing => self.round(Vec::new(), false),
                Wait::Batches | Wait::Room => return,
            }
        }
        panic!("it writes for ever");
    }

    /// Some time passes.
    fn wait(&mut self) {
        self.round(Vec::new(), true);
        self.make_durable();
    }

    fn round(&mut self, new: Vec<(ShardId, RecordBatch)>, waited: bool) {
        let round = self.committer.round(new, waited).unwrap();
        for (_, ack) in round.acks {
            match ack {
                StoreAck::Full(full) => self.full = full,
                StoreAck::UpTo(number) => {
                    while let Some((_, changes)) = self.sent.pop_front_if(|(sent, _)| *sent <= number) {
                        for (key, value) in changes {
                            match value {
                                Some(value) => self.model.insert(key, value),
                                None => self.model.remove(&key),
                            };
                        }
                    }
                }
            }
        }
    }

    fn publish(&mut self, bytes: usize) {
        self.next_message += 1;
        self.hand_over(vec![(self.next_message, Some(vec![1; bytes]))]);
    }

    fn publish_until_full(&mut self, bytes: usize) {
        while !self.full {
            self.publish(bytes);
            self.make_durable();
        }
        assert!(self.sent.is_empty(), "what was taken before is durable");
    }

    fn fetch(&mut self, message: u64) {
        self.hand_over(vec![(message, None)]);
        self.make_durable();
    }

    fn messages(&self) -> Vec<u64> {
        self.model.range(..SESSION).map(|(key, _)| *key).collect()
    }
}

fn committer(disk: &FaultyDisk) -> (Committer<FaultyDisk>, Model) {
    let opened = RecordLog::open(disk.clone(), LIMITS).unwrap();
    let mut log = opened.log;
    log.enable_reserve().unwrap();
    (Committer::new(log), model(&opened.stored))
}

/// The order in which messages are fetched.
fn ordered(mut messages: Vec<u64>, order: usize, random: &mut Random) -> Vec<u64> {
    match order {
        0 => {}
        1 => messages.reverse(),
        _ => (1..messages.len()).for_each(|at| messages.swap(at, random.below(at + 1))),
    }
    messages
}

#[test]
fn a_full_disk_has_space_again_after_messages_are_fetched() {
    let mut random = Random(3);
    for (order, restarts) in [(0, false), (1, false), (2, false), (0, true), (1, true), (2, true)] {
        let mut broker = Broker::new(CAPACITY);
        for cycle in 0..6 {
            broker.publish_until_full(100);
            let messages = ordered(broker.messages(), order, &mut random);
            assert!(messages.len() * 120 > CAPACITY / 10 * 8, "cycle {cycle}: {} messages", messages.len());
            if restarts {
                broker.restart();
            }
            // The client connects before it fetches.
            broker.hand_over(vec![(SESSION, Some(vec![cycle; 300]))]);
            broker.wait();
            assert!(broker.sent.is_empty() && (broker.full || restarts), "cycle {cycle}");
            let mut fetched = 0;
            while broker.full {
                broker.fetch(messages[fetched]);
                broker.wait();
                fetched += 1;
            }
            println!("order {order}, cycle {cycle}: room again after {fetched} of {} messages", messages.len());
            assert!(fetched <= messages.len() / 4, "{fetched} of {}", messages.len());
            assert!(broker.sent.is_empty());
            let found = committer(&broker.disk.copy()).1;
            assert!(found == broker.model);
        }
    }
}

#[test]
fn a_disk_full_of_live_records_is_not_cleaned_forever() {
    let mut broker = Broker::new(CAPACITY);
    broker.publish_until_full(100);
    let made = broker.disk.created();
    (0..100).for_each(|_| broker.wait());
    assert!(broker.full);
    assert!(broker.disk.created() <= made + CAPACITY / 4_000 + 1, "{} files more", broker.disk.created() - made);
}

#[test]
fn batches_in_progress_when_the_disk_becomes_full_are_written() {
    let mut broker = Broker::new(CAPACITY);
    let mut handed = 0;
    while !broker.full {
        // Sent at once: nothing can be refused in between.
        let batches = (0..10).map(|_| {
            broker.number += 1;
            broker.next_message += 1;
            let changes = vec![(broker.next_message, Some(vec![1; 200]))];
            let batch = numbered_batch(broker.number, &changes);
            broker.sent.push_back((broker.number, changes));
            (ShardId(0), batch)
        });
        let batches = batches.collect();
        broker.round(batches, false);
        broker.make_durable();
        handed += 10;
    }
    assert!(broker.sent.is_empty());
    assert_eq!(broker.messages().len(), handed);
}

#[test]
fn a_batch_too_large_for_the_reserve_waits_until_removals_free_space() {
    let mut broker = Broker::new(CAPACITY);
    broker.publish_until_full(100);
    let durable = broker.messages();
    for _ in 0..20 {
        broker.publish(2_000);
    }
    broker.wait();
    assert!(!broker.sent.is_empty(), "it is more than the reserve");
    let waits: Vec<u64> = (durable.len() as u64 + 1..=broker.next_message).collect();
    for message in waits.into_iter().chain(durable) {
        broker.hand_over(vec![(message, None)]);
    }
    broker.wait();
    assert!(broker.sent.is_empty() && broker.messages().is_empty());
    (0..10).for_each(|_| broker.wait());
    assert!(!broker.full);
}

#[test]
fn space_freed_by_others_is_used() {
    let mut broker = Broker::new(CAPACITY);
    broker.publish_until_full(100);
    broker.disk.set_capacity(2 * CAPACITY);
    broker.wait();
    assert!(!broker.full);
    broker.publish_until_full(100);
    assert!(broker.messages().len() * 120 > CAPACITY / 10 * 16);
}

#[test]
fn a_full_disk_always_recovers_in_random_runs() {
    let mut emptied = 0;
    for seed in 1..=60 {
        let mut random = Random(seed * 7_919);
        let mut broker = Broker::new(60_000 + random.below(100_000));
        for _ in 0..300 {
            match random.below(20) {
                0..12 if !broker.full => {
                    (0..1 + random.below(12)).for_each(|_| broker.publish(random.below(700)));
                }
                0..15 => {
                    let messages = broker.messages();
                    for _ in 0..random.below(10).min(messages.len()) {
                        let message = messages[random.below(messages.len())];
                        broker.hand_over(vec![(message, None)]);
                    }
                }
                15 => broker.restart(),
                16 => broker.hand_over(vec![(SESSION + random.below(5) as u64, Some(vec![1; random.below(400)]))]),
                17 => {
                    // A message that is added and removed, and one that another replaces.
                    broker.next_message += 1;
                    let (passing, session) = (broker.next_message, SESSION + random.below(5) as u64);
                    let more = vec![2; random.below(400)];
                    broker.hand_over(vec![(passing, Some(vec![3; 900])), (session, Some(more)), (passing, None)]);
                }
                _ => broker.wait(),
            }
            broker.make_durable();
        }
        if broker.full {
            for message in broker.messages() {
                broker.fetch(message);
            }
            (0..20).for_each(|_| broker.wait());
            let (waiting, size) = (broker.sent.len(), broker.committer.size());
            assert!(!broker.full && waiting == 0, "seed {seed}: {waiting} batches wait, {size:?}");
            emptied += 1;
        }
        broker.restart();
    }
    println!("{emptied} runs ended on a full disk, and had room once everything was fetched");
    assert!(emptied > 10);
}
