//! The direction from the peer: bytes that were received and not yet taken, and what to acknowledge.

use weir_broker::Millis;

use super::{LinkCounters, LinkEvent};
use crate::wire::{Acknowledgement, Envelope, Frame, FrameError, FrameHeader, decode_body, frame_header};

/// An acknowledgement is sent after so many bytes, and after this time.
const ACK_BYTES: usize = 256 << 10;
const ACK_DELAY: Millis = 50;
/// A gap is reported again after this time.
const REQUEST_AGAIN: Millis = 200;
/// A buffer that was larger is made as small as this when it is empty.
const KEEP_CAPACITY: usize = 1 << 20;
/// Kind and length of a frame at most.
const FRAME_HEADER_MAX: usize = 20;

#[derive(Debug)]
pub(super) struct ReceiveStream {
    max_frame: usize,
    limit: usize,
    /// 0: nothing was received.
    generation: u32,
    /// Bytes up to offset `received`; those before `start` have been taken.
    buffer: Vec<u8>,
    start: usize,
    received: u64,
    /// Offset up to which the peer is known to have sent.
    announced: u64,
    /// Frames taken, with those of unknown kinds.
    taken: u64,
    /// The last taken message. Behind it, frames may have been taken that count as processed when they are taken.
    last_message: u64,
    processed: u64,
    stored: u64,
    failure: Option<FrameError>,
    /// The offset at which a gap was reported last, and when.
    requested: Option<(u64, Millis)>,
    resend_due: bool,
    /// Bytes were dropped, as the buffer was full. They are asked for when there is room.
    overflowed: bool,
    acknowledge_at: Option<Millis>,
    /// Bytes received since the last acknowledgement.
    unacknowledged: usize,
    /// When an envelope was accepted last.
    accepted_at: Millis,
    /// The peer waits until everything so far is acknowledged.
    urgent: bool,
    #[cfg(test)]
    pub(super) fault: Option<crate::sim::Fault>,
}

impl ReceiveStream {
    pub(super) fn new(max_frame: usize, limit: usize) -> Self {
        Self {
            max_frame,
            limit: limit.max(max_frame.saturating_add(FRAME_HEADER_MAX)),
            generation: 0,
            buffer: Vec::new(),
            start: 0,
            received: 0,
            announced: 0,
            taken: 0,
            last_message: 0,
            processed: 0,
            stored: 0,
            failure: None,
            requested: None,
            resend_due: false,
            overflowed: false,
            acknowledge_at: None,
            unacknowledged: 0,
            accepted_at: 0,
            urgent: false,
            #[cfg(test)]
            fault: None,
        }
    }

    pub(super) const fn buffered_bytes(&self) -> usize {
        self.buffer.len() - self.start
    }

    pub(super) const fn is_taken(&self) -> bool {
        self.received >= self.announced && self.start == self.buffer.len()
    }

    pub(super) const fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) const fn failure(&self) -> Option<&FrameError> {
        self.failure.as_ref()
    }

    pub(super) fn accept(
        &mut self,
        envelope: &Envelope<'_>,
        now: Millis,
        counters: &mut LinkCounters,
    ) -> Option<LinkEvent> {
        if envelope.generation < self.generation && !self.accepts_old_generations() {
            counters.ignored += 1;
            return None;
        }
        let mut event = None;
        if envelope.generation > self.generation {
            event = (self.generation > 0).then_some(LinkEvent::Reset);
            self.begin_generation(envelope.generation);
        }
        counters.envelopes_received += 1;
        self.accepted_at = now;
        if self.failure.is_none() {
            self.accept_payload(envelope, now, counters);
        }
        if envelope.wants_ack {
            self.urgent = true;
            self.acknowledge_at(now);
        }
        event
    }

    pub(super) const fn generation(&self) -> u32 {
        self.generation
    }

    const fn accepts_old_generations(&self) -> bool {
        #[cfg(test)]
        if matches!(self.fault, Some(crate::sim::Fault::NoGenerationCheck)) {
            return true;
        }
        false
    }

    fn begin_generation(&mut self, generation: u32) {
        #[cfg(test)]
        let fault = self.fault;
        *self = Self { generation, ..Self::new(self.max_frame, self.limit) };
        #[cfg(test)]
        {
            self.fault = fault;
        }
    }

    fn accept_payload(&mut self, envelope: &Envelope<'_>, now: Millis, counters: &mut LinkCounters) {
        let payload = envelope.payload;
        self.announced = self.announced.max(envelope.offset.saturating_add(payload.len() as u64));
        if envelope.offset > self.received {
            if self.overflowed {
                return; // it is asked for when there is room
            }
            counters.gaps += 1;
            let again = |(offset, at)| offset != self.received || now >= at + REQUEST_AGAIN;
            if self.requested.is_none_or(again) {
                self.requested = Some((self.received, now));
                self.resend_due = true;
                self.acknowledge_at(now);
            }
            return;
        }
        let known = self.received - envelope.offset;
        let new = usize::try_from(known).ok().and_then(|known| payload.get(known..)).unwrap_or_default();
        if new.is_empty() {
            if !payload.is_empty() {
                counters.duplicates += 1;
                self.acknowledge_at(now);
            }
            return;
        }
        let room = self.limit.saturating_sub(self.buffered_bytes());
        if new.len() > room {
            counters.overflows += 1;
            self.overflowed = true;
        }
        self.append(&new[..new.len().min(room)], now);
    }

    fn append(&mut self, bytes: &[u8], now: Millis) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(KEEP_CAPACITY);
            self.start = 0;
        } else if self.start > self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
        self.received += bytes.len() as u64;
        self.unacknowledged += bytes.len();
        self.acknowledge_at(if self.unacknowledged >= ACK_BYTES { now } else { now + ACK_DELAY });
    }

    /// An acknowledgement is due at `at` at the latest.
    pub(super) fn acknowledge_at(&mut self, at: Millis) {
        self.acknowledge_at = Some(self.acknowledge_at.map_or(at, |due| due.min(at)));
    }

    /// The next frame of a known kind, which is taken.
    #[inline]
    pub(super) fn next_frame(&mut self) -> Option<(u64, Frame<'_>)> {
        let header = self.next_known()?;
        let body = self.start + header.header;
        if !header.is_message() {
            self.skip(header.len(), self.accepted_at + ACK_DELAY);
        } else {
            self.taken += 1;
            self.last_message = self.taken;
            self.start += header.len();
            self.ask_when_there_is_room();
        }
        match decode_body(&header, &self.buffer[body..body + header.body]) {
            Ok(frame) => Some((self.taken, frame)),
            Err(error) => {
                self.failure = Some(error);
                None
            }
        }
    }

    /// Skips frames of unknown kinds. The header of the first frame of a known kind, if all of it is there.
    #[inline]
    fn next_known(&mut self) -> Option<FrameHeader> {
        if self.failure.is_some() {
            return None;
        }
        loop {
            let bytes = &self.buffer[self.start..];
            let header = match frame_header(bytes, self.max_frame) {
                Ok(header) => header?,
                Err(error) => {
                    self.failure = Some(error);
                    return None;
                }
            };
            if bytes.len() < header.len() {
                return None;
            }
            if header.is_known() {
                return Some(header);
            }
            self.skip(header.len(), 0);
        }
    }

    /// A frame that is not a message counts as processed and stored as soon as the one before it does. The peer is to know of
    /// it at `at` at the latest.
    fn skip(&mut self, len: usize, at: Millis) {
        let before = self.taken;
        self.start += len;
        self.taken += 1;
        for watermark in [&mut self.processed, &mut self.stored] {
            if *watermark == before {
                *watermark = self.taken;
            }
        }
        self.acknowledge_at(at);
        self.ask_when_there_is_room();
    }

    /// Asks for the bytes that did not fit, once half of the buffer is free.
    fn ask_when_there_is_room(&mut self) {
        if self.overflowed && self.buffered_bytes() <= self.limit / 2 {
            self.overflowed = false;
            self.resend_due = true;
            self.acknowledge_at = Some(0);
        }
    }

    pub(super) fn acknowledge(&mut self, processed: u64, stored: u64, now: Millis) {
        let with_skipped = |number: u64| if number >= self.last_message { self.taken } else { number };
        let (processed, stored) = (with_skipped(processed), with_skipped(stored));
        if processed <= self.processed && stored <= self.stored {
            return;
        }
        self.processed = self.processed.max(processed);
        self.stored = self.stored.max(stored);
        self.acknowledge_at(if self.urgent { now } else { now + ACK_DELAY });
    }

    pub(super) fn is_acknowledgement_due(&self, now: Millis) -> bool {
        self.next_deadline().is_some_and(|at| at <= now)
    }

    pub(super) const fn next_deadline(&self) -> Option<Millis> {
        self.acknowledge_at
    }

    /// What to acknowledge, and whether to ask for bytes again. It counts as sent.
    pub(super) fn acknowledgement(&mut self) -> (Acknowledgement, bool) {
        self.acknowledge_at = None;
        self.unacknowledged = 0;
        if self.start == self.buffer.len() && self.processed == self.taken && self.stored == self.taken {
            self.urgent = false;
        }
        #[cfg(test)]
        let processed = if self.fault == Some(crate::sim::Fault::AcknowledgedBeforeTaken) {
            self.complete()
        } else {
            self.processed
        };
        #[cfg(not(test))]
        let processed = self.processed;
        let acknowledgement =
            Acknowledgement { generation: self.generation, received: self.received, processed, stored: self.stored };
        (acknowledgement, std::mem::take(&mut self.resend_due))
    }

    /// Frames that have arrived as a whole.
    #[cfg(test)]
    fn complete(&self) -> u64 {
        let (mut at, mut frames) = (self.start, self.taken);
        while let Ok(Some(header)) = frame_header(&self.buffer[at..], self.max_frame)
            && at + header.len() <= self.buffer.len()
        {
            (at, frames) = (at + header.len(), frames + 1);
        }
        frames
    }
}
