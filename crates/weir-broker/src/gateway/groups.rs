//! Shared groups over nodes: the members of this node, as peers know them, and the peers' members, as the groups' owners on
//! this node know them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::waits::Wait;
use super::{Gateway, Outside, PeerMessage};
use crate::ids::{NamespaceId, PeerSlot, SessionId, SessionRef, ShardId};
use crate::limits::PEER_MEMBERS_MAX;
use crate::links::link::{ForwardedPublish, LinkMessage, RANK_DIRECT, RANK_RETURN};
use crate::placement::owner_shard;
use crate::slab::Slab;
use crate::values::group::{GroupKey, GroupMember, Readiness};
use crate::values::message::Message;
use weir_mqtt::{DecodeContext, Decoded, Packet, QoS, RetainHandling, Side, SubscriptionOptions, decode, matches};

/// A peer's members of a group. Each is a member of the group at its owner on this node, so that nodes get messages by how
/// many members they have.
#[derive(Debug)]
struct PeerGroup {
    members: Vec<SessionRef>,
    readiness: Readiness,
}

/// The group and the peer of a member.
#[derive(Debug)]
struct PeerMember {
    peer: PeerSlot,
    group: Arc<GroupKey>,
}

#[derive(Debug, Default)]
pub(super) struct Groups {
    /// This node's groups: members, and how many of them are ready.
    own: BTreeMap<Arc<GroupKey>, (u32, u32)>,
    of_peers: BTreeMap<(PeerSlot, Arc<GroupKey>), PeerGroup>,
    members: Slab<SessionId, PeerMember>,
}

impl Groups {
    /// The peer of a member, and its group; `None`: it has left.
    pub(super) fn member(&self, member: SessionRef) -> Option<(PeerSlot, Arc<GroupKey>)> {
        let found = self.members.get(member.id).filter(|_| self.members.generation(member.id) == member.generation)?;
        Some((found.peer, Arc::clone(&found.group)))
    }
}

/// A peer's member takes every QoS; its node applies the options of the client.
fn member_options() -> SubscriptionOptions {
    SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: false,
        retain_as_published: true,
        retain_handling: RetainHandling::Never,
    }
}

impl Gateway {
    fn group_owner(&self, key: &GroupKey) -> ShardId {
        owner_shard(&key.names(), self.shards)
    }

    /// A shard has changed members of a group that it owns; `position`: of its link before that.
    pub(super) fn on_group_state(
        &mut self,
        (from, position): (ShardId, u64),
        group: &Arc<GroupKey>,
        members: u32,
        ready: u32,
        outside: &mut impl Outside,
    ) {
        let before = self.groups.own.get(group).copied().unwrap_or_default();
        if members == 0 {
            self.groups.own.remove(group);
        } else {
            self.groups.own.insert(Arc::clone(group), (members, ready));
        }
        if before == (members, ready) {
            return;
        }
        for peer in self.peers.slots() {
            self.send_group(peer, group, (members, ready), outside);
        }
        if before.0 == 0 {
            self.hold(from, position);
        }
    }

    fn send_group(
        &mut self,
        peer: PeerSlot,
        group: &GroupKey,
        (members, ready): (u32, u32),
        outside: &mut impl Outside,
    ) {
        let namespace = self.routing.namespace(&group.namespace);
        self.define_namespace(peer, namespace, outside);
        let (namespace, group, filter) = (namespace.0, &*group.group, &*group.filter);
        self.push_interest(peer, &PeerMessage::Group { namespace, group, filter, members, ready }, outside);
    }

    /// All groups of this node, to a peer that has come.
    pub(super) fn send_groups(&mut self, peer: PeerSlot, outside: &mut impl Outside) {
        let own: Vec<_> = self.groups.own.iter().map(|(group, counts)| (Arc::clone(group), *counts)).collect();
        own.iter().for_each(|(group, counts)| self.send_group(peer, group, *counts, outside));
    }

    /// Gives what a shard has taken while the node was out to a member of each group, of this node or a peer.
    pub(super) fn give_to_groups(&mut self, namespace: NamespaceId, publish: &ForwardedPublish, packet: &[u8]) {
        let context = DecodeContext { version: publish.version, max_packet_size: u32::MAX, from: Side::Client };
        let Ok(Decoded::Packet { packet: Packet::Publish(packet), .. }) = decode(packet, &context) else {
            return self.errors += 1;
        };
        let message = Message::new(packet.topic, &packet, publish.expires_at);
        let name = self.routing.name(namespace);
        let all = self.groups.own.keys().chain(self.groups.of_peers.keys().map(|(_, group)| group));
        let of_topic = all.filter(|group| group.namespace == *name && matches(&group.filter, packet.topic));
        for group in of_topic.cloned().collect::<BTreeSet<_>>() {
            let (owner, message) = (self.group_owner(&group), message.clone());
            self.links.push(owner, LinkMessage::Return { group, message, dedup_key: publish.dedup_key });
            let stored = self.links.request_stored(owner, RANK_RETURN);
            self.epochs.wait_for(RANK_DIRECT, Wait::Shard(stored));
        }
    }

    /// A peer has changed members of a group.
    pub(super) fn on_peer_group(&mut self, peer: PeerSlot, group: GroupKey, members: u32, ready: u32) {
        let owner = self.group_owner(&group);
        let key = (peer, Arc::new(group));
        let readiness = if ready > 0 { Readiness::Ready } else { Readiness::Offline };
        let mut known = match self.groups.of_peers.remove_entry(&key) {
            Some(known) => known,
            None => (key, PeerGroup { members: Vec::new(), readiness }),
        };
        let ((_, group), state) = (&known.0, &mut known.1);
        let wanted = members.min(PEER_MEMBERS_MAX) as usize;
        while state.members.len() > wanted
            && let Some(session) = state.members.pop()
        {
            self.groups.members.remove(session.id);
            self.links.push(owner, LinkMessage::Leave { group: Arc::clone(group), session });
        }
        if state.readiness != readiness {
            state.readiness = readiness;
            for &session in &state.members {
                self.links.push(owner, LinkMessage::Readiness { session, readiness });
            }
        }
        while state.members.len() < wanted {
            let (id, generation) = self.groups.members.insert(PeerMember { peer, group: Arc::clone(group) });
            let session = SessionRef { id, generation };
            state.members.push(session);
            let member = GroupMember { shard: ShardId(self.shards), session, options: member_options(), identifier: 0 };
            self.links.push(owner, LinkMessage::Join { group: Arc::clone(group), member, readiness });
        }
        self.links.request_ack(owner);
        if wanted > 0 {
            self.groups.of_peers.insert(known.0, known.1);
        }
    }

    /// A peer is out: its members leave.
    pub(super) fn remove_peer_groups(&mut self, peer: PeerSlot) {
        let groups: Vec<_> =
            self.groups.of_peers.keys().filter(|(of, _)| *of == peer).map(|(_, g)| g.clone()).collect();
        for group in groups {
            let GroupKey { namespace, group, filter } = &*group;
            let key = GroupKey { namespace: namespace.clone(), group: group.clone(), filter: filter.clone() };
            self.on_peer_group(peer, key, 0, 0);
        }
    }
}
