//! Nodes that an operator should look at.

use weir_broker::Millis;

use super::peer::Peer;
use super::{Members, Refusal};
use crate::Incarnation;

/// A node that an operator should look at, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// Its name.
    pub node: String,
    /// Why.
    pub reason: SuspectReason,
}

/// Why a node is suspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuspectReason {
    /// This node itself is out.
    #[error("this node's appends to the engine are not acknowledged")]
    NotAcknowledged,
    /// A record from before this node started, which has not moved yet.
    #[error("its heartbeat has not moved since this node started")]
    Unconfirmed,
    /// It is in, but late.
    #[error("no heartbeat for {ms} ms")]
    Late {
        /// Time without a heartbeat.
        ms: Millis,
    },
    /// It is out.
    #[error("out: no heartbeat for {ms} ms")]
    Out {
        /// Time without a heartbeat.
        ms: Millis,
    },
    /// It cannot take part.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// Two processes have its name.
    #[error("two running nodes have this name: incarnations {:016x} and {:016x}", .0[0], .0[1])]
    DuplicateName([Incarnation; 2]),
}

impl Members {
    /// Nodes with trouble, and why.
    pub fn suspects(&self, now: Millis) -> Vec<Suspect> {
        let own = |reason| Suspect { node: self.config.node.clone(), reason };
        let mut suspects = Vec::new();
        if !self.is_in(now) {
            suspects.push(own(SuspectReason::NotAcknowledged));
        }
        if let Some(incarnations) = self.namesake.as_ref().and_then(Peer::duplicate) {
            suspects.push(own(SuspectReason::DuplicateName(incarnations)));
        }
        for peer in self.peers.values() {
            let reasons = peer.suspect_reasons(now);
            suspects.extend(reasons.map(|reason| Suspect { node: peer.member().heartbeat.node.clone(), reason }));
        }
        suspects
    }
}
