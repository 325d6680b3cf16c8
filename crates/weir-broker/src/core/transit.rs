//! Messages that are in transit over a topic's owner: a later one on the direct route must not overtake them [MQTT-4.6.0-5].

use crate::Core;
use crate::clients::session::Session;
use crate::ids::{ConnectionSlot, Origin, SessionId, ShardId};
use crate::placement::stable_hash;

impl Core {
    pub(crate) fn is_in_transit(&mut self, origin: Origin, owner: ShardId) -> bool {
        let settled = self.links.settled(owner);
        let Some(cold) = self
            .origin_connection(origin)
            .and_then(|slot| self.clients.connection_mut(slot))
            .and_then(|connection| connection.cold.as_mut())
        else {
            return false;
        };
        cold.via_owner.retain(|&(shard, position)| shard != owner || position > settled);
        cold.via_owner.iter().any(|&(shard, _)| shard == owner)
    }

    pub(crate) fn remember_transit(&mut self, origin: Origin, owner: ShardId) {
        let position = self.links.position(owner);
        let Some(slot) = self.origin_connection(origin) else { return };
        if let Some(connection) = self.clients.connection_mut(slot) {
            let via_owner = &mut connection.cold_mut().via_owner;
            via_owner.retain(|&(shard, _)| shard != owner);
            via_owner.push((owner, position));
        }
    }

    /// Remembers a disconnected client's messages in transit, so that its later ones do not overtake them [MQTT-4.6.0-5].
    pub(crate) fn save_routes(&mut self, slot: ConnectionSlot, session: SessionId) {
        let cold = self.clients.connection_mut(slot).and_then(|connection| connection.cold.as_mut());
        let routes = cold.map(|cold| std::mem::take(&mut cold.via_owner)).unwrap_or_default();
        if !routes.is_empty() {
            let client = self.client_hash(session);
            self.drop_settled_routes();
            self.routes_of_disconnected.extend(routes.into_iter().map(|(owner, position)| (client, owner, position)));
        }
    }

    /// Takes the routes of a returning client whose earlier messages are in transit.
    pub(crate) fn take_saved_routes(&mut self, session: SessionId) -> Vec<(ShardId, u64)> {
        if self.routes_of_disconnected.is_empty() {
            return Vec::new();
        }
        self.drop_settled_routes();
        let client = self.client_hash(session);
        self.routes_of_disconnected
            .extract_if(.., |(left, ..)| *left == client)
            .map(|(_, owner, position)| (owner, position))
            .collect()
    }

    /// The hash that identifies a session's client while its messages are in transit.
    pub(crate) fn client_hash(&self, id: SessionId) -> u64 {
        let hash = |session: &Session| stable_hash(&[self.routing.name(session.namespace), &session.client_id]);
        self.clients.session(id).map_or(0, hash)
    }

    pub(crate) fn drop_settled_routes(&mut self) {
        let links = &self.links;
        self.routes_of_disconnected.retain(|&(_, owner, position)| position > links.settled(owner));
    }
}
