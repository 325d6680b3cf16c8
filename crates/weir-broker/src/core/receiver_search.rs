//! Publishes whose receivers are not found at once: their topics match the beginnings of many filters. Nothing more is read from
//! the publisher until they are found, so its messages stay in order; others go on.

use std::collections::BTreeMap;

use crate::Core;
use crate::ids::{ConnId, Millis, NamespaceId};
use crate::observe::Site;
use crate::routing::matches::Matches;
use std::sync::Arc;
use weir_mqtt::{DecodeContext, Decoded, Packet, ProtocolVersion, Publish, Side, decode};

/// A PUBLISH whose receivers are searched for.
#[derive(Debug)]
struct SearchedPublish {
    connection: ConnId,
    version: ProtocolVersion,
    namespace: NamespaceId,
    /// Its alias is resolved.
    topic: Box<str>,
    packet: Box<[u8]>,
}

/// Publishes that wait for their receivers, in the order in which they came. Those of one connection wait one at a time.
#[derive(Debug, Default)]
pub(crate) struct ReceiverSearches {
    waiting: BTreeMap<u64, SearchedPublish>,
    next: u64,
    /// The first of them is searched for.
    begun: bool,
    bytes: usize,
}

impl ReceiverSearches {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of the packets that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn add(&mut self, publish: SearchedPublish) -> u64 {
        self.next += 1;
        self.bytes += publish.packet.len() + publish.topic.len();
        self.waiting.insert(self.next, publish);
        self.next
    }

    fn remove(&mut self, number: u64) -> Option<SearchedPublish> {
        let publish = self.waiting.remove(&number)?;
        self.bytes -= publish.packet.len() + publish.topic.len();
        Some(publish)
    }
}

impl Core {
    /// The receivers of a PUBLISH that is routed here, where they are found at once; `None`: they are to be searched for.
    pub(crate) fn receivers_at_once(&mut self, namespace: NamespaceId, topic: &str) -> Option<Arc<Matches>> {
        let at_once = self.config.work.match_at_once;
        let mut left = at_once;
        let matches = self.routing.matches_within(namespace, topic, &mut left);
        self.work += at_once - left;
        matches
    }

    /// Puts a PUBLISH off that was checked.
    pub(crate) fn defer_publish(&mut self, id: ConnId, namespace: NamespaceId, topic: &str, raw: &[u8]) {
        let Some(connection) = self.clients.connection_mut(id.slot) else {
            return self.observe.count_error(Site::ConnectionOfPacket);
        };
        connection.pauses += 1;
        let (version, topic, packet) = (connection.version, topic.into(), raw.into());
        let publish = SearchedPublish { connection: id, version, namespace, topic, packet };
        let number = self.deferred.searches.add(publish);
        connection.cold_mut().searched_publish = Some(number);
        self.stops_reading = true;
    }

    /// A connection has ended: its PUBLISH was not accepted.
    pub(crate) fn drop_searched_publish(&mut self, id: ConnId) {
        let Some(cold) = self.clients.open(id).and_then(|connection| connection.cold.as_mut()) else { return };
        let Some(number) = cold.searched_publish.take() else { return };
        let searches = &mut self.deferred.searches;
        if searches.begun && searches.waiting.first_key_value().is_some_and(|(first, _)| *first == number) {
            searches.begun = false;
            self.routing.end_search();
        }
        searches.remove(number);
    }

    /// Goes on with the first search; when it ends, its message is routed, and the next one begins.
    pub(crate) fn search_receivers(&mut self, mut work: usize, now: Millis) {
        while work > 0
            && let Some((&number, first)) = self.deferred.searches.waiting.first_key_value()
        {
            if !std::mem::replace(&mut self.deferred.searches.begun, true) {
                self.routing.begin_search(first.namespace);
            }
            let Some(matches) = self.routing.continue_search(&first.topic, &mut work) else { return };
            self.deferred.searches.begun = false;
            work = work.saturating_sub(matches.subscribers.len() + matches.groups.len());
            if let Some(publish) = self.deferred.searches.remove(number) {
                self.route_searched(&publish, matches, now);
            }
        }
    }

    fn route_searched(&mut self, searched: &SearchedPublish, matches: Arc<Matches>, now: Millis) {
        let id = searched.connection;
        let Some(connection) = self.clients.open(id) else {
            return self.observe.count_error(Site::ConnectionOfPacket);
        };
        if let Some(cold) = &mut connection.cold {
            cold.searched_publish = None;
        }
        let context = DecodeContext { version: searched.version, max_packet_size: u32::MAX, from: Side::Client };
        // It decoded when it came.
        match &decode(&searched.packet, &context) {
            Ok(Decoded::Packet { packet: Packet::Publish(publish), .. }) => {
                self.scheduler.refill_priority_budget();
                self.publish_searched(id, &searched.topic, (publish, &searched.packet), matches, now);
            }
            _ => self.observe.count_error(Site::ConnectionOfPacket),
        }
        self.clients.resume(id);
    }

    /// What may have changed since the PUBLISH was checked is checked again.
    fn publish_searched(
        &mut self,
        id: ConnId,
        topic: &str,
        (publish, raw): (&Publish<'_>, &[u8]),
        receivers: Arc<Matches>,
        now: Millis,
    ) {
        if self.journal.is_full() && self.hold_publish(id, publish, raw) {
            return;
        }
        match self.authorize_publish(id.slot, topic, publish) {
            Ok(()) => self.accept_publish(id, topic, (publish, raw), Some(receivers), now),
            Err(refusal) => self.refuse_publish(id, publish, refusal),
        }
    }
}
