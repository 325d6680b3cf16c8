//! Wills of clients whose node dies. Each node has a keeper, one of its peers, that has copies of the wills of sessions that
//! end with the node, and publishes them when the node is out.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Gateway, Outside, PeerMessage};
use crate::durability::kept_will::{kept_will_delay_s, read_kept_will};
use crate::ids::{Millis, NamespaceId, PeerSlot, ShardId};
use crate::limits::KEPT_WILLS_BYTES;
use crate::links::link::LinkMessage;
use crate::placement::home_shard;

/// Bytes of a will's entry, beside its bytes and the client identifier.
const ENTRY_BYTES: usize = 96;

/// A client's identifier in its namespace.
type Client = (NamespaceId, Box<str>);

/// A will, and the stamp of its connection.
#[derive(Debug)]
struct Kept {
    stamp: u64,
    will: Box<[u8]>,
}

/// Wills by client, of one node, in bounded memory.
#[derive(Debug, Default)]
pub(super) struct KeptWills {
    by_client: BTreeMap<Client, Kept>,
    bytes: usize,
}

impl KeptWills {
    fn weight(client: &Client, kept: &Kept) -> usize {
        ENTRY_BYTES + client.1.len() + kept.will.len()
    }

    /// `false`: there is no room.
    fn insert(&mut self, client: Client, kept: Kept) -> bool {
        self.remove_if(&client, |_| true);
        let weight = Self::weight(&client, &kept);
        let has_room = self.bytes + weight <= KEPT_WILLS_BYTES;
        if has_room {
            self.bytes += weight;
            self.by_client.insert(client, kept);
        }
        has_room
    }

    fn remove_if(&mut self, client: &Client, is_it: impl FnOnce(&Kept) -> bool) -> bool {
        let is_found = self.by_client.get(client).is_some_and(is_it);
        if is_found && let Some((client, kept)) = self.by_client.remove_entry(client) {
            self.bytes -= Self::weight(&client, &kept);
        }
        is_found
    }
}

/// The wills that this node gave away, and what became of those of dead nodes.
#[derive(Debug, Default)]
pub(super) struct Wills {
    keeper: Option<PeerSlot>,
    own: KeptWills,
    /// Wills of nodes that are out, which wait for their delay.
    delayed: BTreeMap<Client, (Millis, Kept)>,
    /// By incarnation, the connections whose wills were published, and their stamps: the node may come back.
    published: BTreeMap<u64, BTreeMap<Client, u64>>,
    counts: WillCounts,
}

/// Counts of wills that nodes keep for each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WillCounts {
    /// Wills of this node's clients that its keeper has copies of, and their bytes.
    pub entrusted: usize,
    /// See `entrusted`.
    pub entrusted_bytes: usize,
    /// Wills that this node has of its peers' clients.
    pub kept: usize,
    /// Since the start, wills that no other node has, as there was no room.
    pub refused: u64,
    /// Since the start, wills of clients whose node died that this node published.
    pub published: u64,
}

impl Wills {
    /// A peer is out: if it was the keeper, there is none.
    pub(super) fn lose_keeper(&mut self, slot: PeerSlot) {
        self.keeper = self.keeper.filter(|keeper| *keeper != slot);
    }
}

impl Gateway {
    /// The peer that keeps the wills of this node's clients from now on; `None`: none does. It is sent all of them.
    pub fn set_will_keeper(&mut self, keeper: Option<PeerSlot>, outside: &mut impl Outside) {
        let keeper = keeper.filter(|slot| self.peers.get(*slot).is_some());
        let before = std::mem::replace(&mut self.wills.keeper, keeper);
        if keeper == before {
            return;
        }
        let own = std::mem::take(&mut self.wills.own);
        for ((namespace, client_id), kept) in &own.by_client {
            self.send_will(*namespace, client_id, (kept.stamp, Some(&kept.will)), outside);
        }
        self.wills.own = own;
        // Only then the former one forgets them: if this node dies meanwhile, a will may be published twice, but not never.
        if let Some(before) = before {
            self.push(before, &PeerMessage::WillsEnd, outside);
        }
    }

    fn send_will(
        &mut self,
        namespace: NamespaceId,
        client_id: &str,
        (stamp, will): (u64, Option<&[u8]>),
        outside: &mut impl Outside,
    ) {
        let Some(keeper) = self.wills.keeper else { return };
        self.define_namespace(keeper, namespace, outside);
        self.push(keeper, &PeerMessage::ClientWill { namespace: namespace.0, client_id, stamp, will }, outside);
    }

    /// A shard's connection has a will, or its connection has ended.
    pub(super) fn on_client_will(
        &mut self,
        (namespace, client_id): (NamespaceId, Box<str>),
        stamp: u64,
        will: Option<Box<[u8]>>,
        outside: &mut impl Outside,
    ) {
        let client = (namespace, client_id.clone());
        let Some(will) = will else {
            if self.wills.own.remove_if(&client, |kept| kept.stamp == stamp) {
                self.send_will(namespace, &client_id, (stamp, None), outside);
            }
            return;
        };
        let copy = will.clone();
        if self.wills.own.insert(client, Kept { stamp, will: copy }) {
            self.send_will(namespace, &client_id, (stamp, Some(&will)), outside);
        } else {
            self.wills.counts.refused += 1;
        }
    }

    /// A peer gives this node a will, or takes it back.
    pub(super) fn on_peer_will(&mut self, from: PeerSlot, client: Client, stamp: u64, will: Option<&[u8]>) {
        let Some(peer) = self.peers.get_mut(from) else { return };
        let published = self.wills.published.get_mut(&peer.incarnation);
        match will {
            // It came before the peer knew that its will was published.
            Some(_) if published.as_ref().is_some_and(|published| published.get(&client) == Some(&stamp)) => {}
            Some(will) if read_kept_will(will).is_none() => self.errors += 1,
            Some(will) => {
                let kept = Kept { stamp, will: will.into() };
                self.wills.counts.refused += u64::from(!peer.wills.insert(client, kept));
            }
            None => {
                peer.wills.remove_if(&client, |kept| kept.stamp == stamp);
                if let Some(published) = published
                    && published.get(&client) == Some(&stamp)
                {
                    published.remove(&client);
                }
            }
        }
    }

    /// Another node keeps the wills of a peer now.
    pub(super) fn on_wills_end(&mut self, from: PeerSlot) {
        if let Some(peer) = self.peers.get_mut(from) {
            peer.wills = KeptWills::default();
        }
    }

    /// A peer has published the will of a connection of this node, which it took for dead.
    pub(super) fn on_will_published(&mut self, namespace: NamespaceId, client_id: &str, stamp: u64) {
        let shard = home_shard(self.routing.name(namespace), client_id, self.shards);
        self.define_namespace_at(shard, namespace);
        let client_id = client_id.into();
        self.links.push(shard, LinkMessage::WillPublished { namespace, client_id, stamp });
    }

    /// A client has connected: a will that waits for its delay is not published [MQTT-3.1.3-9].
    pub(super) fn drop_delayed_will(&mut self, namespace: NamespaceId, client_id: &str, stamp: u64) {
        let has_wills = |wills: &KeptWills| !wills.by_client.is_empty();
        if self.wills.delayed.is_empty() && !self.peers.iter().any(|(_, peer)| has_wills(&peer.wills)) {
            return;
        }
        let client = (namespace, Box::from(client_id));
        if self.wills.delayed.get(&client).is_some_and(|(_, kept)| kept.stamp < stamp) {
            self.wills.delayed.remove(&client);
        }
        let waits =
            |kept: &Kept| kept.stamp < stamp && kept_will_delay_s(&kept.will).is_some_and(|delay_s| delay_s > 0);
        for peer in self.peers.iter_mut() {
            peer.wills.remove_if(&client, waits);
        }
    }

    /// A peer is out, or was started again, without having left: its clients' wills that this node keeps are published, after
    /// their delay. To be called before [`Gateway::remove_peer`].
    pub fn publish_wills(&mut self, slot: PeerSlot, now: Millis) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let (incarnation, wills) = (peer.incarnation, std::mem::take(&mut peer.wills));
        for (client, kept) in wills.by_client {
            let published = self.wills.published.entry(incarnation).or_default();
            published.insert(client.clone(), kept.stamp);
            match kept_will_delay_s(&kept.will) {
                Some(delay_s @ 1..) => {
                    let due = now.saturating_add(u64::from(delay_s) * 1000);
                    self.wills.delayed.insert(client, (due, kept));
                }
                _ => self.publish_will(client, kept.will),
            }
        }
    }

    fn publish_will(&mut self, (namespace, client_id): Client, will: Box<[u8]>) {
        self.wills.counts.published += 1;
        let shard = home_shard(self.routing.name(namespace), &client_id, self.shards);
        self.define_namespace_at(shard, namespace);
        self.links.push(shard, LinkMessage::PublishWill { namespace, client_id, will });
    }

    fn define_namespace_at(&mut self, shard: ShardId, namespace: NamespaceId) {
        let name = Arc::clone(self.routing.name(namespace));
        self.links.define_namespace(shard, namespace, &name);
    }

    /// Publishes wills whose delay is over.
    pub(super) fn publish_delayed_wills(&mut self, now: Millis) {
        if self.wills.delayed.values().any(|(due, _)| *due <= now) {
            let (due, later) =
                std::mem::take(&mut self.wills.delayed).into_iter().partition(|(_, (due, _))| *due <= now);
            self.wills.delayed = later;
            let due: BTreeMap<Client, (Millis, Kept)> = due;
            due.into_iter().for_each(|(client, (_, kept))| self.publish_will(client, kept.will));
        }
    }

    /// A peer is in: connections that it still has, and whose wills this node has published, are to end there.
    pub(super) fn send_published_wills(&mut self, slot: PeerSlot, incarnation: u64, outside: &mut impl Outside) {
        let Some(published) = self.wills.published.get(&incarnation) else { return };
        let clients: Vec<(Client, u64)> = published.iter().map(|(client, stamp)| (client.clone(), *stamp)).collect();
        for (client, stamp) in clients {
            // It is back before the delay is over: its own connection decides.
            if self.wills.delayed.remove(&client).is_some() {
                if let Some(published) = self.wills.published.get_mut(&incarnation) {
                    published.remove(&client);
                }
                continue;
            }
            let (namespace, client_id) = (client.0, &*client.1);
            self.define_namespace(slot, namespace, outside);
            self.push(slot, &PeerMessage::WillPublished { namespace: namespace.0, client_id, stamp }, outside);
        }
    }

    /// An incarnation does not come back: it has left, or was started again.
    pub fn forget_published_wills(&mut self, incarnation: u64) {
        self.wills.published.remove(&incarnation);
    }

    /// For the metrics.
    pub fn will_counts(&self) -> WillCounts {
        WillCounts {
            entrusted: self.wills.own.by_client.len(),
            entrusted_bytes: self.wills.own.bytes,
            kept: self.peers.iter().map(|(_, peer)| peer.wills.by_client.len()).sum(),
            ..self.wills.counts
        }
    }
}
