//! The outbox: messages that this shard has given up because another shard is to have them, kept on disk here until they
//! are on disk there.
//!
//! A shard's records do not wait for other shards' disks. So where a record removes a message from this shard
//! (a will is published, a session returns what it had of a shared subscription), the same epoch puts the message into the
//! outbox. It is removed once every shard that it was sent to has stored its part. Nothing waits for that removal, so it
//! closes no circle. After a crash the message is sent again, under the same name ([`DedupKey`]): a shard that has recorded
//! its part passes over it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ids::{DedupKey, NamespaceId, RecordId};
use crate::links::link::StorageWait;
use crate::values::group::GroupKey;
use crate::values::message::Message;
use weir_mqtt::PacketId;

/// A message in the outbox.
#[derive(Debug)]
pub(crate) struct Handover {
    pub(crate) record: RecordId,
    pub(crate) to: Recipients,
    pub(crate) message: Message,
}

impl Handover {
    /// Its unique name.
    pub(crate) fn dedup_key(&self) -> DedupKey {
        dedup_key_of(self.record)
    }
}

/// The unique name of a message in the outbox.
pub(crate) fn dedup_key_of(record: RecordId) -> DedupKey {
    (record, PacketId::MIN)
}

/// The recipients of a message in the outbox.
#[derive(Debug)]
pub(crate) enum Recipients {
    /// A will: all subscribers. `client_id` is its client's; `durable`: if it is retained, then on disk.
    Subscribers { namespace: NamespaceId, client_id: Box<str>, durable: bool },
    /// One member of a group. `was_returned`: another member has returned it.
    Group { key: Arc<GroupKey>, was_returned: bool },
}

/// Changes that are recorded when other shards have stored their messages.
#[derive(Debug)]
pub(crate) enum OutboxChange {
    /// The removal of a message from the outbox.
    Removal(RecordId),
    Records(Vec<u8>),
}

#[derive(Debug)]
struct DeferredChange {
    until: Vec<StorageWait>,
    then: OutboxChange,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// To be sent once their records are on disk, by the epoch that put them there.
    staged: VecDeque<(u64, Handover)>,
    /// Sent; in the order of sending.
    deferred: VecDeque<DeferredChange>,
    /// Messages left by an earlier process.
    restored: Vec<Handover>,
}

impl Outbox {
    /// Whether an earlier process left messages that were not sent.
    pub(crate) fn has_restored(&self) -> bool {
        !self.restored.is_empty()
    }

    pub(crate) fn restore(&mut self, handover: Handover) {
        self.restored.push(handover);
    }

    pub(crate) fn take_restored(&mut self) -> Vec<Handover> {
        std::mem::take(&mut self.restored)
    }

    /// A message is to be sent once the epoch is on disk.
    pub(crate) fn stage(&mut self, epoch: u64, handover: Handover) {
        self.staged.push_back((epoch, handover));
    }

    /// The next message whose record is on disk.
    pub(crate) fn next_staged(&mut self, is_stored: impl FnOnce(u64) -> bool) -> Option<Handover> {
        let (epoch, _) = self.staged.front()?;
        if is_stored(*epoch) { self.staged.pop_front().map(|(_, handover)| handover) } else { None }
    }

    /// Something is recorded once other shards have come that far.
    pub(crate) fn defer(&mut self, until: Vec<StorageWait>, then: OutboxChange) {
        self.deferred.push_back(DeferredChange { until, then });
    }

    /// The next thing to record because other shards have stored what it waits for.
    pub(crate) fn next_settled(&mut self, has_stored: impl FnMut(&StorageWait) -> bool) -> Option<OutboxChange> {
        let gate = self.deferred.front()?;
        if gate.until.iter().all(has_stored) { self.deferred.pop_front().map(|gate| gate.then) } else { None }
    }
}
