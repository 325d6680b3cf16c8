//! Shared subscriptions: a group has one owner shard, which chooses the member that gets a message.

use std::sync::Arc;

use crate::hash::IdMap;
use crate::ids::{RecordId, SessionRef, ShardId};
use crate::limits::{GROUP_MEMBERS_MAX, GROUP_SEARCH_MAX};
use crate::values::group::{GroupKey, GroupMember, Readiness};
use crate::values::memory::Charge;
use weir_mqtt::{QoS, SubscriptionOptions};

/// A group this large gets an index of its members, so that joining and leaving cost no search.
const INDEXED_FROM: usize = 32;

/// A session's side of a shared subscription.
#[derive(Debug)]
pub(crate) struct SharedSubscription {
    pub(crate) owner: ShardId,
    /// As granted; authorized again when the rules change.
    pub(crate) qos: QoS,
    /// As asked for; its QoS does not count.
    pub(crate) options: SubscriptionOptions,
    /// Subscription identifier; 0: none.
    pub(crate) identifier: u32,
    /// Its record, where the session is durable.
    pub(crate) record: RecordId,
    /// Of its bytes.
    #[expect(dead_code, reason = "it counts while it lives")]
    pub(crate) charge: Charge,
}

/// A session of this shard or of another one.
pub(crate) type MemberId = (ShardId, SessionRef);

#[derive(Debug)]
pub(crate) struct Group {
    key: Arc<GroupKey>,
    /// Its index among the groups of its filter.
    pub(super) position: u32,
    members: Vec<GroupMember>,
    /// Indexes into `members`, from [`INDEXED_FROM`] on.
    index: Option<IdMap<MemberId, u32>>,
    /// The index at which the next choice starts.
    cursor: usize,
}

/// The result of a member's joining a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupJoin {
    Full,
    Changed,
    New,
}

impl Group {
    pub(crate) fn new(key: Arc<GroupKey>) -> Self {
        Self { key, position: 0, members: Vec::new(), index: None, cursor: 0 }
    }

    pub(crate) fn key(&self) -> &Arc<GroupKey> {
        &self.key
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &GroupMember> {
        self.members.iter()
    }

    fn find(&self, id: MemberId) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(&id).map(|&at| at as usize),
            None => self.members.iter().position(|member| member.id() == id),
        }
    }

    /// A member joins, or changes its options.
    pub(crate) fn join(&mut self, member: GroupMember) -> GroupJoin {
        if let Some(known) = self.find(member.id()).and_then(|at| self.members.get_mut(at)) {
            *known = member;
            return GroupJoin::Changed;
        }
        if self.members.len() >= GROUP_MEMBERS_MAX {
            return GroupJoin::Full;
        }
        if let Some(index) = &mut self.index {
            index.insert(member.id(), self.members.len() as u32);
        }
        self.members.push(member);
        if self.index.is_none() && self.members.len() > INDEXED_FROM {
            self.index = Some(self.members.iter().enumerate().map(|(at, member)| (member.id(), at as u32)).collect());
        }
        GroupJoin::New
    }

    /// A member leaves. Returns whether it was one.
    pub(crate) fn leave(&mut self, id: MemberId) -> bool {
        let Some(at) = self.find(id) else { return false };
        self.members.swap_remove(at);
        if let Some(index) = &mut self.index {
            index.remove(&id);
            if let Some(moved) = self.members.get(at) {
                index.insert(moved.id(), at as u32);
            }
        }
        true
    }

    /// The next member, round robin among the most ready of the next [`GROUP_SEARCH_MAX`]; an offline member only if its
    /// session queues the QoS. `None` of `readiness_of`: the member is about to leave.
    pub(crate) fn choose(
        &mut self,
        qos: QoS,
        readiness_of: impl Fn(&GroupMember) -> Option<Readiness>,
    ) -> Option<GroupMember> {
        let count = self.members.len();
        let mut best: Option<(Readiness, usize)> = None;
        for step in 0..count {
            if step >= GROUP_SEARCH_MAX && best.is_some() {
                break;
            }
            let at = (self.cursor + step) % count;
            let member = &self.members[at];
            let Some(readiness) = readiness_of(member) else { continue };
            let able = readiness != Readiness::Offline || qos.min(member.options.qos) > QoS::AtMostOnce;
            if able && best.is_none_or(|(so_far, _)| readiness < so_far) {
                best = Some((readiness, at));
            }
            if readiness == Readiness::Ready {
                break;
            }
        }
        let (_, at) = best?;
        self.cursor = at + 1;
        self.members.get(at).cloned()
    }
}
