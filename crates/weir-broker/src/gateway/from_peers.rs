//! What peers send: their interest, their publishes, and entries of the log of retained messages.

use std::sync::Arc;

use super::from_shards::topic_of;
use super::peers::{Peer, Taken};
use super::wills::KeptWills;
use super::{Gateway, Outside, PeerMessage, PeerPublish, RetainedEntry, RetainedPublisher};
use crate::ids::{DedupKey, Millis, NamespaceId, Origin, PeerSlot, ShardId};
use crate::links::link::{ForwardedPublish, LinkMessage, RANK_DIRECT, RANK_OWNER, Route};
use crate::placement::owner_shard;
use crate::shard_set::ShardSet;
use crate::values::group::GroupKey;
use crate::values::message::Message;
use crate::values::publisher::PublisherIdentity;
use weir_mqtt::{DecodeContext, Decoded, Packet, QoS, Side, decode};

fn expires_at(expires_in: Option<u64>, now: Millis) -> Millis {
    expires_in.map_or(Millis::MAX, |left| now.saturating_add(left))
}

fn identity(publisher: &RetainedPublisher<'_>) -> Arc<PublisherIdentity> {
    Arc::new(PublisherIdentity {
        client_id: publisher.client_id.into(),
        username: publisher.username.map(Into::into),
        address: publisher.address,
        endpoint: publisher.endpoint.into(),
    })
}

impl Gateway {
    /// A peer is in: it is sent what this node has interest in. `slot` is not in use; `generation` is that of the link to the
    /// peer, on which nothing was sent yet.
    pub fn add_peer(&mut self, slot: PeerSlot, incarnation: u64, generation: u32, outside: &mut impl Outside) {
        self.last_key += 1;
        self.peers.insert(slot, Peer::new(incarnation, self.last_key, generation));
        let shards = self.shard_destinations();
        for namespace in (0..self.routing.namespaces().len() as u32).map(NamespaceId) {
            for filter in self.routing.subscriptions(namespace).filters_of(&shards) {
                if !super::is_of_node(&filter) {
                    self.send_interest(slot, namespace, &filter, outside);
                }
            }
        }
        self.send_groups(slot, outside);
        self.send_published_wills(slot, incarnation, outside);
        let sequence = self.log.applied();
        self.push(slot, &PeerMessage::LogApplied { sequence }, outside);
        self.push_interest(slot, &PeerMessage::SnapshotEnd { stamp: self.stamp }, outside);
        self.announce_clients(slot);
    }

    /// A peer is out: nothing is sent to it, and nothing waits for it. What its members of groups were to have goes to others: of
    /// QoS 2 only what is behind `sent`, the last message that may have left this node. One of the peer's clients may have begun to
    /// take what is before it [MQTT-4.8.2-5].
    pub fn remove_peer(&mut self, slot: PeerSlot, sent: u64) {
        self.forget_peer(slot);
        let assigned = self.peers.remove(slot).map(|peer| peer.assigned).unwrap_or_default();
        let may_go = |number: u64, qos: QoS| qos < QoS::ExactlyOnce || number > sent;
        for (_, group, message) in assigned.into_iter().filter(|(number, _, message)| may_go(*number, message.qos)) {
            let owner = owner_shard(&group.names(), self.shards);
            self.links.push(owner, LinkMessage::Return { group, message, dedup_key: None });
        }
        self.wills.lose_keeper(slot);
    }

    /// The link from a peer begins anew, with another generation: it sends its interest again.
    pub fn reset_peer(&mut self, slot: PeerSlot, generation: u32) {
        self.forget_peer(slot);
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.their_generation = generation;
            peer.namespaces.clear();
            (peer.taken, peer.own_processed, peer.own_stored, peer.is_known) = (0, 0, 0, false);
            peer.behind = 0;
            peer.wills = KeptWills::default();
            peer.storing.clear();
            peer.processing.clear();
            peer.unstored.clear();
        }
    }

    /// This node is in again: it acknowledges nothing until every peer has answered. One that has taken it for out, and forgotten
    /// its interest, does not take what it sends, and begins anew; so its interest comes again first. One that has started
    /// meanwhile may serve clients, and sends its interest when it sees this node for the first time.
    pub fn confirm(&mut self, outside: &mut impl Outside) {
        self.slots.set_stale();
        let sequence = self.log.applied();
        for slot in self.peers.slots() {
            self.push(slot, &PeerMessage::LogApplied { sequence }, outside);
            if let Some(peer) = self.peers.get_mut(slot) {
                (peer.confirm, peer.must_be_known) = (peer.sent, true);
            }
        }
    }

    /// The links to and from a known peer begin anew: nothing is acknowledged until both have the other's interest.
    pub fn confirm_peer(&mut self, slot: PeerSlot) {
        if let Some(peer) = self.peers.get_mut(slot) {
            (peer.confirm, peer.must_be_known) = (peer.last_interest, true);
        }
    }

    /// Whether the peers have this node's interest, and it has theirs, as far as they had it before; and it knows its slots.
    pub fn is_confirmed(&self) -> bool {
        !self.slots.is_stale()
            && self
                .peers
                .iter()
                .all(|(_, peer)| peer.processed >= peer.confirm && (peer.is_known || !peer.must_be_known))
    }

    /// Forgets what a peer has interest in.
    fn forget_peer(&mut self, slot: PeerSlot) {
        self.remove_peer_groups(slot);
        let mut its = ShardSet::default();
        its.insert(self.destination_of(slot));
        for namespace in (0..self.routing.namespaces().len() as u32).map(NamespaceId) {
            for filter in self.routing.subscriptions(namespace).filters_of(&its) {
                self.remove_peer_interest(slot, namespace, &filter);
            }
        }
    }

    /// Up to which number a peer has processed, and stored, what it was sent.
    pub fn peer_progress(&mut self, slot: PeerSlot, processed: u64, stored: u64) {
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.processed = peer.processed.max(processed);
            peer.stored = peer.stored.max(stored);
            while peer.assigned.front().is_some_and(|(number, ..)| *number <= peer.stored) {
                peer.assigned.pop_front();
            }
        }
    }

    /// Up to which number this node has processed, and stored, what a peer sent.
    pub fn progress(&self, slot: PeerSlot) -> (u64, u64) {
        self.peers.get(slot).map_or((0, 0), |peer| (peer.own_processed, peer.own_stored))
    }

    /// Whether all that has come of peers and of changes of slots is done, and what this node's clients have sent has arrived. Wills
    /// that became due during a hold are published when it is over.
    pub fn is_at_rest(&self) -> bool {
        self.is_released()
            && self.links.is_drained()
            && self.slots_applied().0 == self.slots.number()
            && self.epochs.are_settled()
            && self.peers.iter().all(|(_, peer)| peer.processing.is_empty() && peer.unstored.is_empty())
    }

    /// Whether every peer has sent all that it has interest in, and the log has been applied up to `head`: clients may be
    /// served.
    pub fn is_ready(&self, head: u64) -> bool {
        self.log.applied() >= head && self.peers.iter().all(|(_, peer)| peer.is_known)
    }

    /// Whether messages of a peer may be taken. While this node was out, the peer did not wait for it before it sent directly
    /// what follows entries of the log: so the log is applied first [MQTT-4.6.0-5].
    pub fn may_take(&self, from: PeerSlot) -> bool {
        self.peers.get(from).is_none_or(|peer| self.log.applied() >= peer.behind)
    }

    /// Takes a peer's message of that number on its link.
    pub fn take_message(&mut self, from: PeerSlot, number: u64, message: &PeerMessage<'_>, now: Millis) {
        let Some(peer) = self.peers.get_mut(from) else { return };
        peer.taken = number;
        match message {
            PeerMessage::Namespace { id, name } => {
                let ours = self.routing.namespace(name);
                if let Some(peer) = self.peers.get_mut(from) {
                    peer.learn(*id, ours);
                }
            }
            PeerMessage::AddInterest { namespace, filter } => {
                if let Some(namespace) = self.peer_namespace(from, *namespace) {
                    self.add_peer_interest(from, namespace, filter);
                }
            }
            PeerMessage::RemoveInterest { namespace, filter } => {
                if let Some(namespace) = self.peer_namespace(from, *namespace) {
                    self.remove_peer_interest(from, namespace, filter);
                }
            }
            PeerMessage::Group { namespace, group, filter, members, ready } => {
                if let Some(key) = self.group_key(from, *namespace, group, filter) {
                    self.on_peer_group(from, key, *members, *ready);
                }
            }
            PeerMessage::ClientConnected { namespace, client_id, stamp, clean_start } => {
                let wins_ties = peer.incarnation > self.incarnation;
                self.stamp = self.stamp.max(*stamp);
                if let Some(namespace) = self.peer_namespace(from, *namespace) {
                    self.drop_delayed_will(namespace, client_id, *stamp);
                    self.on_client_elsewhere((from, namespace), client_id, (*stamp, wins_ties, *clean_start));
                }
            }
            PeerMessage::ClientWill { namespace, client_id, stamp, will } => {
                if let Some(namespace) = self.peer_namespace(from, *namespace) {
                    self.on_peer_will(from, (namespace, (*client_id).into()), *stamp, *will);
                }
            }
            PeerMessage::WillsEnd => self.on_wills_end(from),
            PeerMessage::WillPublished { namespace, client_id, stamp } => {
                if let Some(namespace) = self.peer_namespace(from, *namespace) {
                    self.on_will_published(namespace, client_id, *stamp);
                }
            }
            PeerMessage::SnapshotEnd { stamp } => {
                (peer.is_known, peer.behind) = (true, peer.applied);
                self.learn_stamp(*stamp);
            }
            PeerMessage::LogApplied { sequence } => peer.applied = peer.applied.max(*sequence),
            PeerMessage::Publish(publish) => self.publish(from, publish, now),
            PeerMessage::GroupPublish { group, filter, publish } => {
                self.publish_to_group(from, (group, filter), publish, now);
            }
        }
    }

    /// What has been taken from a peer in this turn is to be acknowledged when shards have processed it.
    pub fn end_messages(&mut self, from: PeerSlot) {
        let until: Vec<u64> = (0..self.shards).map(|shard| self.links.position(ShardId(shard))).collect();
        let Some(peer) = self.peers.get_mut(from) else { return };
        let number = peer.taken;
        for (shard, _) in until.iter().enumerate() {
            self.links.request_ack(ShardId(shard as u16));
        }
        let stored = std::mem::take(&mut peer.storing);
        peer.unstored.push_back(Taken { number, until: until.clone(), stored });
        peer.processing.push_back(Taken { number, until, stored: Vec::new() });
    }

    fn peer_namespace(&mut self, from: PeerSlot, theirs: u32) -> Option<NamespaceId> {
        let ours = self.peers.get(from).and_then(|peer| peer.namespace(theirs));
        self.errors += u64::from(ours.is_none());
        ours
    }

    fn group_key(&mut self, from: PeerSlot, namespace: u32, group: &str, filter: &str) -> Option<GroupKey> {
        let namespace = self.peer_namespace(from, namespace)?;
        let namespace = Arc::clone(self.routing.name(namespace));
        Some(GroupKey { namespace, group: group.into(), filter: filter.into() })
    }

    fn add_peer_interest(&mut self, from: PeerSlot, namespace: NamespaceId, filter: &str) {
        let (peers, destination) = (self.peer_destinations(), self.destination_of(from));
        let subscriptions = self.routing.subscriptions_mut(namespace);
        let is_known = subscriptions.destinations(filter).meets(&peers);
        subscriptions.add_destination(filter, destination);
        if !is_known {
            self.send_to_shards(namespace, |namespace| LinkMessage::AddInterest { namespace, filter: filter.into() });
        }
    }

    fn remove_peer_interest(&mut self, from: PeerSlot, namespace: NamespaceId, filter: &str) {
        let (peers, destination) = (self.peer_destinations(), self.destination_of(from));
        let subscriptions = self.routing.subscriptions_mut(namespace);
        let had = subscriptions.destinations(filter).contains(destination);
        subscriptions.remove_destination(filter, destination);
        if had && !subscriptions.destinations(filter).meets(&peers) {
            self.send_to_shards(namespace, |namespace| LinkMessage::RemoveInterest {
                namespace,
                filter: filter.into(),
            });
        }
    }

    fn send_to_shards(&mut self, namespace: NamespaceId, message: impl Fn(NamespaceId) -> LinkMessage) {
        for shard in (0..self.shards).map(ShardId) {
            self.links.define_namespace(shard, namespace, self.routing.name(namespace));
            self.links.push(shard, message(namespace));
        }
    }

    /// A peer's message for the subscribers of this node.
    fn publish(&mut self, from: PeerSlot, publish: &PeerPublish<'_>, now: Millis) {
        let Some(namespace) = self.peer_namespace(from, publish.namespace) else { return };
        let Some((topic, qos)) = topic_of(publish.packet, publish.version) else { return self.errors += 1 };
        let destinations = self.routing.matches(namespace, topic).destinations.and(&self.shard_destinations());
        let (origin, expires_at) = (self.origin(), expires_at(publish.expires_in, now));
        for shard in destinations {
            self.forward(
                shard,
                (namespace, Route::Direct { after: 0 }, origin),
                (publish.packet, publish.version, expires_at, None),
                true,
            );
            if qos > QoS::AtMostOnce {
                let wait = self.links.request_stored(shard, RANK_DIRECT);
                if let Some(peer) = self.peers.get_mut(from) {
                    match peer.storing.iter_mut().find(|known| known.shard == wait.shard) {
                        Some(known) => *known = wait,
                        None => peer.storing.push(wait),
                    }
                }
            }
        }
    }

    fn forward(
        &mut self,
        to: ShardId,
        (namespace, route, origin): (NamespaceId, Route, Origin),
        (packet, version, expires_at, publisher): (
            &[u8],
            weir_mqtt::ProtocolVersion,
            Millis,
            Option<Arc<PublisherIdentity>>,
        ),
        is_of_peer: bool,
    ) {
        self.links.define_namespace(to, namespace, self.routing.name(namespace));
        let dedup_key: Option<DedupKey> = None;
        let durable = false;
        self.links.forward(to, |bytes| {
            bytes.extend_from_slice(packet);
            let (start, end) = (0, 0);
            Some(ForwardedPublish {
                namespace,
                route,
                version,
                origin,
                publisher,
                expires_at,
                durable,
                dedup_key,
                is_of_peer,
                groups_wait: false,
                start,
                end,
            })
        });
    }

    /// A peer's message for a member of a shared group.
    fn publish_to_group(
        &mut self,
        from: PeerSlot,
        (group, filter): (&str, &str),
        publish: &PeerPublish<'_>,
        now: Millis,
    ) {
        let Some(key) = self.group_key(from, publish.namespace, group, filter) else { return };
        let context = DecodeContext { version: publish.version, max_packet_size: u32::MAX, from: Side::Client };
        let Ok(Decoded::Packet { packet: Packet::Publish(packet), .. }) = decode(publish.packet, &context) else {
            return self.errors += 1;
        };
        let message = Message::new(packet.topic, &packet, expires_at(publish.expires_in, now));
        let owner = owner_shard(&key.names(), self.shards);
        let group = Arc::new(key);
        self.links.push(owner, LinkMessage::GroupPublish { group, message });
        if packet.qos > QoS::AtMostOnce {
            let wait = self.links.request_stored(owner, RANK_DIRECT);
            if let Some(peer) = self.peers.get_mut(from) {
                peer.storing.retain(|known| known.shard != wait.shard);
                peer.storing.push(wait);
            }
        }
    }

    /// The log has stored this node's entry of that number, at that sequence; `None`: it never will.
    pub fn entry_stored(&mut self, number: u64, sequence: Option<u64>) {
        self.log.set_stored(number, sequence);
    }

    /// Whether an entry may be applied: what its node had sent here before it has been taken. What a node that is out has
    /// sent does not come any more.
    pub fn may_apply(&self, entry: &RetainedEntry<'_>) -> bool {
        let sender = self.peers.iter().find(|(_, peer)| peer.incarnation == entry.node);
        let here = entry.after.of(self.incarnation);
        sender.zip(here).is_none_or(|((_, peer), (generation, number))| {
            peer.their_generation > generation || (peer.their_generation == generation && peer.taken >= number)
        })
    }

    /// An entry that cannot be decoded is passed over.
    pub fn skip(&mut self, sequence: u64) {
        self.log.skip(sequence);
    }

    /// The log begins anew: its sequences count from 1 again. What the node retains stays until an entry replaces it.
    pub fn reset_log(&mut self) {
        self.log.reset();
        self.peers.iter_mut().for_each(|peer| (peer.applied, peer.behind) = (0, 0));
    }

    /// Up to which sequence this node has applied the log; and every node.
    pub fn log_applied(&self) -> u64 {
        self.log.applied()
    }

    /// See [`Gateway::log_applied`].
    pub fn log_applied_everywhere(&self) -> u64 {
        self.peers.iter().map(|(_, peer)| peer.applied).fold(self.log.applied(), u64::min)
    }

    /// Applies an entry of the log: its topic's owner retains the message and delivers it to the subscribers of this node.
    pub fn apply(&mut self, sequence: u64, entry: &RetainedEntry<'_>, now: Millis) {
        if sequence <= self.log.handed() {
            return;
        }
        let Some((topic, _)) = topic_of(entry.packet, entry.version) else {
            self.errors += 1;
            return self.log.skip(sequence);
        };
        let namespace = self.routing.namespace(entry.namespace);
        let owner = owner_shard(&[entry.namespace, topic], self.shards);
        let own = if entry.node == self.incarnation { self.log.take_own(entry.number) } else { None };
        let (number, is_of_peer) = (own.as_ref().map(|_| entry.number), own.is_none());
        // Of a peer's publisher, what this shard has sent before must not be overtaken.
        let of_peer = || (self.origin(), self.links.positions().into());
        let (origin, after) = own.map_or_else(of_peer, |own| (own.origin, own.after));
        let publisher = entry.publisher.as_ref().map(identity);
        let message = (entry.packet, entry.version, expires_at(entry.expires_in, now), publisher);
        self.forward(owner, (namespace, Route::ViaOwner { after }, origin), message, is_of_peer);
        self.links.request_ack(owner);
        // A member of a shared group that it goes to may be on another node.
        let number = number.map(|number| (number, self.links.request_stored(owner, RANK_OWNER)));
        self.log.hand(sequence, number, owner, self.links.position(owner));
    }
}
