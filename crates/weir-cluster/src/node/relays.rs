//! Frames of relayed connections that have come and are not taken.

use std::collections::VecDeque;

use crate::Incarnation;
use crate::wire::RelayFrame;

/// Bytes that wait to be taken above which no more is taken from links.
const WAITING_BYTES: usize = 8 << 20;

/// What has happened to relayed connections of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayEvent<'a> {
    /// A frame of the peer. Frames come in the order in which they were sent.
    Frame(RelayFrame<'a>),
    /// Everything before is lost, in both directions: the peer is out, or the link begins anew.
    LinkReset,
}

/// Frames of relayed connections since the start of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayCounters {
    /// Connections that this node has asked peers to serve.
    pub opened: u64,
    /// Connections that peers have asked this node to serve.
    pub accepted: u64,
    /// Bytes of clients and brokers in frames to peers.
    pub bytes_sent: u64,
    /// Bytes in frames from peers.
    pub bytes_received: u64,
    /// How often the connections of a peer were lost.
    pub resets: u64,
}

#[derive(Debug)]
enum Waiting {
    /// A frame without its bytes, and they.
    Frame(RelayFrame<'static>, Box<[u8]>),
    LinkReset,
}

#[derive(Debug, Default)]
pub(super) struct Relays {
    waiting: VecDeque<(Incarnation, Waiting)>,
    waiting_bytes: usize,
    /// What the last frame that was answered borrows from.
    taken: Box<[u8]>,
    counters: RelayCounters,
}

/// A frame with other bytes.
fn with_bytes<'b>(frame: &RelayFrame<'_>, bytes: &'b [u8]) -> RelayFrame<'b> {
    match *frame {
        RelayFrame::Open { relay, slot, .. } => RelayFrame::Open { relay, slot, admission: bytes },
        RelayFrame::Data { relay, from_opener, .. } => RelayFrame::Data { relay, from_opener, bytes },
        RelayFrame::Credit { relay, from_opener, bytes } => RelayFrame::Credit { relay, from_opener, bytes },
        RelayFrame::End { relay, code, within_ms, revokes, .. } => {
            RelayFrame::End { relay, code, within_ms, revokes, reference: bytes }
        }
        RelayFrame::Close { relay, from_opener, reason } => RelayFrame::Close { relay, from_opener, reason },
    }
}

const fn bytes_of<'a>(frame: &RelayFrame<'a>) -> &'a [u8] {
    match frame {
        RelayFrame::Open { admission, .. } => admission,
        RelayFrame::Data { bytes, .. } => bytes,
        RelayFrame::End { reference, .. } => reference,
        RelayFrame::Credit { .. } | RelayFrame::Close { .. } => &[],
    }
}

impl Relays {
    pub(super) const fn counters(&self) -> &RelayCounters {
        &self.counters
    }

    pub(super) const fn has_room(&self) -> bool {
        self.waiting_bytes < WAITING_BYTES
    }

    pub(super) fn on_sent(&mut self, frame: &RelayFrame<'_>) {
        self.counters.opened += u64::from(matches!(frame, RelayFrame::Open { .. }));
        self.counters.bytes_sent += bytes_of(frame).len() as u64;
    }

    pub(super) fn on_frame(&mut self, from: Incarnation, frame: &RelayFrame<'_>) {
        let bytes = bytes_of(frame);
        self.counters.accepted += u64::from(matches!(frame, RelayFrame::Open { .. }));
        self.counters.bytes_received += bytes.len() as u64;
        self.waiting_bytes += bytes.len();
        self.waiting.push_back((from, Waiting::Frame(with_bytes(frame, &[]), bytes.into())));
    }

    pub(super) fn on_reset(&mut self, from: Incarnation) {
        self.counters.resets += 1;
        self.waiting.push_back((from, Waiting::LinkReset));
    }

    pub(super) fn next(&mut self) -> Option<(Incarnation, RelayEvent<'_>)> {
        let (from, waiting) = self.waiting.pop_front()?;
        let event = match waiting {
            Waiting::LinkReset => RelayEvent::LinkReset,
            Waiting::Frame(frame, bytes) => {
                self.waiting_bytes -= bytes.len();
                self.taken = bytes;
                RelayEvent::Frame(with_bytes(&frame, &self.taken))
            }
        };
        Some((from, event))
    }
}
