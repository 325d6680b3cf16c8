//! Publishes and wills whose receivers are not found at once: their topics match the beginnings of many filters. Nothing more
//! is read from the publisher until they are found, so its messages stay in order; others go on.

use std::collections::BTreeMap;

use crate::ids::{ConnId, Millis, NamespaceId, Origin, SessionRef};
use crate::links::outbox::Handover;
use crate::observe::Site;
use crate::routing::matches::Matches;
use crate::{Core, MemoryKind};
use std::sync::Arc;
use weir_mqtt::{DecodeContext, Decoded, Packet, ProtocolVersion, Publish, ReasonCode, Side, decode};

/// A message whose receivers are searched for.
#[derive(Debug)]
struct Searched {
    namespace: NamespaceId,
    /// Its alias is resolved.
    topic: Box<str>,
    message: SearchedMessage,
}

#[derive(Debug)]
enum SearchedMessage {
    Publish {
        connection: ConnId,
        version: ProtocolVersion,
        packet: Box<[u8]>,
    },
    /// The will of a session that is not durable.
    Will {
        session: SessionRef,
        will: Handover,
    },
}

impl Searched {
    fn bytes(&self) -> usize {
        let message = match &self.message {
            SearchedMessage::Publish { packet, .. } => packet.len(),
            SearchedMessage::Will { will, .. } => will.message.size(),
        };
        self.topic.len() + message
    }
}

/// Messages that wait for their receivers, in the order in which they came. Those of one connection wait one at a time.
#[derive(Debug, Default)]
pub(crate) struct ReceiverSearches {
    waiting: BTreeMap<u64, Searched>,
    next: u64,
    /// The first of them is searched for.
    begun: bool,
    bytes: usize,
}

impl ReceiverSearches {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of the messages that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn add(&mut self, searched: Searched) -> u64 {
        self.next += 1;
        self.bytes += searched.bytes();
        self.waiting.insert(self.next, searched);
        self.next
    }

    fn remove(&mut self, number: u64) -> Option<Searched> {
        let searched = self.waiting.remove(&number)?;
        self.bytes -= searched.bytes();
        Some(searched)
    }
}

impl Core {
    /// The receivers of a message that is routed here, where they are found at once; `None`: they are to be searched for.
    pub(crate) fn receivers_at_once(&mut self, namespace: NamespaceId, topic: &str) -> Option<Arc<Matches>> {
        let at_once = self.config.work.match_at_once;
        let mut left = at_once;
        let matches = self.routing.matches_within(namespace, topic, &mut left);
        self.work += at_once - left;
        matches
    }

    /// Puts a PUBLISH off that was checked.
    pub(crate) fn defer_publish(&mut self, id: ConnId, namespace: NamespaceId, topic: &str, raw: &[u8]) {
        if !self.has_memory(MemoryKind::Held, topic.len() + raw.len()) {
            self.memory.count_refusal(MemoryKind::Held);
            return self.refuse(id.slot, ReasonCode::QuotaExceeded);
        }
        let Some(connection) = self.clients.connection_mut(id.slot) else {
            return self.observe.count_error(Site::ConnectionOfPacket);
        };
        connection.pauses += 1;
        let message = SearchedMessage::Publish { connection: id, version: connection.version, packet: raw.into() };
        let number = self.deferred.searches.add(Searched { namespace, topic: topic.into(), message });
        connection.cold_mut().searched_publish = Some(number);
        self.stops_reading = true;
    }

    /// Puts off the will of a session that is not durable.
    pub(crate) fn defer_will(&mut self, namespace: NamespaceId, session: SessionRef, will: Handover) {
        let topic = will.message.topic().into();
        let message = SearchedMessage::Will { session, will };
        self.deferred.searches.add(Searched { namespace, topic, message });
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
            match self.deferred.searches.remove(number) {
                Some(Searched { message: SearchedMessage::Will { session, will }, .. }) => {
                    // For No Local, as long as the session is the same.
                    let is_same = self.clients.session_by_ref(session).is_some();
                    let session = if is_same { session.id } else { Origin::BROKER.session };
                    self.publish_will(&will, session, Some(matches));
                }
                Some(Searched { message: SearchedMessage::Publish { connection, version, packet }, topic, .. }) => {
                    self.route_searched(connection, (version, &topic, &packet), matches, now);
                }
                None => return self.observe.count_error(Site::ConnectionOfPacket),
            }
        }
    }

    fn route_searched(
        &mut self,
        id: ConnId,
        (version, topic, packet): (ProtocolVersion, &str, &[u8]),
        matches: Arc<Matches>,
        now: Millis,
    ) {
        let Some(connection) = self.clients.open(id) else {
            return self.observe.count_error(Site::ConnectionOfPacket);
        };
        if let Some(cold) = &mut connection.cold {
            cold.searched_publish = None;
        }
        let context = DecodeContext { version, max_packet_size: u32::MAX, from: Side::Client };
        // It decoded when it came.
        match &decode(packet, &context) {
            Ok(Decoded::Packet { packet: Packet::Publish(publish), .. }) => {
                self.scheduler.refill_priority_budget();
                self.publish_searched(id, topic, (publish, packet), matches, now);
            }
            _ => self.observe.count_error(Site::ConnectionOfPacket),
        }
        self.clients.resume(id);
    }

    /// Checks again what may have changed since the PUBLISH was checked.
    fn publish_searched(
        &mut self,
        id: ConnId,
        topic: &str,
        (publish, raw): (&Publish<'_>, &[u8]),
        receivers: Arc<Matches>,
        now: Millis,
    ) {
        // One that is held is shown to the interceptors when it is released, and this one was shown to them.
        let is_intercepted = self.clients.connection(id.slot).is_some_and(|c| c.policy.interceptors.is_some());
        if self.journal.is_full() && !is_intercepted && self.hold_publish(id, publish, raw) {
            return;
        }
        match self.authorize_publish(id.slot, topic, publish) {
            Ok(()) => self.accept_publish(id, topic, (publish, raw), Some(receivers), now),
            Err(refusal) => self.refuse_publish(id, topic, publish, refusal),
        }
    }
}
