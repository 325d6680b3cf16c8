//! Client identifiers over nodes: a client that connects to one node is disconnected from the others [MQTT-3.1.4-3].
//!
//! Each connection has a stamp of a logical clock (Lamport's): a node that has heard of a connection gives its next one a
//! higher stamp. Of two connections that did not know of each other, the higher stamp decides, and then the higher incarnation of
//! the node, so that every node keeps the same one. Nodes that could not reach each other tell each other of their connections
//! when they can.

use crate::Core;
use crate::ids::{ConnectionSlot, Millis, NamespaceId, PeerSlot};
use crate::limits::CLIENTS_PAGE;
use crate::links::link::{ClientsPage, LinkMessage};
use crate::observe::events::{CoreEventDetail, CoreEventKind};
use crate::placement::OF_NODE_PREFIX;
use weir_mqtt::ReasonCode;

impl Core {
    pub(crate) fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    /// Tells the other nodes of a client that has connected.
    pub(crate) fn announce_client(&mut self, slot: ConnectionSlot, client_id: &str, clean_start: bool) {
        let Some(gateway) = self.gateway.filter(|_| !client_id.starts_with(OF_NODE_PREFIX)) else { return };
        let Some(connection) = self.clients.connection(slot) else { return };
        let (stamp, session) = (connection.stamp, connection.session);
        let Some(namespace) = self.clients.session(session).map(|session| session.namespace) else { return };
        if clean_start {
            self.remember_clean_start((namespace, client_id), None, stamp);
        }
        self.define_namespace(gateway, namespace);
        let client_id = client_id.into();
        self.links.push(gateway, LinkMessage::ClientConnected { namespace, client_id, stamp, clean_start });
    }

    /// Lists clients that are connected here from `from` on, for a peer.
    pub(crate) fn list_clients(&mut self, peer: PeerSlot, key: u64, from: ConnectionSlot) {
        let Some(gateway) = self.gateway else { return };
        let (mut clients, mut next) = (Vec::new(), None);
        for (slot, connection) in self.clients.connections_from(from) {
            if clients.len() == CLIENTS_PAGE {
                next = Some(slot);
                break;
            }
            let Some(session) = self.clients.session(connection.session) else { continue };
            let serves = session.connection == Some(slot) && !session.ending;
            if serves && !session.client_id.starts_with(OF_NODE_PREFIX) {
                let began = session.slot_class.is_none();
                clients.push((session.namespace, session.client_id.clone(), connection.stamp, began));
            }
        }
        for (namespace, ..) in &clients {
            self.define_namespace(gateway, *namespace);
        }
        self.links.push(gateway, LinkMessage::Clients(Box::new(ClientsPage { peer, key, clients, next })));
    }

    /// A client has connected to another node. `wins_ties`: that node's connection is kept where neither is newer.
    pub(crate) fn on_client_elsewhere(
        &mut self,
        (peer, namespace): (PeerSlot, NamespaceId),
        client_id: &str,
        (stamp, wins_ties, clean_start): (u64, bool, bool),
        now: Millis,
    ) {
        self.stamp = self.stamp.max(stamp);
        if clean_start {
            self.remember_clean_start((namespace, client_id), Some(peer), stamp);
        }
        let Some(id) = self.clients.find_session(namespace, client_id) else { return };
        let Some(session) = self.clients.session(id) else { return };
        // That of the session is the stamp of its connection.
        if session.stamp > stamp || (session.stamp == stamp && !wins_ties) {
            return;
        }
        if let Some(slot) = session.connection {
            self.session_event(CoreEventKind::SessionTakenOver, id, || CoreEventDetail::SessionTakenOver);
            self.disconnect_with(slot, ReasonCode::SessionTakenOver);
        }
        if clean_start && self.clients.session(id).is_some_and(|session| !session.ending) {
            self.session_event(CoreEventKind::SessionDiscarded, id, || CoreEventDetail::SessionDiscarded);
            self.discard_session(id, now);
        }
    }
}
