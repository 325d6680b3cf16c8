//! Whether the stream of members works.

use weir_broker::Millis;

use super::STREAM_GAP;

/// Since when, and until when, the stream of members is known to have worked.
#[derive(Debug, Default)]
pub(super) struct StreamHealth {
    read: Option<Millis>,
    own: Option<Millis>,
    pub(super) own_sequence: u64,
    since: Millis,
}

impl StreamHealth {
    pub(super) fn on_read(&mut self, now: Millis) {
        Self::on_evidence(&mut self.read, &mut self.since, now);
    }

    pub(super) fn on_own_heartbeat(&mut self, sequence: u64, now: Millis) {
        if sequence <= self.own_sequence {
            return; // read again
        }
        self.own_sequence = sequence;
        Self::on_evidence(&mut self.own, &mut self.since, now);
    }

    fn on_evidence(last: &mut Option<Millis>, since: &mut Millis, now: Millis) {
        if last.is_none_or(|last| now > last + STREAM_GAP) {
            *since = now; // silence before a gap proves nothing
        }
        *last = Some(now);
    }

    /// The last moment at which the stream is known to have worked.
    pub(super) fn until(&self) -> Option<Millis> {
        Some(self.read?.min(self.own?))
    }

    /// How long a peer that moved at `moved` has not moved while the stream worked.
    pub(super) fn silence(&self, moved: Millis) -> Millis {
        self.until().map_or(0, |until| until.saturating_sub(moved.max(self.since)))
    }
}
