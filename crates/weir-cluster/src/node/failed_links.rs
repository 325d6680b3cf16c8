//! Links with a frame that cannot be decoded: they begin anew, as otherwise all would wait for them.

use weir_broker::Millis;

use super::ClusterNode;
use super::outputs::Ends;
use super::peers::PeerLinks;
use crate::Incarnation;

/// How often the link to a peer begins anew because of that, at most.
pub(super) const RENEW_EVERY_MS: Millis = 10_000;

/// A frame of a peer could not be decoded. The link begins anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFailure {
    /// The peer.
    pub peer: Incarnation,
    /// What could not be decoded.
    pub reason: String,
}

impl ClusterNode {
    pub(super) fn renew_failed_links(&mut self, now: Millis) {
        for (slot, failure) in self.peers.take_failures(now) {
            let mut ends = Ends { peers: &mut self.peers, appends: &mut self.appends, bytes: &mut self.unstored_bytes };
            self.relays.on_reset(failure.peer);
            PeerLinks::begin_anew(slot, &mut self.gateway, &mut ends, now);
            self.link_failures.push_back(failure);
        }
    }

    /// The next link that began anew because of a frame that could not be decoded, for the log.
    pub fn next_link_failure(&mut self) -> Option<LinkFailure> {
        self.link_failures.pop_front()
    }
}
