//! The direction from this node: bytes that the peer may not have yet, and when to send them again.

use std::collections::VecDeque;

use weir_broker::Millis;
use weir_broker::gateway::PeerMessage;

use super::LinkCounters;
use crate::wire::{Acknowledgement, MoveFrame, RelayFrame, encode_frame, encode_move_frame, encode_relay_frame};

/// The first wait for an acknowledgement, and the longest.
const RESEND_MIN: Millis = 200;
const RESEND_MAX: Millis = 1000;
/// A mark of (frame, offset) is kept for each so many bytes.
const MARK_BYTES: u64 = 4096;
/// A buffer that was larger is made as small as this when it is empty.
const KEEP_CAPACITY: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct SendStream {
    generation: u32,
    /// Bytes from offset `acked`; those before `start` are no longer needed.
    buffer: Vec<u8>,
    start: usize,
    /// Offset up to which the peer has received.
    acked: u64,
    /// Offset of the next byte to send.
    next: u64,
    /// The highest offset that was sent.
    sent: u64,
    frames: u64,
    /// Frames behind this one have not left this node, not even in part.
    sent_frames: u64,
    processed: u64,
    stored: u64,
    /// Frames, and the offsets at their ends, to translate `processed` to bytes.
    marks: VecDeque<(u64, u64)>,
    last_mark: u64,
    processed_offset: u64,
    timeout: Millis,
    resend_at: Option<Millis>,
    /// The peer does not answer: one envelope is sent again per timeout, until it does.
    probing: bool,
    /// The last offset from which the peer asked for bytes again, and when.
    rewound: Option<(u64, Millis)>,
    /// The caller waits for the acknowledgement of this frame.
    wanted: u64,
    #[cfg(test)]
    pub(super) fault: Option<crate::sim::Fault>,
}

impl Default for SendStream {
    fn default() -> Self {
        Self {
            generation: 1,
            buffer: Vec::new(),
            start: 0,
            acked: 0,
            next: 0,
            sent: 0,
            frames: 0,
            sent_frames: 0,
            processed: 0,
            stored: 0,
            marks: VecDeque::new(),
            last_mark: 0,
            processed_offset: 0,
            timeout: RESEND_MIN,
            resend_at: None,
            probing: false,
            rewound: None,
            wanted: 0,
            #[cfg(test)]
            fault: None,
        }
    }
}

impl SendStream {
    #[inline]
    pub(super) fn push(&mut self, message: &PeerMessage<'_>) -> u64 {
        encode_frame(message, &mut self.buffer);
        self.count_frame()
    }

    #[inline]
    pub(super) fn push_relay(&mut self, frame: &RelayFrame<'_>, max_frame: usize) -> bool {
        let is_pushed = encode_relay_frame(frame, max_frame, &mut self.buffer);
        if is_pushed {
            self.count_frame();
        }
        is_pushed
    }

    pub(super) fn push_move(&mut self, frame: &MoveFrame<'_>, max_frame: usize) -> bool {
        let is_pushed = encode_move_frame(frame, max_frame, &mut self.buffer);
        if is_pushed {
            self.count_frame();
        }
        is_pushed
    }

    fn count_frame(&mut self) -> u64 {
        self.frames += 1;
        let end = self.end();
        if end - self.last_mark >= MARK_BYTES {
            self.marks.push_back((self.frames, end));
            self.last_mark = end;
        }
        self.frames
    }

    pub(super) const fn generation(&self) -> u32 {
        self.generation
    }

    pub(super) const fn pushed(&self) -> u64 {
        self.frames
    }

    pub(super) const fn sent_frames(&self) -> u64 {
        self.sent_frames
    }

    /// Drops the frames that have not left this node. The last one that is left may be cut.
    pub(super) fn drop_unsent(&mut self) {
        self.buffer.truncate(self.start + (self.sent - self.acked) as usize);
        self.frames = self.sent_frames;
        while self.marks.back().is_some_and(|(_, end)| *end > self.sent) {
            self.marks.pop_back();
        }
        // The peer may say that it has processed a frame of which it was not sent all.
        self.processed_offset = self.processed_offset.min(self.sent);
        self.last_mark = self.marks.back().map_or(self.processed_offset, |(_, end)| *end);
    }

    pub(super) const fn processed(&self) -> u64 {
        self.processed
    }

    pub(super) const fn stored(&self) -> u64 {
        self.stored
    }

    pub(super) const fn next_offset(&self) -> u64 {
        self.next
    }

    pub(super) const fn buffered_bytes(&self) -> usize {
        self.buffer.len() - self.start
    }

    pub(super) const fn unprocessed_bytes(&self) -> u64 {
        self.end() - self.processed_offset
    }

    /// Offset behind the last byte.
    const fn end(&self) -> u64 {
        self.acked + self.buffered_bytes() as u64
    }

    pub(super) const fn request_acknowledgement(&mut self) {
        self.wanted = self.frames;
    }

    pub(super) fn bytes(&self, offset: u64, len: usize) -> &[u8] {
        if len == 0 {
            return &[];
        }
        let from = self.start + (offset - self.acked) as usize;
        &self.buffer[from..from + len]
    }

    /// The bytes to send now.
    pub(super) fn next_piece(&mut self, now: Millis, max_payload: usize, counters: &mut LinkCounters) -> Option<Piece> {
        if self.resend_at.is_some_and(|at| at <= now) {
            return self.on_timeout(now, max_payload, counters);
        }
        let end = self.end();
        if self.probing || self.next == end {
            return None;
        }
        let (offset, len) = (self.next, piece(self.next, end, max_payload));
        self.next += len as u64;
        if self.next > self.sent {
            (self.sent, self.sent_frames) = (self.next, self.frames);
        }
        self.resend_at.get_or_insert(now + self.timeout);
        Some(Piece { offset, len, wants_ack: self.processed < self.wanted || self.stored < self.wanted })
    }

    /// The acknowledgement is late: sends the first bytes that the peer may not have, or nothing but the question if it has
    /// them all, as the acknowledgement of what it processed since may be lost.
    fn on_timeout(&mut self, now: Millis, max_payload: usize, counters: &mut LinkCounters) -> Option<Piece> {
        self.resend_at = Some(now + self.timeout);
        self.timeout = (self.timeout * 2).min(RESEND_MAX);
        if self.acked == self.sent {
            return Some(Piece { offset: self.next, len: 0, wants_ack: true });
        }
        self.probing = true;
        counters.resends += 1;
        #[cfg(test)]
        if self.fault == Some(crate::sim::Fault::NoResend) {
            return None;
        }
        Some(Piece { offset: self.acked, len: piece(self.acked, self.sent, max_payload), wants_ack: true })
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        if !self.probing && self.next < self.end() { Some(0) } else { self.resend_at }
    }

    /// Takes the peer's acknowledgement. One of another generation, or of what was not sent, changes nothing.
    pub(super) fn acknowledge(
        &mut self,
        ack: &Acknowledgement,
        resend: bool,
        now: Millis,
        counters: &mut LinkCounters,
    ) {
        if ack.generation != self.generation || ack.received > self.sent || ack.processed > self.sent_frames {
            return;
        }
        if ack.received > self.acked {
            self.release((ack.received - self.acked) as usize);
            self.next = self.next.max(self.acked);
            if self.probing {
                // What was sent behind the probe may be lost as well.
                self.probing = false;
                self.next = self.acked;
            }
            self.restart_timer(now);
        }
        if resend && ack.received == self.acked && self.acked < self.sent {
            self.rewind(now, counters);
        }
        if ack.processed > self.processed || ack.stored > self.stored {
            self.raise_watermarks(ack);
            self.restart_timer(now);
        }
    }

    /// The peer made progress.
    fn restart_timer(&mut self, now: Millis) {
        let is_complete = self.acked == self.sent && self.processed == self.frames && self.stored == self.frames;
        self.timeout = RESEND_MIN;
        self.resend_at = (!is_complete).then_some(now + self.timeout);
    }

    /// Sends again from the first byte that is not acknowledged. Repeated requests for one offset count once in a while, as
    /// each envelope behind a gap may cause one.
    fn rewind(&mut self, now: Millis, counters: &mut LinkCounters) {
        #[cfg(test)]
        if self.fault == Some(crate::sim::Fault::NoResend) {
            return;
        }
        if self.rewound.is_some_and(|(offset, at)| offset == self.acked && now < at + RESEND_MIN) {
            return;
        }
        self.rewound = Some((self.acked, now));
        self.next = self.acked;
        self.probing = false;
        self.resend_at = Some(now + RESEND_MIN);
        counters.resends += 1;
    }

    fn raise_watermarks(&mut self, ack: &Acknowledgement) {
        self.stored = self.stored.max(ack.stored.min(self.sent_frames));
        self.processed = self.processed.max(ack.processed);
        while let Some((_, end)) = self.marks.front().copied().filter(|(frame, _)| *frame <= self.processed) {
            self.processed_offset = end;
            self.marks.pop_front();
        }
        if self.processed == self.frames {
            self.processed_offset = self.end();
            self.last_mark = self.processed_offset;
        }
    }

    /// Forgets `count` bytes, which the peer has.
    fn release(&mut self, count: usize) {
        self.acked += count as u64;
        self.start += count;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(KEEP_CAPACITY);
            self.start = 0;
        } else if self.start > self.buffer.len() / 2 {
            // Each byte is moved about once.
            self.buffer.drain(..self.start);
            self.start = 0;
        }
    }

    /// The stream begins anew, in a generation that is not older than the peer's: each side takes nothing of an older one.
    pub(super) fn reset(&mut self, peer_generation: u32) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.shrink_to(KEEP_CAPACITY);
        *self = Self {
            generation: (self.generation + 1).max(peer_generation),
            buffer,
            #[cfg(test)]
            fault: self.fault,
            ..Self::default()
        };
    }
}

/// A part of the stream, and whether the peer shall answer at once.
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) len: usize,
    pub(super) wants_ack: bool,
}

fn piece(from: u64, to: u64, max: usize) -> usize {
    usize::try_from(to - from).unwrap_or(max).min(max)
}
