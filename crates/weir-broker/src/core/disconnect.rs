//! How connections and sessions end, and the wills that are sent then.

use std::sync::Arc;

use crate::Core;
use crate::clients::session::Session;
use crate::clients::timers::Timer;
use crate::core::deferred::Task;
use crate::core::subscribe::FILTER_WORK;
use crate::ids::{ConnId, ConnectionSlot, EndpointId, Millis, SessionId, SessionRef};
use crate::observe::Site;
use crate::observe::events::{CoreEventDetail, CoreEventKind, Ended};
use weir_mqtt::{Disconnect, Packet, ProtocolVersion, ReasonCode};

impl Core {
    /// The broker ends a connection for a reason: 5.0 gets DISCONNECT, the will is sent.
    pub(crate) fn refuse(&mut self, slot: ConnectionSlot, reason: ReasonCode) {
        if let Some(connection) = self.clients.connection(slot) {
            self.observe.endpoint(connection.endpoint).protocol_errors += 1;
        }
        self.disconnect_with(slot, reason);
    }

    /// DISCONNECT with a reason (5.0), then the close.
    pub(crate) fn disconnect_with(&mut self, slot: ConnectionSlot, reason: ReasonCode) {
        self.disconnect_with_reference(slot, reason as u8, None);
    }

    pub(crate) fn disconnect_with_reference(&mut self, slot: ConnectionSlot, code: u8, server_reference: Option<&str>) {
        let Some(connection) = self.clients.connection(slot) else { return };
        if connection.closing {
            return;
        }
        let is_v5 = connection.is_v5();
        self.append_acknowledgements(slot);
        if is_v5 {
            let disconnect = Packet::Disconnect(Disconnect { code, server_reference, ..Disconnect::default() });
            self.write_packet(slot, &disconnect, ProtocolVersion::V5);
        }
        self.close(slot, Ended::ByServer(code));
    }

    /// The final packet of a connection follows the acknowledgements that wait for the disk.
    fn append_acknowledgements(&mut self, slot: ConnectionSlot) {
        if let Some(connection) = self.clients.connection_mut(slot) {
            connection.outlet.out.append_acknowledgements(connection.version);
        }
    }

    /// Marks the connection as closing and detaches its session; the socket closes after its output is written.
    pub(crate) fn close(&mut self, slot: ConnectionSlot, ended: Ended) {
        let generation = self.clients.generation(slot);
        if let Some(connection) = self.clients.connection_mut(slot)
            && !connection.closing
        {
            connection.closing = true;
            connection.outlet.out.append_acknowledgements(connection.version);
            self.clients.push_closing(ConnId { slot, generation });
            self.detach(slot, ended, self.now);
        }
    }

    /// See [`Core::connection_closed`].
    pub(crate) fn on_connection_closed(&mut self, id: ConnId, now: Millis) {
        if self.clients.open(id).is_none() {
            return;
        }
        self.detach(id.slot, Ended::Lost, now);
        self.resume_waiters(id.slot);
        self.drop_held_publishes(id);
        self.drop_searched_publish(id);
        if let Some(gone) = self.clients.remove_connection(id.slot) {
            self.scheduler.release(&gone.outlet);
        }
    }

    /// Parts a connection from its session. The will, if there still is one, is sent at once or when its delay is over
    /// [MQTT-3.1.2-8]. The session ends, now or when its expiry is over.
    fn detach(&mut self, slot: ConnectionSlot, ended: Ended, now: Millis) {
        let Some(connection) = self.clients.connection_mut(slot) else { return };
        connection.closing = true;
        let id = connection.session;
        if self.clients.session(id).is_none_or(|session| session.connection != Some(slot)) {
            return;
        }
        self.disconnected_event(id, ended);
        if self.hold_will(slot, now) {
            return self.detach_session(id, slot, now);
        }
        let withdrawal = self.withdrawal_of_will(slot);
        self.detach_session(id, slot, now);
        if let (Some(gateway), Some(withdrawal)) = (self.gateway, withdrawal) {
            self.links.push(gateway, withdrawal);
        }
    }

    fn detach_session(&mut self, id: SessionId, slot: ConnectionSlot, now: Millis) {
        let Some(session) = self.clients.session_mut(id) else { return };
        session.connection = None;
        if let Some(cold) = &mut session.cold {
            cold.pending.clear();
        }
        self.save_routes(slot, id);
        if !self.clients.keep_offline(id, now) {
            return self.expire_session(id, now);
        }
        let reference = self.clients.session_ref(id);
        self.report_readiness(id);
        self.record_session(id);
        self.session_is_due(reference, now);
    }

    /// A session's will, or its end, may be due.
    pub(crate) fn session_is_due(&mut self, session: SessionRef, now: Millis) {
        // Messages of an earlier process are older than anything that is due now.
        self.send_restored();
        let Some(due) = self.clients.session_by_ref(session) else { return };
        if due.connection.is_some() || due.ending || self.is_in_move(session.id) {
            return;
        }
        if self.moves.put_off(session) {
            return;
        }
        let Some(due) = self.clients.session_by_ref(session) else { return };
        let restored_wait_until = self.wills.restored_wait_until();
        if due.policy.id == EndpointId::RESTORED && due.will.is_some() && now < restored_wait_until {
            // The rules that authorize it are not known yet; when they are, this is asked again.
            return self.clients.set_timer(restored_wait_until, Timer::session(session));
        }
        if due.ends_at <= now {
            return self.expire_session(session.id, now);
        }
        if due.will.as_ref().is_some_and(|will| will.due_at.is_some_and(|at| at <= now))
            && let Some(will) = due.will.take()
        {
            let (namespace, client_id, policy) = (due.namespace, due.client_id.clone(), Arc::clone(&due.policy));
            self.send_will(session, (namespace, &client_id, &policy), *will, now);
            self.record_session(session.id);
        }
    }

    fn expire_session(&mut self, id: SessionId, now: Millis) {
        self.session_event(CoreEventKind::SessionExpired, id, || CoreEventDetail::SessionExpired);
        self.end_session(id, now);
    }

    /// Ends a session that has no connection: its will is sent if it still has one, its messages go, and its subscriptions
    /// are removed, in later turns if they are many.
    pub(crate) fn end_session(&mut self, id: SessionId, now: Millis) {
        self.report_readiness(id);
        let was = self.clients.session_ref(id);
        let was_durable = self.forget_session(id);
        if self.clients.unlist_session(id).is_none() {
            return self.observe.count_error(Site::SessionOfClientId);
        }
        let Some(session) = self.clients.session_mut(id) else { return };
        let (namespace, client_id, policy) =
            (session.namespace, session.client_id.clone(), Arc::clone(&session.policy));
        let (will, counted_offline) = (session.will.take(), std::mem::take(&mut session.counted_offline));
        if counted_offline {
            self.clients.uncount_offline(policy.id);
        }
        let mut work = self.config.work.at_once;
        self.continue_end(was, &mut work);
        // It may hold messages of groups that it has left.
        self.return_shared(was, was_durable, now);
        self.remove_ended(was);
        if let Some(will) = will {
            self.send_will(was, (namespace, &client_id, &policy), *will, now);
        }
    }

    /// Removes subscriptions of a session that has ended.
    pub(crate) fn continue_end(&mut self, was: SessionRef, work: &mut usize) {
        let id = was.id;
        while let Some(session) = self.clients.session_by_ref(was) {
            if *work == 0 {
                return self.deferred.push(Task::EndSession(was));
            }
            *work = work.saturating_sub(FILTER_WORK);
            let namespace = session.namespace;
            if let Some(&node) = session.subscriptions.last() {
                self.unsubscribe_node(id, namespace, node);
            } else if let Some((key, shared)) = session.cold.as_mut().and_then(|cold| cold.shared.pop_last()) {
                self.leave_group(&key, &shared, was);
            } else {
                break;
            }
        }
        self.remove_ended(was);
    }

    /// Removes a session that has ended, once nothing refers to it.
    fn remove_ended(&mut self, was: SessionRef) {
        let is_done =
            |session: &Session| session.filters() == 0 && session.queue.is_empty() && session.inflight.len() == 0;
        if self.clients.session_by_ref(was).is_some_and(|session| is_done(session)) {
            self.clients.remove_session(was.id);
        }
    }
}
