//! Messages that are in transit over a topic's owner: a later one of the topic must not overtake them on the direct route
//! [MQTT-4.6.0-6]. Other topics do not wait for them.

use crate::Core;
use crate::clients::connection::Transit;
use crate::clients::session::Session;
use crate::ids::{ConnectionSlot, Origin, SessionId, ShardId};
use crate::placement::stable_hash;

/// Topics in transit that a connection remembers one by one. With more, all its topics count as in transit.
const TOPICS_MAX: usize = 32;

impl Core {
    pub(crate) fn is_in_transit(&mut self, origin: Origin, owner: ShardId, topic: &str) -> bool {
        let settled = self.links.settled(owner);
        let Some(cold) = self
            .origin_connection(origin)
            .and_then(|slot| self.clients.connection_mut(slot))
            .and_then(|connection| connection.cold.as_mut())
        else {
            return false;
        };
        if cold.via_owner.is_empty() {
            return false;
        }
        cold.via_owner.retain(|transit| transit.owner != owner || transit.position > settled);
        let topic = stable_hash(&[topic]);
        cold.via_owner.iter().any(|transit| transit.owner == owner && transit.topic.is_none_or(|hash| hash == topic))
    }

    pub(crate) fn remember_transit(&mut self, origin: Origin, owner: ShardId, topic: &str) {
        let position = self.links.position(owner);
        let Some(slot) = self.origin_connection(origin) else { return };
        let Some(connection) = self.clients.connection_mut(slot) else { return };
        let via_owner = &mut connection.cold_mut().via_owner;
        let mut topic = Some(stable_hash(&[topic]));
        via_owner.retain(|transit| transit.owner != owner || transit.topic != topic);
        if via_owner.len() >= TOPICS_MAX || via_owner.iter().any(|transit| transit.topic.is_none()) {
            // The newest position of an owner stands for all before it.
            via_owner.retain(|transit| transit.owner != owner);
            topic = None;
        }
        via_owner.push(Transit { owner, topic, position });
    }

    /// Remembers a disconnected client's messages in transit, so that its later ones do not overtake them [MQTT-4.6.0-6].
    pub(crate) fn save_routes(&mut self, slot: ConnectionSlot, session: SessionId) {
        let cold = self.clients.connection_mut(slot).and_then(|connection| connection.cold.as_mut());
        let routes = cold.map(|cold| std::mem::take(&mut cold.via_owner)).unwrap_or_default();
        if !routes.is_empty() {
            let client = self.client_hash(session);
            self.drop_settled_routes();
            self.routes_of_disconnected.extend(routes.into_iter().map(|transit| (client, transit)));
        }
    }

    /// Takes the routes of a returning client whose earlier messages are in transit.
    pub(crate) fn take_saved_routes(&mut self, session: SessionId) -> Vec<Transit> {
        if self.routes_of_disconnected.is_empty() {
            return Vec::new();
        }
        self.drop_settled_routes();
        let client = self.client_hash(session);
        self.routes_of_disconnected.extract_if(.., |(left, _)| *left == client).map(|(_, transit)| transit).collect()
    }

    /// The hash that identifies a session's client while its messages are in transit.
    pub(crate) fn client_hash(&self, id: SessionId) -> u64 {
        let hash = |session: &Session| stable_hash(&[self.routing.name(session.namespace), &session.client_id]);
        self.clients.session(id).map_or(0, hash)
    }

    pub(crate) fn drop_settled_routes(&mut self) {
        let links = &self.links;
        self.routes_of_disconnected.retain(|(_, transit)| transit.position > links.settled(transit.owner));
    }
}

#[cfg(test)]
mod tests {
    use crate::Durability;
    use crate::core::slots_tests::Bench;

    #[test]
    fn message_in_transit_holds_up_its_topic_and_no_other_one() {
        let mut bench = Bench::of_all(Durability::Memory);
        let subscriber = bench.connect("s", true, false).expect("it is admitted");
        for topic in [b'r', b't'] {
            bench.subscribe(subscriber, topic);
        }
        let publisher = bench.connect("p", true, false).expect("it is admitted");
        bench.run();
        bench.flush(subscriber);
        // The log of retained messages answers nothing here.
        bench.core.receive(publisher, &[0x31, 4, 0, 1, b'r', b'1'], bench.now);
        for topic in [b'r', b't'] {
            bench.core.receive(publisher, &[0x30, 4, 0, 1, topic, b'2'], bench.now);
        }
        bench.run();
        assert_eq!(bench.flush(subscriber), [0x30, 4, 0, 1, b't', b'2']);
    }

    #[test]
    fn more_topics_in_transit_than_are_remembered_hold_up_all() {
        let mut bench = Bench::of_all(Durability::Memory);
        let subscriber = bench.connect("s", true, false).expect("it is admitted");
        bench.subscribe(subscriber, b't');
        let publisher = bench.connect("p", true, false).expect("it is admitted");
        bench.run();
        bench.flush(subscriber);
        for topic in 0x80..0x80 + super::TOPICS_MAX as u8 + 1 {
            bench.core.receive(publisher, &[0x31, 5, 0, 2, 0xc3, topic, b'1'], bench.now);
        }
        bench.core.receive(publisher, &[0x30, 4, 0, 1, b't', b'2'], bench.now);
        bench.run();
        assert!(bench.flush(subscriber).is_empty());
    }
}
