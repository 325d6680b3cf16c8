//! The link to one peer: in each direction a reliable and ordered stream of bytes with offsets, cut into envelopes, as TCP
//! does it. Loss, duplicates, reorder and damaged envelopes are harmless. Messages are frames in the stream.
//!
//! A link exists as long as both incarnations live; only a new incarnation of either node has a new link. A direction begins
//! anew, without the frames that were not yet processed, by a new generation: [`PeerLink::reset`].

mod receiver;
mod sender;
#[cfg(test)]
mod tests;

use weir_broker::Millis;
use weir_broker::gateway::PeerMessage;

use self::receiver::ReceiveStream;
use self::sender::{Piece, SendStream};
use crate::Incarnation;
use crate::wire::{Envelope, Frame, FrameError, MoveFrame, RelayFrame};

/// Between two nodes.
#[derive(Debug, Clone, Copy)]
pub struct LinkConfig {
    /// This node.
    pub own: Incarnation,
    /// The peer.
    pub peer: Incarnation,
    /// Bytes of a frame's body at most: the largest packet, and room for names. A longer frame from the peer fails the link.
    pub max_frame: usize,
    /// Bytes that may wait to be taken at most; at least a frame fits.
    pub receive_limit: usize,
}

/// What an envelope changed beside the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEvent {
    /// The peer's stream begins anew. The interest of the peer and its numbers of namespaces are void, and so are numbers of
    /// its frames from before: they must not be acknowledged.
    Reset,
}

/// What a link has done since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounters {
    /// Envelopes that [`PeerLink::poll`] wrote.
    pub envelopes_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Envelopes that were accepted, with acknowledgements alone or with payload.
    pub envelopes_received: u64,
    /// How often the stream was sent again from an earlier offset.
    pub resends: u64,
    /// Envelopes that arrived before one with an earlier part of the stream.
    pub gaps: u64,
    /// Envelopes whose payload had arrived before.
    pub duplicates: u64,
    /// Envelopes that did not fit, as messages were not taken.
    pub overflows: u64,
    /// Envelopes of other incarnations or an older generation.
    pub ignored: u64,
}

/// Both directions between this node and one peer.
#[derive(Debug)]
pub struct PeerLink {
    config: LinkConfig,
    send: SendStream,
    receive: ReceiveStream,
    counters: LinkCounters,
}

impl PeerLink {
    /// A link that has sent and received nothing.
    pub fn new(config: LinkConfig) -> Self {
        let receive = ReceiveStream::new(config.max_frame, config.receive_limit);
        Self { config, send: SendStream::default(), receive, counters: LinkCounters::default() }
    }

    /// The incarnations and bounds.
    pub const fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// Appends a message to the stream. Returns the number of its frame, from 1.
    #[inline]
    pub fn push(&mut self, message: &PeerMessage<'_>) -> u64 {
        self.send.push(message)
    }

    /// The next envelope asks the peer for an acknowledgement at once, and so does each until the peer has acknowledged
    /// every frame pushed so far.
    pub fn request_acknowledgement(&mut self) {
        self.send.request_acknowledgement();
    }

    /// Takes an envelope of the peer. Envelopes of other incarnations, and those of an older generation, change nothing.
    pub fn receive(&mut self, envelope: &Envelope<'_>, now: Millis) -> Option<LinkEvent> {
        if envelope.sender != self.config.peer || envelope.receiver != self.config.own {
            self.counters.ignored += 1;
            return None;
        }
        self.send.acknowledge(&envelope.acknowledgement, envelope.resend, now, &mut self.counters);
        self.receive.accept(envelope, now, &mut self.counters)
    }

    /// Appends a frame of a relayed connection. `false`: it is longer than the link's frames may be.
    #[inline]
    pub fn push_relay(&mut self, frame: &RelayFrame<'_>) -> bool {
        self.send.push_relay(frame, self.config.max_frame)
    }

    /// Appends a frame of a move of slots. `false`: it is longer than the link's frames may be.
    pub fn push_move(&mut self, frame: &MoveFrame<'_>) -> bool {
        self.send.push_move(frame, self.config.max_frame)
    }

    /// The next frame of a known kind and its number. It counts as taken. [`Self::acknowledge`] tells the peer of messages;
    /// frames of relayed connections are acknowledged with the message before them.
    #[inline]
    pub fn next_frame(&mut self) -> Option<(u64, Frame<'_>)> {
        self.receive.next_frame()
    }

    /// The peer may be told that all of its frames up to number `processed` have been processed, and up to `stored` stored.
    /// Where nothing is stored, both are the same: the peer asks until all of its frames are acknowledged to both. Frames that were not taken do not count. Numbers are of the peer's present
    /// generation.
    pub fn acknowledge(&mut self, processed: u64, stored: u64, now: Millis) {
        self.receive.acknowledge(processed, stored, now);
    }

    /// The generation of this node's stream, from 1.
    pub const fn generation(&self) -> u32 {
        self.send.generation()
    }

    /// The generation of the peer's stream. 0: nothing has come.
    pub const fn peer_generation(&self) -> u32 {
        self.receive.generation()
    }

    /// The number of the last frame that was taken. 0: none.
    pub const fn taken(&self) -> u64 {
        self.receive.taken()
    }

    /// The number of the last frame that was pushed in this generation. 0: none.
    pub const fn pushed(&self) -> u64 {
        self.send.pushed()
    }

    /// The number of the last frame that may have left this node, if only in part. 0: none.
    pub const fn sent(&self) -> u64 {
        self.send.sent_frames()
    }

    /// Drops the frames that have not left this node. Nothing may be pushed before the next [`PeerLink::reset`].
    pub fn drop_unsent(&mut self) {
        self.send.drop_unsent();
    }

    /// The number of the last frame that the peer has processed.
    pub const fn peer_processed(&self) -> u64 {
        self.send.processed()
    }

    /// The number of the last frame that the peer has stored.
    pub const fn peer_stored(&self) -> u64 {
        self.send.stored()
    }

    /// Bytes of frames that the peer has not processed, rounded up to 4 KiB. The caller pauses publishers above its bound.
    pub fn unacknowledged_bytes(&self) -> u64 {
        self.send.unprocessed_bytes()
    }

    /// Bytes that the link keeps until the peer has received them.
    pub const fn buffered_bytes(&self) -> usize {
        self.send.buffered_bytes()
    }

    /// Bytes received and not yet taken.
    pub const fn untaken_bytes(&self) -> usize {
        self.receive.buffered_bytes()
    }

    /// Whether all that the peer is known to have sent has come and was taken.
    pub const fn is_taken(&self) -> bool {
        self.receive.is_taken()
    }

    /// The peer sent a frame that cannot be decoded. The link gives no further messages until the peer begins a new
    /// generation.
    pub const fn failure(&self) -> Option<&FrameError> {
        self.receive.failure()
    }

    /// What the link has done.
    pub const fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    /// Replaces `out` by the next envelope that is due, of at most `max_envelope` bytes: new bytes of the stream, bytes again,
    /// or an acknowledgement alone. `false`: nothing is due, and `out` is empty.
    pub fn poll(&mut self, now: Millis, max_envelope: usize, out: &mut Vec<u8>) -> bool {
        out.clear();
        let max_payload = max_envelope.saturating_sub(Envelope::HEADER).max(1);
        let piece = self.send.next_piece(now, max_payload, &mut self.counters);
        if piece.is_none() && !self.receive.is_acknowledgement_due(now) {
            return false;
        }
        let bare = Piece { offset: self.send.next_offset(), len: 0, wants_ack: false };
        let Piece { offset, len, wants_ack } = piece.unwrap_or(bare);
        let (acknowledgement, resend) = self.receive.acknowledgement();
        let envelope = Envelope {
            sender: self.config.own,
            receiver: self.config.peer,
            wants_ack,
            resend,
            generation: self.send.generation(),
            offset,
            acknowledgement,
            payload: self.send.bytes(offset, len),
        };
        envelope.encode(out);
        self.counters.envelopes_sent += 1;
        self.counters.bytes_sent += out.len() as u64;
        true
    }

    /// When [`Self::poll`] has something to do next, if nothing else happens. It may lie in the past. `None`: never.
    pub fn next_deadline(&self) -> Option<Millis> {
        [self.send.next_deadline(), self.receive.next_deadline()].into_iter().flatten().min()
    }

    /// Begins a new generation of this node's stream: what was pushed and not processed is dropped, and frames count from 1
    /// again. The caller pushes its interest anew, ending with [`PeerMessage::SnapshotEnd`].
    pub fn reset(&mut self, now: Millis) {
        self.send.reset(self.receive.generation());
        self.receive.acknowledge_at(now);
    }

    #[cfg(test)]
    pub(crate) const fn plant(&mut self, fault: crate::sim::Fault) {
        self.send.fault = Some(fault);
        self.receive.fault = Some(fault);
    }
}
