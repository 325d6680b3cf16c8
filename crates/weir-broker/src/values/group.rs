//! Shared groups and their members, as shards name them to each other.

use std::sync::Arc;

use crate::ids::{SessionRef, ShardId};
use weir_mqtt::SubscriptionOptions;

/// The name of a group: `$share/{group}/{filter}` in a namespace.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupKey {
    pub(crate) namespace: Arc<str>,
    pub(crate) group: Box<str>,
    pub(crate) filter: Box<str>,
}

impl GroupKey {
    /// The bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.group.len() + self.filter.len() + 32
    }

    /// The strings whose hash selects its owner.
    pub(crate) fn names(&self) -> [&str; 4] {
        [&self.namespace, "$share", &self.group, &self.filter]
    }
}

/// Readiness of a member for further messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Readiness {
    /// Connected, with room.
    Ready,
    /// Connected, and behind.
    Busy,
    /// Not connected; its session waits for it.
    Offline,
}

/// A member, as the group's owner knows it.
#[derive(Debug, Clone)]
pub(crate) struct GroupMember {
    pub(crate) shard: ShardId,
    pub(crate) session: SessionRef,
    pub(crate) options: SubscriptionOptions,
    /// Subscription identifier; 0: none.
    pub(crate) identifier: u32,
}

impl GroupMember {
    pub(crate) fn id(&self) -> (ShardId, SessionRef) {
        (self.shard, self.session)
    }
}
