//! The broker disconnects a client: at once, or when its messages in flight are acknowledged.

use std::sync::Arc;

use crate::Core;
use crate::clients::graceful_disconnect::GracefulDisconnect;
use crate::clients::timers::Timer;
use crate::ids::{ConnId, Millis};
use crate::observe::Site;

impl Core {
    /// Disconnects a client: 5.0 gets DISCONNECT with `code` (and reference); then its out buffer is to be flushed and
    /// the connection closed: it is named by [`Core::poll`].
    pub fn disconnect(&mut self, conn: ConnId, code: u8, server_reference: Option<&str>, now: Millis) {
        self.now = now;
        if self.clients.open(conn).is_some() {
            self.disconnect_with_reference(conn.slot, code, server_reference);
        }
    }

    /// Disconnects a client as [`Core::disconnect`] does, but lets QoS 1 and 2 messages that are in flight, to it and
    /// from it, be acknowledged before, until `until` at the latest. Meanwhile QoS 1 and 2 messages for it queue for its
    /// session's next connection, as for an offline client. `false`: it is gone, or was asked before; then the
    /// earlier `until` of both holds.
    pub fn begin_drain(
        &mut self,
        conn: ConnId,
        code: u8,
        server_reference: Option<Arc<str>>,
        until: Millis,
        now: Millis,
    ) -> bool {
        self.now = now;
        let Some(connection) = self.clients.open(conn) else { return false };
        if connection.closing {
            return false;
        }
        let before = connection
            .cold
            .as_ref()
            .and_then(|cold| cold.graceful_disconnect.as_ref())
            .map(|graceful_disconnect| graceful_disconnect.until);
        if before.is_none_or(|before| until < before) {
            connection.cold_mut().graceful_disconnect =
                Some(Box::new(GracefulDisconnect { code, server_reference, until }));
            self.clients.set_timer(until, Timer::DrainDeadline(conn));
        }
        let Some(connection) = self.clients.connection_mut(conn.slot) else {
            self.observe.count_error(Site::ConnectionOfPacket);
            return false;
        };
        // No client can declare it: nothing fits into a window of 0, so nothing new is sent.
        connection.receive_maximum = 0;
        let session = connection.session;
        self.report_readiness(session);
        self.clients.push_draining(conn);
        before.is_none()
    }

    /// Disconnects a client that has lost its right to be connected: at once, whatever is in flight, and without its will.
    /// `false`: it is gone.
    pub fn revoke(&mut self, conn: ConnId, code: u8, now: Millis) -> bool {
        self.now = now;
        let Some(connection) = self.clients.open(conn) else { return false };
        if connection.closing {
            return false;
        }
        let session = connection.session;
        self.drop_revoked_will(session);
        self.disconnect_with_reference(conn.slot, code, None);
        true
    }

    /// Disconnects drained connections with nothing in flight any more, and those past their deadline.
    pub(crate) fn finish_drain(&mut self) {
        for conn in self.clients.take_draining() {
            let Some(connection) = self.clients.open(conn) else { continue };
            let (session, cold) = (connection.session, connection.cold.as_ref());
            let Some(graceful_disconnect) = cold.and_then(|cold| cold.graceful_disconnect.as_deref()).cloned() else {
                continue;
            };
            let in_flight = self.clients.session(session).is_some_and(|session| {
                session.inflight.outstanding() > 0 || session.incoming.as_ref().is_some_and(|open| !open.is_empty())
            });
            if !in_flight || graceful_disconnect.until <= self.now {
                self.disconnect_with_reference(
                    conn.slot,
                    graceful_disconnect.code,
                    graceful_disconnect.server_reference.as_deref(),
                );
            }
        }
    }
}
