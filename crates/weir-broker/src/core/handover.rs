//! Messages of the outbox: wills, and messages that a session of a shared subscription returns.

use std::sync::Arc;

use crate::Core;
use crate::delivery::publish_context::PublishContext;
use crate::durability::journal::Waits;
use crate::durability::stored::read_message;
use crate::ids::{DedupKey, Origin, RecordId, SessionId};
use crate::links::link::StorageWait;
use crate::links::outbox::{Handover, OutboxChange, Recipients, dedup_key_of};
use crate::placement::home_shard;
use crate::routing::matches::Matches;
use crate::values::group::GroupKey;
use crate::values::message::Message;
use crate::values::record::ValueReader;

/// Forms of the record of a message in the outbox: a will, one that is durable if it is retained, a group's message.
const FORM_WILL: u8 = 0;
const FORM_DURABLE_WILL: u8 = 1;
const FORM_GROUP: u8 = 2;

impl Core {
    /// Publishes the will of a session. Without a record the session is not durable. `receivers`: those found already.
    pub(crate) fn publish_will(&mut self, will: &Handover, session: SessionId, receivers: Option<Arc<Matches>>) {
        let dedup_key = will.record.is_some().then(|| will.dedup_key());
        let (until, recorded) = self.send_ungated(will, dedup_key, session, receivers);
        let Some(dedup_key) = dedup_key else { return };
        if until.is_empty() {
            return self.forget_will(will.record);
        }
        self.record_handover(will);
        if recorded {
            self.journal.record_received(dedup_key);
        }
        self.outbox.defer(until, OutboxChange::Removal(will.record));
    }

    /// A will is not to be sent again: what an earlier process recorded of it has no use any more.
    pub(crate) fn forget_will(&mut self, record: RecordId) {
        let (parent, packet_id) = dedup_key_of(record);
        if self.journal.has_recovered((parent, packet_id)) {
            self.forget_received(parent, packet_id);
        }
    }

    /// Sends a message that holds back no answer of this shard. Returns what it has to wait for, and whether it left
    /// records here.
    fn send_ungated(
        &mut self,
        handover: &Handover,
        dedup_key: Option<DedupKey>,
        session: SessionId,
        receivers: Option<Arc<Matches>>,
    ) -> (Vec<StorageWait>, bool) {
        let (now, mark) = (self.now, self.journal.mark());
        let own = self.journal.swap_waits(Waits::default());
        let publish = handover.message.as_publish();
        let origin = Origin { session, shard: self.config.shard, ..Origin::BROKER };
        let mut context = PublishContext::of_message(&handover.message, &publish, origin);
        context.dedup_key = dedup_key;
        match &handover.to {
            Recipients::Subscribers { namespace, durable, .. } => {
                context.durable = *durable;
                self.route(*namespace, &mut context, receivers, now);
            }
            Recipients::Group { key, was_returned } => {
                context.in_outbox = true;
                self.send_to_group(key, &mut context, *was_returned, now);
            }
        }
        (self.journal.swap_waits(own).until, self.journal.has_recorded(mark))
    }

    /// Puts a message for a group into the outbox; it is sent once it is on disk there, so that it has one name whatever
    /// happens.
    pub(crate) fn stage(&mut self, key: &Arc<GroupKey>, message: Message, was_returned: bool) {
        let to = Recipients::Group { key: Arc::clone(key), was_returned };
        let handover = Handover { record: self.journal.new_id(), to, message: message.unrecorded() };
        self.record_handover(&handover);
        self.outbox.stage(self.journal.epoch(), handover);
    }

    fn record_handover(&mut self, handover: &Handover) {
        let Handover { record, to, message } = handover;
        let (form, names) = match to {
            Recipients::Subscribers { namespace, client_id, durable } => {
                let form = if *durable { FORM_DURABLE_WILL } else { FORM_WILL };
                (form, [&**self.routing.name(*namespace), &**client_id, ""])
            }
            Recipients::Group { key, .. } => (FORM_GROUP, [&*key.namespace, &*key.group, &*key.filter]),
        };
        self.journal.record_handover(*record, form, names, message);
    }

    /// A message that an earlier process left in the outbox: the client's home shard, or the group's owner, sends it.
    pub(crate) fn restore_handover(&mut self, record: RecordId, mut value: ValueReader<'_>) -> Option<()> {
        let (form, namespace) = (value.u8()?, value.text()?);
        let (first, second) = (value.text()?, value.text()?);
        let mut message = read_message(value)?;
        message.expires_at = self.journal.core_time(message.expires_at);
        let (to, shard) = if form == FORM_GROUP {
            let key = Arc::new(GroupKey { namespace: namespace.into(), group: first.into(), filter: second.into() });
            let owner = self.routing.group_owner(&key);
            (Recipients::Group { key, was_returned: true }, owner)
        } else {
            let to = Recipients::Subscribers {
                namespace: self.routing.namespace(namespace),
                client_id: first.into(),
                durable: form == FORM_DURABLE_WILL,
            };
            (to, home_shard(namespace, first, self.config.shards))
        };
        if shard == self.config.shard {
            self.outbox.restore(Handover { record, to, message });
        }
        Some(())
    }

    /// Sends what an earlier process left in the outbox, once every shard knows of the others' subscriptions.
    pub(crate) fn send_restored(&mut self) {
        for handover in self.outbox.take_restored() {
            // Its part may be of any shard: the shard that chose the member recorded no part of its own.
            let was_sent =
                matches!(handover.to, Recipients::Group { .. }) && self.journal.has_recovered(handover.dedup_key());
            self.send_handover(&handover, was_sent);
        }
    }

    fn send_handover(&mut self, handover: &Handover, was_sent: bool) {
        let Handover { record, to, message } = handover;
        let (until, recorded) = if was_sent || message.is_expired(self.now) {
            (Vec::new(), false)
        } else {
            let session = match to {
                Recipients::Subscribers { namespace, client_id, .. } => {
                    self.clients.find_session(*namespace, client_id)
                }
                Recipients::Group { .. } => None,
            };
            self.send_ungated(handover, Some(handover.dedup_key()), session.unwrap_or(Origin::BROKER.session), None)
        };
        if until.is_empty() {
            return self.remove_handover(*record);
        }
        if recorded {
            self.journal.record_received(handover.dedup_key());
        }
        self.outbox.defer(until, OutboxChange::Removal(*record));
    }

    fn remove_handover(&mut self, record: RecordId) {
        self.journal.forget_handover(record);
        let (parent, packet_id) = dedup_key_of(record);
        self.forget_received(parent, packet_id);
    }

    /// Sends what is on disk now, and removes what other shards have stored.
    pub(crate) fn drain_outbox(&mut self) {
        while let Some(handover) = self.outbox.next_staged(|epoch| self.journal.is_stored(epoch)) {
            self.send_handover(&handover, false);
        }
        while let Some(gated) = self.outbox.next_settled(|wait| self.links.has_stored(wait)) {
            match gated {
                OutboxChange::Removal(record) => self.remove_handover(record),
                OutboxChange::Records(records) => self.journal.append(&records),
            }
        }
    }
}
