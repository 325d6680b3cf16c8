//! The receivers of messages of one topic.

use crate::ids::{GroupId, SessionId};
use crate::routing::subscribers::Subscriber;
use crate::shard_set::ShardSet;
use weir_mqtt::QoS;

/// Whose messages a [`Matched`] is for. A No Local subscription is none for the session's own messages
/// [MQTT-3.8.3-3]; where another one overlaps it without, the session is named once for each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    Everybody,
    Others,
    Itself,
}

impl Audience {
    /// Whether a message is meant that the session published itself (`own`), or did not.
    pub(crate) fn takes(self, own: bool) -> bool {
        match self {
            Audience::Everybody => true,
            Audience::Others => !own,
            Audience::Itself => own,
        }
    }
}

/// A session that gets a message, its overlapping subscriptions merged into one delivery.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matched {
    pub(crate) session: SessionId,
    pub(crate) qos: QoS,
    pub(crate) audience: Audience,
    pub(crate) retain_as_published: bool,
    /// The first subscription identifier; 0: none.
    identifier: u32,
    /// Further identifiers: a range of [`Matches::identifiers`].
    more: (u32, u32),
}

/// All receivers of messages of one topic.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    pub(crate) subscribers: Vec<Matched>,
    identifiers: Vec<u32>,
    pub(crate) groups: Vec<GroupId>,
    /// Other shards with interest in the topic.
    pub(crate) destinations: ShardSet,
}

impl Matches {
    /// The subscription identifiers a delivery carries, the first apart.
    pub(crate) fn identifiers(&self, matched: &Matched) -> (Option<u32>, &[u32]) {
        let (start, end) = matched.more;
        ((matched.identifier != 0).then_some(matched.identifier), &self.identifiers[start as usize..end as usize])
    }

    pub(super) fn add_subscribers(&mut self, subscribers: &[Subscriber]) {
        self.subscribers.extend(subscribers.iter().map(|s| Matched {
            session: s.session,
            qos: s.options.qos,
            audience: if s.options.no_local { Audience::Others } else { Audience::Everybody },
            retain_as_published: s.options.retain_as_published,
            identifier: s.identifier,
            more: (0, 0),
        }));
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.subscribers.capacity() * size_of::<Matched>()
            + self.identifiers.capacity() * size_of::<u32>()
            + self.groups.capacity() * size_of::<GroupId>()
    }

    /// One delivery per session, at the highest granted QoS, with every identifier [MQTT-3.3.4-2] [MQTT-3.3.4-3].
    pub(super) fn merge(&mut self) {
        let mut found = std::mem::take(&mut self.subscribers);
        found.sort_by_key(|m| m.session);
        for overlapping in found.chunk_by(|a, b| a.session == b.session) {
            let no_local = overlapping.iter().filter(|m| m.audience == Audience::Others).count();
            self.merge_one(overlapping.iter());
            if no_local > 0
                && no_local < overlapping.len()
                && let Some(all) = self.subscribers.last_mut()
            {
                all.audience = Audience::Others;
                self.merge_one(overlapping.iter().filter(|m| m.audience == Audience::Everybody));
                self.subscribers.last_mut().into_iter().for_each(|own| own.audience = Audience::Itself);
            }
        }
    }

    /// Adds one delivery for overlapping subscriptions of one session.
    fn merge_one<'a>(&mut self, mut overlapping: impl Iterator<Item = &'a Matched>) {
        let Some(mut merged) = overlapping.next().copied() else { return };
        let start = self.identifiers.len() as u32;
        for next in overlapping {
            merged.qos = merged.qos.max(next.qos);
            merged.retain_as_published |= next.retain_as_published;
            if merged.identifier == 0 {
                merged.identifier = next.identifier;
            } else if next.identifier != 0 {
                self.identifiers.push(next.identifier);
            }
        }
        merged.more = (start, self.identifiers.len() as u32);
        self.subscribers.push(merged);
    }
}
