//! Session takeover: a CONNECT with the client identifier of an existing session [MQTT-3.1.4-3].

use crate::Core;
use crate::ids::{Millis, SessionId};
use crate::observe::events::{CoreEventDetail, CoreEventKind};
use weir_mqtt::ReasonCode;

impl Core {
    /// The session a CONNECT finds: its connection, if any, is taken over [MQTT-3.1.4-3]; with Clean Start it ends
    /// [MQTT-3.1.2-4]. Returns what is left of it, and whether that is to be called present.
    pub(crate) fn take_over(&mut self, id: SessionId, clean_start: bool, now: Millis) -> (Option<SessionId>, bool) {
        if let Some(slot) = self.clients.session(id).and_then(|s| s.connection) {
            self.session_event(CoreEventKind::SessionTakenOver, id, || CoreEventDetail::SessionTakenOver);
            self.disconnect_with(slot, ReasonCode::SessionTakenOver);
        }
        // A due will is published even if the client reconnects before its timer fires.
        self.session_is_due(self.clients.session_ref(id), now);
        // The session may have ended, with the detached connection or by its expiry.
        if self.clients.session(id).is_none_or(|session| session.ending) {
            return (None, false);
        }
        if clean_start {
            self.session_event(CoreEventKind::SessionDiscarded, id, || CoreEventDetail::SessionDiscarded);
            self.discard_session(id, now);
            return (None, false);
        }
        // The client is back before its will was due [MQTT-3.1.3-9].
        if let Some(will) = self.clients.session_mut(id).and_then(|session| session.will.take()) {
            self.forget_will(will.record);
        }
        (Some(id), true)
    }
}
