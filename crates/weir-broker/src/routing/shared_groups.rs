//! Shared subscriptions: a group has one owner shard, which chooses the member that gets a message.

use crate::values::group::GroupKey;
use crate::values::group::GroupMember;
use crate::values::group::Readiness;
use std::sync::Arc;

use crate::ids::{RecordId, SessionRef, ShardId};
use crate::limits::GROUP_MEMBERS_MAX;
use weir_mqtt::QoS;

/// A session's side of a shared subscription.
#[derive(Debug)]
pub(crate) struct SharedSubscription {
    pub(crate) key: Arc<GroupKey>,
    pub(crate) owner: ShardId,
    /// As granted; authorized again when the rules change.
    pub(crate) qos: QoS,
    /// The last report to the owner.
    pub(crate) reported: Readiness,
    /// Its record, where the session is durable.
    pub(crate) record: RecordId,
}

#[derive(Debug)]
pub(crate) struct Group {
    key: Arc<GroupKey>,
    members: Vec<GroupMember>,
    /// The index at which the next choice starts.
    cursor: usize,
}

impl Group {
    pub(crate) fn new(key: Arc<GroupKey>) -> Self {
        Self { key, members: Vec::new(), cursor: 0 }
    }

    pub(crate) fn key(&self) -> &Arc<GroupKey> {
        &self.key
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// A member joins, or changes its options. `false`: the group is full.
    pub(crate) fn join(&mut self, member: GroupMember) -> bool {
        let same = |m: &GroupMember| m.session == member.session && m.shard == member.shard;
        if let Some(known) = self.members.iter_mut().find(|m| same(m)) {
            *known = member;
        } else if self.members.len() >= GROUP_MEMBERS_MAX {
            return false;
        } else {
            self.members.push(member);
        }
        true
    }

    /// A member leaves. Returns whether the group is empty.
    pub(crate) fn leave(&mut self, shard: ShardId, session: SessionRef) -> bool {
        self.members.retain(|m| !(m.session == session && m.shard == shard));
        self.members.is_empty()
    }

    pub(crate) fn set_readiness(&mut self, shard: ShardId, session: SessionRef, readiness: Readiness) {
        if let Some(member) = self.members.iter_mut().find(|m| m.session == session && m.shard == shard) {
            member.readiness = readiness;
        }
    }

    /// The next member, round robin among the most ready; an offline member only if its session queues the QoS.
    pub(crate) fn choose(&mut self, qos: QoS, readiness_of: impl Fn(&GroupMember) -> Readiness) -> Option<GroupMember> {
        let count = self.members.len();
        let mut best: Option<(Readiness, usize)> = None;
        for step in 0..count {
            let place = (self.cursor + step) % count;
            let member = &self.members[place];
            let readiness = readiness_of(member);
            let able = readiness != Readiness::Offline || qos.min(member.options.qos) > QoS::AtMostOnce;
            if able && best.is_none_or(|(so_far, _)| readiness < so_far) {
                best = Some((readiness, place));
            }
            if readiness == Readiness::Ready {
                break;
            }
        }
        let (_, place) = best?;
        self.cursor = place + 1;
        self.members.get(place).cloned()
    }
}
