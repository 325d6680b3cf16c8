//! The outbox: messages that this shard has given up because another shard is to have them, kept on disk here until they
//! are on disk there.
//!
//! A shard's records do not wait for other shards' disks. So where a record says that a message is no longer owed here
//! (a will is published, a session returns what it had of a shared subscription), the same turn puts the message into the
//! outbox. It is removed once every shard that it was sent to has stored its part. Nothing waits for that removal, so it
//! closes no circle. After a crash the message is sent again, under the same name ([`Once`]): a shard that has recorded
//! its part passes over it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::connection::Origin;
use super::core::{Core, home_shard};
use super::durable::write_message;
use super::journal::{Once, Waits};
use super::link::Wait;
use super::message::Message;
use super::record::{Key, Kind, RecordId, Value};
use super::restore::read_message;
use super::session::SpaceId;
use super::shared::GroupKey;
use super::subscriptions::SessionId;
use super::view::View;
use weir_mqtt::PacketId;

/// A message in the outbox.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) record: RecordId,
    pub(super) to: Recipients,
    pub(super) message: Message,
}

/// Who is to get it.
#[derive(Debug)]
pub(super) enum Recipients {
    /// A will: whoever subscribes. `client_id` is its client's; `durable`: if it is retained, then on disk.
    Subscribers { space: SpaceId, client_id: Box<str>, durable: bool },
    /// One member of a group. `again`: another member has returned it.
    Group { key: Arc<GroupKey>, again: bool },
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// To be sent once their records are on disk, by the turn that put them there.
    staged: VecDeque<(u64, Handover)>,
    /// Sent; in the order of sending.
    gates: VecDeque<Gate>,
    /// What an earlier process left.
    restored: Vec<Handover>,
}

/// Records that are written when other shards have stored what they were sent.
#[derive(Debug)]
struct Gate {
    until: Vec<Wait>,
    then: Gated,
}

#[derive(Debug)]
enum Gated {
    /// The removal of a message from the outbox.
    Removal(RecordId),
    Records(Vec<u8>),
}

/// What tells a message of the outbox from every other.
fn name_of(record: RecordId) -> Once {
    (record, PacketId::MIN)
}

impl Outbox {
    /// Whether [`Core::send_restored`] has something to do.
    pub(super) fn has_restored(&self) -> bool {
        !self.restored.is_empty()
    }
}

impl Core {
    /// Publishes the will of a session that is, or was, durable, or is not (then its record is none).
    pub(super) fn publish_will(&mut self, will: Handover, session: SessionId) {
        let once = will.record.is_some().then(|| name_of(will.record));
        let (until, recorded) = self.send_apart(&will, once, session);
        let Some(once) = once else { return };
        if until.is_empty() {
            return self.forget_will(will.record);
        }
        self.record_handover(&will);
        if recorded {
            self.record_received(once);
        }
        self.gate(until, Gated::Removal(will.record));
    }

    /// A will is not to be sent again: what an earlier process recorded of it is of no use any more.
    pub(super) fn forget_will(&mut self, record: RecordId) {
        if self.was_sent_before(record) {
            let (owner, packet_id) = name_of(record);
            self.forget_received(owner, packet_id);
        }
    }

    /// Whether an earlier process recorded a part of a message.
    fn was_sent_before(&self, record: RecordId) -> bool {
        self.journal.recovered.iter().any(|(once, _)| *once == name_of(record))
    }

    /// Sends a message that holds back no answer of this shard. Answers with what it has to wait for, and whether it left
    /// records here.
    fn send_apart(&mut self, handover: &Handover, once: Option<Once>, session: SessionId) -> (Vec<Wait>, bool) {
        let (now, recorded) = (self.now, self.journal.recorded);
        let own = self.journal.swap_waits(Waits::default());
        let publish = handover.message.as_publish();
        let origin = Origin { session, shard: self.config.shard, ..Origin::NOBODY };
        let mut view = View::of(&handover.message, &publish, origin);
        view.once = once;
        match &handover.to {
            Recipients::Subscribers { space, durable, .. } => {
                view.durable = *durable;
                self.route(*space, &mut view, now);
            }
            Recipients::Group { key, again } => {
                view.in_outbox = true;
                self.send_to_group(key, &mut view, *again, now);
            }
        }
        (self.journal.swap_waits(own).until, self.journal.recorded != recorded)
    }

    /// Puts a message for a group into the outbox; it is sent once it is on disk there, so that it has one name whatever
    /// happens.
    pub(super) fn stage(&mut self, key: &Arc<GroupKey>, message: Message, again: bool) {
        let to = Recipients::Group { key: Arc::clone(key), again };
        let handover = Handover { record: self.journal.new_id(), to, message: message.unrecorded() };
        self.record_handover(&handover);
        self.outbox.staged.push_back((self.journal.turn(), handover));
    }

    fn record_handover(&mut self, handover: &Handover) {
        let Handover { record, to, message } = handover;
        let expires_at = self.journal.to_unix_ms(message.expires_at);
        let spaces = &self.spaces;
        self.journal.put(Key::new(Kind::Outbox, *record, 0), |fields| {
            match to {
                Recipients::Subscribers { space, client_id, durable } => {
                    fields.u8(u8::from(*durable)).sized(spaces[*space as usize].name.as_bytes());
                    fields.sized(client_id.as_bytes()).sized(b"");
                }
                Recipients::Group { key, .. } => {
                    fields.u8(2).sized(key.namespace.as_bytes());
                    fields.sized(key.group.as_bytes()).sized(key.filter.as_bytes());
                }
            }
            write_message(fields, message, expires_at);
        });
    }

    /// A message that an earlier process left in the outbox: the shard at home there, or the group's owner, sends it.
    pub(super) fn restore_handover(&mut self, record: RecordId, mut value: Value<'_>) -> Option<()> {
        let (flags, namespace) = (value.u8()?, value.text()?);
        let (first, second) = (value.text()?, value.text()?);
        let mut message = read_message(value)?;
        message.expires_at = self.journal.core_time(message.expires_at);
        let (to, shard) = if flags == 2 {
            let key = Arc::new(GroupKey { namespace: namespace.into(), group: first.into(), filter: second.into() });
            let owner = self.group_owner(&key);
            (Recipients::Group { key, again: true }, owner)
        } else {
            let to =
                Recipients::Subscribers { space: self.space(namespace), client_id: first.into(), durable: flags == 1 };
            (to, home_shard(namespace, first, self.config.shards))
        };
        if shard == self.config.shard {
            self.outbox.restored.push(Handover { record, to, message });
        }
        Some(())
    }

    /// Sends what an earlier process left in the outbox, once every shard knows of the others' subscriptions.
    pub(super) fn send_restored(&mut self) {
        for handover in std::mem::take(&mut self.outbox.restored) {
            // Its part may be of any shard: who chose the member did not take the message itself.
            let taken = matches!(handover.to, Recipients::Group { .. }) && self.was_sent_before(handover.record);
            self.send_handover(&handover, taken);
        }
    }

    fn send_handover(&mut self, handover: &Handover, taken: bool) {
        let Handover { record, to, message } = handover;
        let (until, recorded) = if taken || message.is_expired(self.now) {
            (Vec::new(), false)
        } else {
            let session = match to {
                Recipients::Subscribers { space, client_id, .. } => self.find_session(*space, client_id),
                Recipients::Group { .. } => None,
            };
            self.send_apart(handover, Some(name_of(*record)), session.unwrap_or(Origin::NOBODY.session))
        };
        if until.is_empty() {
            return self.remove_handover(*record);
        }
        if recorded {
            self.record_received(name_of(*record));
        }
        self.gate(until, Gated::Removal(*record));
    }

    /// Records that wait for what other shards were just sent.
    pub(super) fn record_behind(&mut self, until: Vec<Wait>, records: Vec<u8>) {
        self.gate(until, Gated::Records(records));
    }

    fn gate(&mut self, until: Vec<Wait>, then: Gated) {
        self.outbox.gates.push_back(Gate { until, then });
    }

    fn remove_handover(&mut self, record: RecordId) {
        self.journal.remove(Key::new(Kind::Outbox, record, 0));
        let (owner, packet_id) = name_of(record);
        self.forget_received(owner, packet_id);
    }

    /// Sends what is on disk now, and removes what other shards have stored.
    pub(super) fn work_outbox(&mut self) {
        while self.outbox.staged.front().is_some_and(|(turn, _)| self.journal.is_stored(*turn))
            && let Some((_, handover)) = self.outbox.staged.pop_front()
        {
            self.send_handover(&handover, false);
        }
        let links = &self.links;
        let is_there = |wait: &Wait| links[usize::from(wait.shard)].stored[wait.rank] >= wait.place;
        let settled = self.outbox.gates.iter().take_while(|gate| gate.until.iter().all(is_there)).count();
        for _ in 0..settled {
            match self.outbox.gates.pop_front().map(|gate| gate.then) {
                Some(Gated::Removal(record)) => self.remove_handover(record),
                Some(Gated::Records(records)) => self.journal.append(&records),
                None => {}
            }
        }
    }
}
