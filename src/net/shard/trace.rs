//! Tracing of clients. Callers check first that any trace is active.

use super::Shard;
use super::table::{ConnectionKey, ConnectionState};
use crate::net::trace::{ClientTracer, Traced};
use weir_broker::{ConnId, Millis};

impl Shard {
    /// Adds a trace; its client may be connected already.
    pub(super) fn begin_trace(&mut self, mut tracer: ClientTracer) {
        self.tracers.retain(|tracer| !tracer.is_closed());
        let found = self.table.iter().find_map(|(_, connection)| {
            let ConnectionState::Open(id) = connection.state else { return None };
            let endpoint = connection.guard.metrics().endpoint();
            let client = self.core.client(id).filter(|client| tracer.matches(endpoint, client.client_id))?;
            Some((id, Traced::Connected { endpoint, peer: connection.peer, version: client.version }))
        });
        if let Some((id, connected)) = found {
            let waiting = self.core.out(id).map_or(0, |out| out.ready());
            tracer.follow(id, waiting, connected, self.now);
        }
        self.tracers.push(tracer);
    }

    /// Called when a client is admitted.
    pub(super) fn trace_admitted(&mut self, key: ConnectionKey, id: ConnId) {
        self.tracers.retain(|tracer| !tracer.is_closed());
        let (Some(connection), Some(client)) = (self.table.get(key), self.core.client(id)) else { return };
        let endpoint = connection.guard.metrics().endpoint();
        for tracer in self.tracers.iter_mut().filter(|tracer| tracer.matches(endpoint, client.client_id)) {
            let connected = Traced::Connected { endpoint, peer: connection.peer, version: client.version };
            tracer.follow(id, 0, connected, self.now);
        }
    }

    pub(super) fn trace_sending(&mut self, id: ConnId) {
        for tracer in self.tracers.iter_mut().filter(|tracer| tracer.follows(id)) {
            if let Some(out) = self.core.out(id) {
                tracer.sending(out, self.now);
            }
        }
    }

    pub(super) fn trace_ended(&mut self, id: ConnId) {
        for tracer in self.tracers.iter_mut().filter(|tracer| tracer.follows(id)) {
            tracer.ended(self.now);
        }
    }
}

/// Records whole packets received from a connection.
pub(super) fn received(tracers: &mut [ClientTracer], id: ConnId, now: Millis, bytes: &[u8]) {
    for tracer in tracers.iter_mut().filter(|tracer| tracer.follows(id)) {
        tracer.received(bytes, now);
    }
}
