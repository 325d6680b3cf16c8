//! What the shards of this node send: interest, publishes, and members of shared groups.

use std::sync::Arc;

use super::retained_log::OwnEntry;
use super::waits::Wait;
use super::{Gateway, Outside, PeerMessage, PeerPublish, Positions, RetainedEntry, RetainedPublisher, is_of_node};
use crate::delivery::publish_context::PublishContext;
use crate::ids::{Millis, NamespaceId, Origin, PeerSlot, SessionRef, ShardId};
use crate::links::link::{ForwardedPublish, LinkMessage, RANK_ASSIGN, RANK_DIRECT, RANK_OWNER, Route};
use crate::placement::owner_shard;
use crate::values::group::GroupKey;
use crate::values::message::Message;
use weir_mqtt::{DecodeContext, Decoded, Packet, ProtocolVersion, QoS, Side, decode};

/// Milliseconds until a message expires, for another node; `None`: it does not.
fn expires_in(expires_at: Millis, now: Millis) -> Option<u64> {
    (expires_at != Millis::MAX).then(|| expires_at.saturating_sub(now))
}

/// The topic and QoS of a packet that a node has encoded.
pub(super) fn topic_of(packet: &[u8], version: ProtocolVersion) -> Option<(&str, QoS)> {
    let context = DecodeContext { version, max_packet_size: u32::MAX, from: Side::Client };
    match decode(packet, &context) {
        Ok(Decoded::Packet { packet: Packet::Publish(publish), len }) if len == packet.len() => {
            Some((publish.topic, publish.qos)).filter(|(topic, _)| !topic.is_empty())
        }
        _ => None,
    }
}

impl Gateway {
    /// Processes the batches that shards have sent.
    pub(super) fn drain_shards(&mut self, outside: &mut impl Outside, now: Millis) {
        while let Some(from) = self.links.next_deliverable() {
            let Some(mut batch) = self.links.next_batch(from) else { break };
            loop {
                let position = self.links.received(from);
                let Some(message) = self.links.next_message(from, &mut batch) else { break };
                self.on_shard_message((from, position), message, &batch.bytes, outside, now);
            }
            let unsettled = self.epochs.end();
            if !self.links.end_batch(from, batch, unsettled) {
                break;
            }
        }
    }

    fn on_shard_message(
        &mut self,
        (from, position): (ShardId, u64),
        message: LinkMessage,
        bytes: &[u8],
        outside: &mut impl Outside,
        now: Millis,
    ) {
        match message {
            LinkMessage::Namespace { id, name } => {
                let ours = self.routing.namespace(&name);
                self.links.learn_namespace(from, id, ours);
            }
            LinkMessage::AddInterest { namespace, filter } => {
                if let Some(namespace) = self.shard_namespace(from, namespace) {
                    self.add_shard_interest(from, namespace, &filter, outside);
                }
            }
            LinkMessage::RemoveInterest { namespace, filter } => {
                if let Some(namespace) = self.shard_namespace(from, namespace) {
                    self.remove_shard_interest(from, namespace, &filter, outside);
                }
            }
            LinkMessage::Barrier { request, .. } => self.begin_barrier(from, request),
            LinkMessage::Publish(publish) => {
                let Some(packet) = bytes.get(publish.start as usize..publish.end as usize) else {
                    return self.errors += 1;
                };
                let Some(namespace) = self.shard_namespace(from, publish.namespace) else { return };
                match &publish.route {
                    Route::Direct { .. } => self.send_publish(namespace, &publish, packet, outside, now),
                    Route::ViaOwner { after } => {
                        self.append(namespace, (&publish, after), packet, outside, now);
                    }
                }
            }
            LinkMessage::GroupState { group, members, ready } => {
                self.on_group_state((from, position), &group, members, ready, outside);
            }
            LinkMessage::Assign { session, message, delivery, .. } => {
                self.assign((session, delivery.group.as_ref()), &message, outside, now);
            }
            LinkMessage::ClientConnected { namespace, client_id, stamp, clean_start } => {
                let Some(namespace) = self.shard_namespace(from, namespace) else { return };
                self.drop_delayed_will(namespace, &client_id, stamp);
                self.stamp = self.stamp.max(stamp);
                for peer in self.peers.slots() {
                    self.define_namespace(peer, namespace, outside);
                    let (namespace, client_id) = (namespace.0, &*client_id);
                    let message = PeerMessage::ClientConnected { namespace, client_id, stamp, clean_start };
                    self.push(peer, &message, outside);
                }
            }
            LinkMessage::Clients(page) => self.on_clients(from, *page, outside),
            LinkMessage::ClientWill { namespace, client_id, stamp, will } => {
                let Some(namespace) = self.shard_namespace(from, namespace) else { return };
                self.on_client_will((namespace, client_id), stamp, will, outside);
            }
            LinkMessage::SlotsApplied { number, occupied, pinned } => {
                self.slots.on_applied(from, number, (occupied, pinned));
            }
            LinkMessage::Held { number } => self.moves.on_held(from, number),
            LinkMessage::Exported { number, copy } => self.moves.on_exported(number, copy.map(|copy| *copy)),
            LinkMessage::Imported { number, sessions } => self.moves.on_imported(number, sessions),
            // A publisher on another node is held back by its own node's links. The others concern shards with a store.
            _ => {}
        }
    }

    fn shard_namespace(&mut self, from: ShardId, theirs: NamespaceId) -> Option<NamespaceId> {
        let ours = self.links.namespace_of(from, theirs);
        self.errors += u64::from(ours.is_none());
        ours
    }

    fn add_shard_interest(&mut self, from: ShardId, namespace: NamespaceId, filter: &str, outside: &mut impl Outside) {
        let shards = self.shard_destinations();
        let subscriptions = self.routing.subscriptions_mut(namespace);
        let is_known = subscriptions.destinations(filter).meets(&shards);
        subscriptions.add_destination(filter, from);
        if !is_known && !is_of_node(filter) {
            for peer in self.peers.slots() {
                self.send_interest(peer, namespace, filter, outside);
            }
        }
    }

    fn remove_shard_interest(
        &mut self,
        from: ShardId,
        namespace: NamespaceId,
        filter: &str,
        outside: &mut impl Outside,
    ) {
        let shards = self.shard_destinations();
        let subscriptions = self.routing.subscriptions_mut(namespace);
        subscriptions.remove_destination(filter, from);
        if !subscriptions.destinations(filter).meets(&shards) && !is_of_node(filter) {
            for peer in self.peers.slots() {
                let message = PeerMessage::RemoveInterest { namespace: namespace.0, filter };
                self.push_interest(peer, &message, outside);
            }
        }
    }

    pub(super) fn send_interest(
        &mut self,
        peer: PeerSlot,
        namespace: NamespaceId,
        filter: &str,
        outside: &mut impl Outside,
    ) {
        self.define_namespace(peer, namespace, outside);
        self.push_interest(peer, &PeerMessage::AddInterest { namespace: namespace.0, filter }, outside);
    }

    /// Sends a peer the meaning of a namespace's number, before its first use.
    pub(super) fn define_namespace(&mut self, peer: PeerSlot, namespace: NamespaceId, outside: &mut impl Outside) {
        if self.peers.get_mut(peer).is_some_and(|peer| peer.define(namespace)) {
            let name = Arc::clone(self.routing.name(namespace));
            self.push(peer, &PeerMessage::Namespace { id: namespace.0, name: &name }, outside);
        }
    }

    pub(super) fn push(&mut self, peer: PeerSlot, message: &PeerMessage<'_>, outside: &mut impl Outside) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.sent = outside.push(peer, message);
        }
    }

    /// Sends a change of this node's interest, which SUBACKs wait for.
    pub(super) fn push_interest(&mut self, peer: PeerSlot, message: &PeerMessage<'_>, outside: &mut impl Outside) {
        self.push(peer, message, outside);
        if let Some(state) = self.peers.get_mut(peer) {
            state.last_interest = state.sent;
        }
    }

    /// The epoch waits until a peer has stored what it was sent last.
    fn wait_for_peer(&mut self, slot: PeerSlot, rank: usize) {
        if let Some(peer) = self.peers.get(slot) {
            self.epochs.wait_for(rank, Wait::Stored { peer: slot, key: peer.key, number: peer.sent });
        }
    }

    /// Sends a publish to each peer that wants it.
    fn send_publish(
        &mut self,
        namespace: NamespaceId,
        publish: &ForwardedPublish,
        packet: &[u8],
        outside: &mut impl Outside,
        now: Millis,
    ) {
        let Some((topic, qos)) = topic_of(packet, publish.version) else { return self.errors += 1 };
        let destinations = self.routing.matches(namespace, topic).destinations.and(&self.peer_destinations());
        let expires_in = expires_in(publish.expires_at, now);
        for destination in destinations {
            let peer = self.peer_of(destination);
            self.define_namespace(peer, namespace, outside);
            let message = PeerPublish { namespace: namespace.0, version: publish.version, expires_in, packet };
            self.push(peer, &PeerMessage::Publish(message), outside);
            if qos > QoS::AtMostOnce {
                self.wait_for_peer(peer, RANK_DIRECT);
            }
        }
        if publish.groups_wait {
            self.give_to_groups(namespace, publish, packet);
        }
    }

    /// Appends a publish to the log of retained messages, from where it comes back to every node.
    fn append(
        &mut self,
        namespace: NamespaceId,
        (publish, after): (&ForwardedPublish, &[u64]),
        packet: &[u8],
        outside: &mut impl Outside,
        now: Millis,
    ) {
        let number = self.links.add_entry();
        self.log.add(number, OwnEntry { origin: publish.origin, after: after.into() });
        let mut after = Vec::new();
        for (_, peer) in self.peers.iter() {
            Positions::put(&mut after, peer.incarnation, peer.generation, peer.sent);
        }
        let publisher = publish.publisher.as_ref().map(|publisher| RetainedPublisher {
            client_id: &publisher.client_id,
            username: publisher.username.as_deref(),
            address: publisher.address,
            endpoint: &publisher.endpoint,
        });
        let entry = RetainedEntry {
            node: self.incarnation,
            number,
            after: Positions(&after),
            namespace: self.routing.name(namespace),
            version: publish.version,
            expires_in: expires_in(publish.expires_at, now),
            publisher,
            packet,
        };
        outside.append(&entry);
        self.epochs.wait_for(RANK_OWNER, Wait::Entry(number));
    }

    /// A message for a peer's member of a shared group.
    fn assign(
        &mut self,
        (session, group): (SessionRef, Option<&Arc<GroupKey>>),
        message: &Message,
        outside: &mut impl Outside,
        now: Millis,
    ) {
        let Some((peer, group)) = self.groups.member(session) else {
            // The peer is out, and the group's owner does not know it yet: another member has the message.
            let Some(group) = group else { return self.errors += 1 };
            let (group, message) = (Arc::clone(group), message.clone());
            let owner = owner_shard(&group.names(), self.shards);
            return self.links.push(owner, LinkMessage::Return { group, message, dedup_key: None });
        };
        self.send_to_group(peer, &group, message, outside, now);
        if message.qos > QoS::AtMostOnce {
            self.wait_for_peer(peer, RANK_ASSIGN);
            if let Some(peer) = self.peers.get_mut(peer) {
                peer.assigned.push_back((peer.sent, group, message.clone()));
            }
        }
    }

    fn send_to_group(
        &mut self,
        peer: PeerSlot,
        group: &GroupKey,
        message: &Message,
        outside: &mut impl Outside,
        now: Millis,
    ) {
        let namespace = self.routing.namespace(&group.namespace);
        self.define_namespace(peer, namespace, outside);
        let publish = message.as_publish();
        let context = PublishContext::of_message(message, &publish, Origin::BROKER);
        let mut packet = Vec::with_capacity(message.size() + 16);
        let Ok(version) = context.encode_for_link(&mut packet) else { return self.errors += 1 };
        let expires_in = expires_in(message.expires_at, now);
        let publish = PeerPublish { namespace: namespace.0, version, expires_in, packet: &packet };
        let (group, filter) = (&*group.group, &*group.filter);
        self.push(peer, &PeerMessage::GroupPublish { group, filter, publish }, outside);
    }
}
