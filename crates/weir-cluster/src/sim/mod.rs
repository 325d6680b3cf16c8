//! Whole clusters of links and members over a model of the engine.

/// A defect that a test plants, to prove that the simulation finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// What was lost is not sent again.
    NoResend,
    /// Frames are acknowledged as processed when they arrive.
    AcknowledgedBeforeTaken,
    /// Envelopes of an older generation are taken.
    NoGenerationCheck,
    /// A peer is out after 3 s without a heartbeat, though the stream did not work.
    ElectionCountsAsAbsence,
}
