//! Client identifiers over nodes: which connections peers have, and which this node has.

use super::{Gateway, Outside, PeerMessage};
use crate::ids::{ConnectionSlot, NamespaceId, PeerSlot, ShardId};
use crate::links::link::{ClientsPage, LinkMessage};
use crate::placement::home_shard;

impl Gateway {
    /// A peer that is in may have accepted clients before: it is told of the clients that are connected here. Where both have a
    /// connection of one client identifier, one of the two nodes ends its own.
    pub(super) fn announce_clients(&mut self, slot: PeerSlot) {
        let Some(peer) = self.peers.get(slot) else { return };
        let key = peer.key;
        for shard in (0..self.shards).map(ShardId) {
            self.links.push(shard, LinkMessage::ListClients { peer: slot, key, from: ConnectionSlot(0) });
        }
    }

    /// Some of the clients of a shard, for a peer; the next ones are asked for.
    pub(super) fn on_clients(&mut self, from: ShardId, page: ClientsPage, outside: &mut impl Outside) {
        let ClientsPage { peer, key, clients, next } = page;
        if self.peers.get(peer).is_none_or(|known| known.key != key) {
            return;
        }
        for (namespace, client_id, stamp, clean_start) in clients {
            let Some(namespace) = self.links.namespace_of(from, namespace) else {
                self.errors += 1;
                continue;
            };
            self.define_namespace(peer, namespace, outside);
            let (namespace, client_id) = (namespace.0, &*client_id);
            let message = PeerMessage::ClientConnected { namespace, client_id, stamp, clean_start };
            self.push(peer, &message, outside);
        }
        if let Some(next) = next {
            self.links.push(from, LinkMessage::ListClients { peer, key, from: next });
        }
    }

    /// A client has connected to a peer: its home shard here ends an older connection.
    pub(super) fn on_client_elsewhere(
        &mut self,
        (peer, namespace): (PeerSlot, NamespaceId),
        client_id: &str,
        (stamp, wins_ties, clean_start): (u64, bool, bool),
    ) {
        let home = home_shard(self.routing.name(namespace), client_id, self.shards);
        self.links.define_namespace(home, namespace, self.routing.name(namespace));
        let client_id = client_id.into();
        let message = LinkMessage::ClientElsewhere { peer, namespace, client_id, stamp, wins_ties, clean_start };
        self.links.push(home, message);
    }

    /// A peer knows of a connection with this stamp: what connects here is newer.
    pub(super) fn learn_stamp(&mut self, stamp: u64) {
        if stamp > self.stamp {
            self.stamp = stamp;
            (0..self.shards).for_each(|shard| self.links.push(ShardId(shard), LinkMessage::Stamp(stamp)));
        }
    }
}
