//! A client is asked to leave: at once, or once what is in flight with it has come to its end.

use std::sync::Arc;

use super::timers::Timer;
use super::{ConnId, Core, Millis};

/// What a client that leaves is told in the end, and when that is at the latest.
#[derive(Debug, Clone)]
pub(super) struct Farewell {
    code: u8,
    server_reference: Option<Arc<str>>,
    until: Millis,
}

impl Core {
    /// Asks a client to leave: 5.0 gets DISCONNECT with `code` (and reference); then its out buffer is to be flushed and
    /// the connection closed: it is named by [`Core::take_closing`].
    pub fn disconnect(&mut self, conn: ConnId, code: u8, server_reference: Option<&str>, now: Millis) {
        self.now = now;
        if self.connections.get_generation(conn.slot, conn.generation).is_some() {
            self.tell_and_close_with(conn.slot, code, server_reference);
        }
    }

    /// Asks a client to leave as [`Core::disconnect`] does, but lets QoS 1 and 2 messages that are in flight, to it and
    /// from it, be acknowledged before, until `until` at the latest. Meanwhile QoS 1 and 2 messages for it queue for its
    /// session's next connection, as for a client that is away. `false`: it is gone, or was asked before; then the
    /// earlier `until` of both holds.
    pub fn wind_down(
        &mut self,
        conn: ConnId,
        code: u8,
        server_reference: Option<Arc<str>>,
        until: Millis,
        now: Millis,
    ) -> bool {
        self.now = now;
        let Some(connection) = self.connections.get_generation(conn.slot, conn.generation) else { return false };
        if connection.closing {
            return false;
        }
        let before = connection.rare.as_ref().and_then(|aside| aside.farewell.as_ref()).map(|farewell| farewell.until);
        if before.is_none_or(|before| until < before) {
            connection.aside().farewell = Some(Box::new(Farewell { code, server_reference, until }));
            self.timers.push(until, Timer::Farewell(conn));
        }
        let Some(connection) = self.connections.get_mut(conn.slot) else { return false };
        // No client can declare it: nothing fits into a window of 0, so nothing new is sent.
        connection.receive_maximum = 0;
        let session = connection.session;
        self.tell_readiness(session);
        self.leaving.push(conn);
        before.is_none()
    }

    /// Ends the connection of a client that has lost its right to it: at once, whatever is in flight, and without its will.
    /// `false`: it is gone.
    pub fn revoke(&mut self, conn: ConnId, code: u8, now: Millis) -> bool {
        self.now = now;
        let Some(connection) = self.connections.get_generation(conn.slot, conn.generation) else { return false };
        if connection.closing {
            return false;
        }
        let session = connection.session;
        self.revoke_will(session);
        self.tell_and_close_with(conn.slot, code, None);
        true
    }

    /// Says goodbye to those who have nothing in flight any more, and to those whose time is up.
    pub(super) fn say_goodbye(&mut self) {
        for conn in std::mem::take(&mut self.leaving) {
            let Some(connection) = self.connections.get_generation(conn.slot, conn.generation) else { continue };
            let (session, aside) = (connection.session, connection.rare.as_ref());
            let Some(farewell) = aside.and_then(|aside| aside.farewell.as_deref()).cloned() else { continue };
            let in_flight = self.sessions.get(session).is_some_and(|session| {
                session.inflight.outstanding() > 0 || session.incoming.as_ref().is_some_and(|open| !open.is_empty())
            });
            if !in_flight || farewell.until <= self.now {
                self.tell_and_close_with(conn.slot, farewell.code, farewell.server_reference.as_deref());
            }
        }
    }
}
