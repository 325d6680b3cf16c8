//! Retained messages after a SUBSCRIBE. The first page of them is queued at once. Where there are more, a ticket waits in the
//! session's queue in their place, and the next page is read when the client has taken what is before it: so what a client
//! asks for is neither searched for nor copied before it can be sent, and what is published meanwhile stays behind it.

use crate::Core;
use crate::clients::retained_reads::RetainedRead;
use crate::delivery::queue::{Queued, ReadTicket};
use crate::hash::IdSet;
use crate::ids::{Millis, NamespaceId, NodeId, RecordId, SessionId, SessionRef, ShardId};
use crate::limits::RETAINED_PAGE_MESSAGES;
use crate::links::link::{LinkMessage, RetainedStart};
use crate::observe::Site;
use crate::routing::subscribers::Subscriber;
use crate::values::delivery::Delivery;
use crate::values::message::Message;
use crate::values::retained::{ReadPosition, RetainedPage};

/// How a read got on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadProgress {
    /// It has found messages, or it is done.
    Found,
    /// It waits for another shard.
    Waits,
    /// It has used up its work.
    OutOfWork,
}

impl Core {
    /// Queues what is retained here under each of a session's subscriptions: a page of it, and tickets for the rest.
    pub(crate) fn queue_retained(&mut self, id: SessionId, reads: &[NodeId], now: Millis) {
        let Some(namespace) = self.clients.session(id).map(|session| session.namespace) else { return };
        let here = self.config.shard;
        let newest = self.routing.retained(namespace).sequence();
        let (mut work, mut seen) = (self.config.work.at_once, IdSet::default());
        // Each distinct filter of a packet is read once.
        for &node in reads.iter().filter(|&&node| seen.insert(node)) {
            let mut position = Some(ReadPosition::default());
            if work > 0 && self.room_for_retained(id) > 0 {
                let Some((filter, subscriber)) = self.routing.subscriptions_mut(namespace).get(node, id) else {
                    self.observe.count_error(Site::SubscriptionOfSession);
                    continue;
                };
                let from = ReadPosition::default();
                let page = self.read_here(namespace, (&filter, &from), newest, now, &mut work);
                self.queue_page(id, subscriber, &page.messages, false);
                position = page.next;
            }
            if let Some(position) = position {
                self.add_ticket(id, node, here, RetainedRead::new(position, newest));
            }
        }
        self.work += self.config.work.at_once - work;
    }

    /// How many retained messages may be put at the end of a session's queue.
    pub(crate) fn room_for_retained(&self, id: SessionId) -> usize {
        let waiting = self.clients.session(id).map_or(RETAINED_PAGE_MESSAGES, |session| session.queue.ordered());
        RETAINED_PAGE_MESSAGES.saturating_sub(waiting)
    }

    fn add_ticket(&mut self, id: SessionId, node: NodeId, shard: ShardId, read: RetainedRead) {
        let Some(session) = self.clients.session_mut(id) else { return };
        let reads = &mut session.cold.get_or_insert_default().reads;
        session.queue.push_read(reads.insert(node, shard, read));
        reads.tidy(&mut session.queue);
        self.record_read(id, node);
    }

    /// Queues messages that a read found: at the end of the queue, or (`is_first`) where its ticket is.
    fn queue_page(&mut self, id: SessionId, subscriber: Subscriber, messages: &[Message], is_first: bool) {
        let Some(session) = self.clients.session(id) else { return };
        // With No Local, a client's own messages are not wanted [MQTT-3.8.3-3].
        let own = subscriber.options.no_local.then(|| session.client_id.clone());
        let is_own = |message: &Message| {
            let publisher = message.publisher.as_ref();
            own.as_ref().is_some_and(|own| publisher.is_some_and(|publisher| publisher.client_id == *own))
        };
        for message in messages.iter().filter(|message| !is_own(message)) {
            let mut queued = queued(subscriber, message);
            self.record_queued(id, &mut queued);
            if let Some(session) = self.clients.session_mut(id) {
                if is_first { session.queue.push_found(queued) } else { session.queue.push(queued) }
            }
        }
    }

    /// Goes on with the read that is first in a session's queue.
    pub(crate) fn continue_read(
        &mut self,
        id: SessionId,
        ticket: ReadTicket,
        now: Millis,
        work: &mut usize,
    ) -> ReadProgress {
        let ReadTicket { node, shard, .. } = ticket;
        let Some(session) = self.clients.session_mut(id) else { return ReadProgress::Waits };
        let namespace = session.namespace;
        let read = session.cold.as_mut().and_then(|cold| cold.reads.get_mut(ticket));
        let subscription = self.routing.subscriptions_mut(namespace).get(node, id);
        let Some((read, (filter, subscriber))) = read.zip(subscription) else {
            self.end_read(id, ticket);
            return ReadProgress::Found;
        };
        if *work == 0 {
            return ReadProgress::OutOfWork;
        }
        if shard != self.config.shard {
            if !std::mem::replace(&mut read.awaits_page, true) {
                let (from, newest) = (read.position.clone(), read.newest);
                let session = self.clients.session_ref(id);
                let filter = filter.into();
                self.define_namespace(shard, namespace);
                self.links.push(shard, LinkMessage::RetainedRead { session, node, namespace, filter, from, newest });
            }
            return ReadProgress::Waits;
        }
        let (from, newest) = (read.position.clone(), read.newest);
        let page = self.read_here(namespace, (&filter, &from), newest, now, work);
        self.take_page(id, ticket, subscriber, page);
        ReadProgress::Found
    }

    /// A read has found a page.
    fn take_page(&mut self, id: SessionId, ticket: ReadTicket, subscriber: Subscriber, page: RetainedPage) {
        self.queue_page(id, subscriber, &page.messages, true);
        let Some(next) = page.next else { return self.end_read(id, ticket) };
        let cold = self.clients.session_mut(id).and_then(|session| session.cold.as_mut());
        if let Some(read) = cold.and_then(|cold| cold.reads.get_mut(ticket)) {
            (read.position, read.awaits_page) = (next, false);
        }
    }

    /// The first ticket of a session's queue is done.
    fn end_read(&mut self, id: SessionId, ticket: ReadTicket) {
        let Some(session) = self.clients.session_mut(id) else { return };
        session.queue.end_read();
        if let Some(cold) = &mut session.cold {
            cold.reads.end(ticket);
        }
        self.record_read(id, ticket.node);
    }

    /// The shard that owns the one topic that a filter matches; `None`: it has a wildcard.
    fn only_shard(&self, namespace: NamespaceId, filter: &str) -> Option<ShardId> {
        let is_topic = filter.bytes().all(|b| b != b'+' && b != b'#');
        is_topic.then(|| self.routing.topic_owner(namespace, filter))
    }

    /// A page of this shard's retained messages.
    fn read_here(
        &self,
        namespace: NamespaceId,
        filter: (&str, &ReadPosition),
        newest: u64,
        now: Millis,
        work: &mut usize,
    ) -> RetainedPage {
        let mut messages = Vec::new();
        let next = self.routing.read_retained(namespace, filter, newest, now, work, |message| {
            messages.push(message.clone());
            messages.len() < RETAINED_PAGE_MESSAGES
        });
        RetainedPage { messages, next }
    }

    /// Reads this shard's retained messages for a barrier: the first page of the filters' messages, at most `room` and
    /// [`RETAINED_PAGE_MESSAGES`] more, and the position at which each filter continues.
    pub(crate) fn begin_reads(
        &mut self,
        namespace: NamespaceId,
        filters: &[Box<str>],
        room: usize,
        now: Millis,
    ) -> RetainedStart {
        let newest = self.routing.retained(namespace).sequence();
        let (mut work, mut room, mut pages) = (self.config.work.at_once, room, Vec::new());
        for (index, filter) in filters.iter().enumerate() {
            if self.only_shard(namespace, filter).is_some_and(|only| only != self.config.shard) {
                continue;
            }
            let from = ReadPosition::default();
            let page = if work > 0 && room > 0 {
                self.read_here(namespace, (filter, &from), newest, now, &mut work)
            } else {
                RetainedPage { messages: Vec::new(), next: Some(from) }
            };
            room = room.saturating_sub(page.messages.len());
            if page.next.is_some() || !page.messages.is_empty() {
                pages.push((index as u32, page));
            }
        }
        self.work += self.config.work.at_once - work;
        RetainedStart { newest, pages }
    }

    /// Another shard has answered with what it retains under a SUBSCRIBE's filters.
    pub(crate) fn queue_start(&mut self, id: SessionId, from: ShardId, reads: &[NodeId], start: RetainedStart) {
        let Some(namespace) = self.clients.session(id).map(|session| session.namespace) else { return };
        for (index, page) in start.pages {
            let Some(&node) = reads.get(index as usize) else { continue };
            // The client may have unsubscribed meanwhile.
            let Some((_, subscriber)) = self.routing.subscriptions_mut(namespace).get(node, id) else { continue };
            self.queue_page(id, subscriber, &page.messages, false);
            if let Some(position) = page.next {
                self.add_ticket(id, node, from, RetainedRead::new(position, start.newest));
            }
        }
    }

    /// Another shard's session asks for more.
    pub(crate) fn on_retained_read(
        &mut self,
        (from, session, node): (ShardId, SessionRef, NodeId),
        namespace: NamespaceId,
        (filter, position, newest): (&str, &ReadPosition, u64),
        now: Millis,
    ) {
        let mut work = self.config.work.at_once;
        let page = self.read_here(namespace, (filter, position), newest, now, &mut work);
        self.work += self.config.work.at_once - work;
        self.links.push(from, LinkMessage::RetainedPage { session, node, from: position.clone(), page });
    }

    /// Another shard has answered to a read that went on at `from`.
    pub(crate) fn on_retained_page(
        &mut self,
        (shard, session, node): (ShardId, SessionRef, NodeId),
        from: &ReadPosition,
        page: RetainedPage,
        now: Millis,
    ) {
        let id = session.id;
        let Some(session) = self.clients.session_by_ref(session) else { return };
        let asked = session.cold.as_ref().and_then(|cold| cold.reads.asked(node, shard));
        // Otherwise the read was ended, or begun anew.
        if let Some(ticket) = asked.filter(|(_, position)| *position == from).map(|(ticket, _)| ticket)
            && let Some((_, subscriber)) = self.routing.subscriptions_mut(session.namespace).get(node, id)
        {
            self.take_page(id, ticket, subscriber, page);
        }
        self.drain_queue(id, now);
    }

    /// Queues a read that was not done when the broker ended: of everything that is retained by now.
    pub(crate) fn queue_restored_reads(&mut self, id: SessionId, node: NodeId) {
        for shard in (0..self.config.shards).map(ShardId) {
            self.add_ticket(id, node, shard, RetainedRead::new(ReadPosition::default(), u64::MAX));
        }
    }

    /// Records whether a durable session's subscription has a read that is not done: after a crash it is done again.
    fn record_read(&mut self, id: SessionId, node: NodeId) {
        let Some(session) = self.clients.session(id) else { return };
        let Some(durable) = session.durable.as_ref() else { return };
        let is_due = session.cold.as_ref().is_some_and(|cold| cold.reads.has(node));
        let subscription = self.routing.subscriptions_mut(session.namespace).get(node, id);
        let Some((filter, subscriber)) = subscription else { return };
        let record = durable.subscriptions.get(subscriber.position as usize).copied();
        if record.is_none() {
            return self.observe.count_error(Site::SubscriptionOfSession);
        }
        let (owner, Subscriber { options, identifier, .. }) = (durable.id, subscriber);
        self.journal.record_subscription(owner, record, (&filter, is_due), options, identifier);
    }
}

/// A retained message for a subscriber. The queue's limits do not bound them: reads do.
fn queued(subscriber: Subscriber, message: &Message) -> Queued {
    let delivery = Delivery {
        qos: subscriber.options.qos.min(message.qos),
        retain: true,
        identifiers: (subscriber.identifier != 0).then(|| Box::from([subscriber.identifier])),
        group: None,
        record: RecordId::NONE,
        may_be_duplicate: false,
        is_copied: false,
    };
    // The store of retained messages has its bytes.
    Queued { message: message.clone(), delivery, retained: true, sharers: usize::MAX }
}
