//! What waits to be written to a connection.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use weir_mqtt::{PacketId, ProtocolVersion, QoS, ReasonCode};

/// Bytes of an acknowledgement, without and with a reason.
pub(super) const ACKNOWLEDGEMENT_BYTES: u32 = 4;
pub(super) const REFUSAL_BYTES: u32 = 5;

/// Bytes for one connection's socket, in order: small packets run together in one buffer, large payloads are shared.
#[derive(Debug, Default)]
pub struct OutBuf {
    buf: Vec<u8>,
    /// Bytes of `buf` taken.
    taken: usize,
    /// Shared pieces that go between the bytes of `buf`, in order.
    shared: Option<Box<Shared>>,
    /// From where on bytes are held back, and until which turn is settled; both grow.
    holds: Option<Box<Holds>>,
}

/// What few buffers have: beside the box, an idle connection pays nothing for it.
#[derive(Debug, Default)]
struct Holds {
    list: VecDeque<Hold>,
    /// Not in `buf` before their turns are settled, so that nothing else waits behind them; their turns grow.
    acknowledgements: VecDeque<Acknowledgement>,
}

#[derive(Debug)]
struct Hold {
    /// What of `buf` is at or behind this index waits.
    at: usize,
    turn: u64,
    /// Nothing goes out before it: what is behind it begins with CONNACK.
    first: bool,
}

/// PUBACK or PUBREC for a PUBLISH that was taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledgement {
    /// The turn that has to be settled before.
    pub(super) turn: u64,
    pub(super) qos: QoS,
    pub(super) packet_id: PacketId,
    pub(super) code: ReasonCode,
}

impl Acknowledgement {
    fn write(self, into: &mut Vec<u8>, version: ProtocolVersion) {
        match self.qos {
            QoS::ExactlyOnce => weir_mqtt::pubrec(into, version, self.packet_id, self.code),
            _ => weir_mqtt::puback(into, version, self.packet_id, self.code),
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    pieces: VecDeque<Piece>,
    bytes: usize,
}

#[derive(Debug)]
struct Piece {
    /// The piece goes before this index of `buf`.
    at: usize,
    bytes: Arc<[u8]>,
    range: Range<usize>,
}

impl OutBuf {
    /// Bytes not yet taken.
    pub fn len(&self) -> usize {
        let acknowledgements = self.holds.as_ref().map_or(0, |holds| holds.acknowledgements.len());
        let shared = self.shared.as_ref().map_or(0, |s| s.bytes);
        self.buf.len() - self.taken + shared + acknowledgements * ACKNOWLEDGEMENT_BYTES as usize
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that may be written now.
    pub fn ready(&self) -> usize {
        let limit = self.limit();
        let pieces = self.shared.iter().flat_map(|shared| &shared.pieces).take_while(|piece| piece.at <= limit);
        limit - self.taken + pieces.map(|piece| piece.range.len()).sum::<usize>()
    }

    /// Where in `buf` what may be written ends. A piece goes with what is before it.
    fn limit(&self) -> usize {
        self.holds.as_ref().and_then(|holds| holds.list.front()).map_or(self.buf.len(), |hold| hold.at)
    }

    /// What is appended from now on waits until turn `turn` is settled; `first`: and it is CONNACK. `false`: the buffer
    /// waits for that turn already.
    pub(super) fn hold(&mut self, turn: u64, first: bool) -> bool {
        let (at, is_new) = (self.buf.len(), self.latest() < turn);
        let holds = &mut self.holds.get_or_insert_default().list;
        if holds.back().is_none_or(|hold| hold.turn < turn) {
            holds.push_back(Hold { at, turn, first });
        }
        is_new
    }

    /// Appends an acknowledgement once its turn is settled. `false`: the buffer waits for that turn already.
    pub(super) fn acknowledge(&mut self, acknowledgement: Acknowledgement) -> bool {
        let is_new = self.latest() < acknowledgement.turn;
        self.holds.get_or_insert_default().acknowledgements.push_back(acknowledgement);
        is_new
    }

    /// The newest turn that something waits for; 0: none.
    fn latest(&self) -> u64 {
        let Some(holds) = &self.holds else { return 0 };
        let hold = holds.list.back().map_or(0, |hold| hold.turn);
        hold.max(holds.acknowledgements.back().map_or(0, |acknowledgement| acknowledgement.turn))
    }

    /// The turn that the last acknowledgement of a QoS waits for.
    pub(super) fn acknowledges(&self, qos: QoS) -> Option<u64> {
        let mut waiting = self.holds.iter().flat_map(|holds| holds.acknowledgements.iter().rev());
        waiting.find(|waiting| waiting.qos == qos).map(|waiting| waiting.turn)
    }

    /// Every turn up to `turn` is settled.
    pub(super) fn release(&mut self, turn: u64, version: ProtocolVersion) {
        let Some(holds) = &mut self.holds else { return };
        while holds.list.front().is_some_and(|hold| hold.turn <= turn) {
            holds.list.pop_front();
        }
        let start = self.buf.len();
        while let Some(&settled) = holds.acknowledgements.front()
            && settled.turn <= turn
        {
            holds.acknowledgements.pop_front();
            settled.write(&mut self.buf, version);
        }
        self.pass(start);
        self.forget_holds();
    }

    /// Answers the PUBLISHes of QoS 1 whose acknowledgements wait, of a client of 5.0, with `code` in its place.
    pub(super) fn refuse(&mut self, code: ReasonCode) {
        let Some(holds) = &mut self.holds else { return };
        let start = self.buf.len();
        holds.acknowledgements.retain(|waiting| {
            if waiting.qos == QoS::AtLeastOnce {
                Acknowledgement { code, ..*waiting }.write(&mut self.buf, ProtocolVersion::V5);
            }
            waiting.qos != QoS::AtLeastOnce
        });
        self.pass(start);
        self.forget_holds();
    }

    fn forget_holds(&mut self) {
        if self.holds.as_ref().is_some_and(|holds| holds.list.is_empty() && holds.acknowledgements.is_empty()) {
            self.holds = None;
        }
    }

    /// What was appended from `start` on does not wait for what was held back before, unless that is CONNACK.
    pub(super) fn pass(&mut self, start: usize) {
        let added = self.buf.len() - start;
        let Some(holds) = &mut self.holds else { return };
        let Some(place) = holds.list.front().filter(|hold| !hold.first).map(|hold| hold.at) else { return };
        self.buf[place..].rotate_right(added);
        holds.list.iter_mut().for_each(|hold| hold.at += added);
        let held = self.shared.iter_mut().flat_map(|shared| &mut shared.pieces).filter(|piece| piece.at > place);
        held.for_each(|piece| piece.at += added);
    }

    /// What waits outside of the buffer is to go out before what is appended from now on.
    pub(super) fn line_up(&mut self, version: ProtocolVersion) {
        let Some(holds) = &mut self.holds else { return };
        for waiting in std::mem::take(&mut holds.acknowledgements) {
            if holds.list.back().is_none_or(|hold| hold.turn < waiting.turn) {
                holds.list.push_back(Hold { at: self.buf.len(), turn: waiting.turn, first: false });
            }
            waiting.write(&mut self.buf, version);
        }
    }

    /// Fills `slices` with what may be written, from the front; answers how many it filled (0: nothing does).
    pub fn fill_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let limit = self.limit();
        let Some(shared) = &self.shared else {
            return match (slices.first_mut(), self.taken < limit) {
                (Some(slot), true) => {
                    *slot = IoSlice::new(&self.buf[self.taken..limit]);
                    1
                }
                _ => 0,
            };
        };
        let mut at = self.taken;
        let mut filled = 0;
        let pieces = shared.pieces.iter().take_while(|p| p.at <= limit).map(|p| (p.at, &p.bytes[p.range.clone()]));
        for (end, piece) in pieces.chain(std::iter::once((limit, &[][..]))) {
            for bytes in [&self.buf[at..end], piece] {
                if !bytes.is_empty() {
                    let Some(slot) = slices.get_mut(filled) else { return filled };
                    *slot = IoSlice::new(bytes);
                    filled += 1;
                }
            }
            at = end;
        }
        filled
    }

    /// The first run of contiguous bytes; empty where nothing may be written.
    pub fn first(&self) -> &[u8] {
        let mut slice = [IoSlice::new(&[])];
        self.fill_slices(&mut slice);
        let length = slice[0].len();
        match self.shared.as_ref().and_then(|s| s.pieces.front()) {
            Some(piece) if piece.at == self.taken => &piece.bytes[piece.range.clone()],
            _ => &self.buf[self.taken..self.taken + length],
        }
    }

    /// A copy of what may be written now, behind the first `skip` bytes.
    pub fn ready_from(&self, skip: usize) -> Vec<u8> {
        let limit = self.limit();
        let (mut at, mut bytes) = (self.taken, Vec::with_capacity(self.ready()));
        let pieces = self.shared.iter().flat_map(|shared| &shared.pieces).take_while(|piece| piece.at <= limit);
        for piece in pieces {
            bytes.extend_from_slice(&self.buf[at..piece.at]);
            bytes.extend_from_slice(&piece.bytes[piece.range.clone()]);
            at = piece.at;
        }
        bytes.extend_from_slice(&self.buf[at..limit]);
        bytes.drain(..skip.min(bytes.len()));
        bytes
    }

    /// Takes `n` bytes as written.
    pub fn advance(&mut self, mut n: usize) {
        if let Some(shared) = &mut self.shared {
            while let Some(piece) = shared.pieces.front_mut() {
                let own = (piece.at - self.taken).min(n);
                self.taken += own;
                n -= own;
                if self.taken < piece.at {
                    return;
                }
                let part = piece.range.len().min(n);
                piece.range.start += part;
                shared.bytes -= part;
                n -= part;
                if !piece.range.is_empty() {
                    return;
                }
                shared.pieces.pop_front();
            }
            self.shared = None;
        }
        self.taken = (self.taken + n).min(self.buf.len());
    }

    /// The buffer to append whole packets to.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buf
    }

    /// Appends shared bytes.
    pub(super) fn push_shared(&mut self, bytes: Arc<[u8]>, range: Range<usize>) {
        let at = self.buf.len();
        let shared = self.shared.get_or_insert_default();
        shared.bytes += range.len();
        shared.pieces.push_back(Piece { at, bytes, range });
    }

    /// Memory of its own, used or not; what it shares with others is not counted.
    pub(super) fn held_bytes(&self) -> usize {
        self.buf.capacity()
    }

    /// Whether it has no buffer of its own to write into yet.
    pub(super) fn is_bare(&self) -> bool {
        self.buf.capacity() == 0
    }

    /// Gives it a buffer.
    pub(super) fn lend(&mut self, buf: Vec<u8>) {
        self.buf = buf;
        self.taken = 0;
    }

    /// Takes the buffer back once all is written; `None` while something waits.
    pub(super) fn reclaim(&mut self) -> Option<Vec<u8>> {
        if !self.is_empty() || self.is_bare() {
            return None;
        }
        // Nothing stands behind a hold, or it would wait: what is held back begins with the next buffer.
        self.holds.iter_mut().flat_map(|holds| &mut holds.list).for_each(|hold| hold.at = 0);
        self.taken = 0;
        let mut buf = std::mem::take(&mut self.buf);
        buf.clear();
        Some(buf)
    }

    /// Makes room by dropping what was taken, when that is most of the buffer.
    pub(super) fn compact(&mut self) {
        if self.shared.is_none() && self.taken > 64 << 10 && self.taken * 2 > self.buf.len() {
            self.buf.drain(..self.taken);
            self.holds.iter_mut().flat_map(|holds| &mut holds.list).for_each(|hold| hold.at -= self.taken);
            self.taken = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(out: &mut OutBuf, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !out.is_empty() {
            let mut slices = [IoSlice::new(&[]), IoSlice::new(&[]), IoSlice::new(&[])];
            let filled = out.fill_slices(&mut slices);
            assert_eq!(&*slices[0], out.first());
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|s| s.iter().copied()).collect();
            let taken = bytes.len().min(step);
            all.extend_from_slice(&bytes[..taken]);
            out.advance(taken);
        }
        all
    }

    #[test]
    fn pieces_come_out_in_order_whatever_the_socket_takes() {
        for step in [1, 2, 3, 7, 100] {
            let mut out = OutBuf::default();
            out.push_shared((*b"0123").into(), 1..3);
            out.buffer().extend_from_slice(b"abc");
            out.push_shared((*b"xyz").into(), 0..3);
            out.push_shared((*b"w").into(), 0..1);
            out.buffer().extend_from_slice(b"end");
            assert_eq!(out.len(), 12);
            assert_eq!(drained(&mut out, step), b"12abcxyzwend", "step {step}");
            assert!(out.reclaim().is_some());
        }
    }
    /// What was to stand behind the hold may not have been sent after all, or comes later.
    #[test]
    fn a_hold_with_nothing_behind_it_outlives_the_buffer() {
        let mut out = OutBuf::default();
        out.buffer().extend_from_slice(b"abc");
        assert!(out.hold(1, false));
        assert_eq!(out.first(), b"abc");
        out.advance(3);
        assert_eq!(out.reclaim(), Some(Vec::new()));
        assert_eq!((out.ready(), out.first()), (0, &b""[..]));
        out.lend(Vec::new());
        out.buffer().extend_from_slice(b"held");
        assert!(!out.hold(1, false));
        assert_eq!((out.ready(), out.first()), (0, &b""[..]));
        out.release(1, ProtocolVersion::V5);
        assert_eq!(drained(&mut out, 100), b"held");
    }
    fn acknowledgement(turn: u64, qos: QoS, id: u16) -> Acknowledgement {
        let packet_id = PacketId::new(id).unwrap_or(PacketId::MIN);
        Acknowledgement { turn, qos, packet_id, code: ReasonCode::Success }
    }

    #[test]
    fn an_acknowledgement_holds_back_nothing_else() {
        let mut out = OutBuf::default();
        assert!(out.acknowledge(acknowledgement(1, QoS::AtLeastOnce, 7)));
        assert!(!out.acknowledge(acknowledgement(1, QoS::ExactlyOnce, 8)));
        assert!(out.acknowledge(acknowledgement(2, QoS::AtLeastOnce, 9)));
        out.buffer().extend_from_slice(b"free");
        assert_eq!((out.first(), out.len()), (&b"free"[..], 16));
        out.release(1, ProtocolVersion::V5);
        assert_eq!(drained_ready(&mut out), [&b"free"[..], &[0x40, 2, 0, 7, 0x50, 2, 0, 8]].concat());
        assert_eq!(out.acknowledges(QoS::AtLeastOnce), Some(2));
        assert!(!out.is_empty());
        out.release(2, ProtocolVersion::V5);
        assert_eq!(drained_ready(&mut out), [0x40, 2, 0, 9]);
        assert!(out.is_empty() && out.holds.is_none());
    }

    #[test]
    fn what_does_not_wait_passes_what_is_held_back_but_not_connack() {
        for connack in [false, true] {
            let mut out = OutBuf::default();
            out.buffer().extend_from_slice(b"abc");
            out.hold(5, connack);
            out.buffer().extend_from_slice(b"held");
            out.push_shared((*b"piece").into(), 0..5);
            out.acknowledge(acknowledgement(4, QoS::AtLeastOnce, 7));
            let start = out.buffer().len();
            out.buffer().extend_from_slice(b"ping");
            out.pass(start);
            out.release(4, ProtocolVersion::V3_1_1);
            let passed = [&b"ping"[..], &[0x40, 2, 0, 7]].concat();
            if connack {
                assert_eq!(drained_ready(&mut out), b"abc");
                out.release(5, ProtocolVersion::V3_1_1);
                assert_eq!(drained_ready(&mut out), [b"heldpiece", &passed[..]].concat());
            } else {
                assert_eq!(drained_ready(&mut out), [b"abc", &passed[..]].concat());
                out.release(5, ProtocolVersion::V3_1_1);
                assert_eq!(drained_ready(&mut out), b"heldpiece");
            }
        }
    }

    #[test]
    fn what_is_refused_goes_out_and_qos_2_goes_on_waiting() {
        let mut out = OutBuf::default();
        out.hold(1, false);
        out.buffer().extend_from_slice(b"held");
        out.acknowledge(acknowledgement(1, QoS::AtLeastOnce, 7));
        out.acknowledge(acknowledgement(1, QoS::ExactlyOnce, 8));
        out.refuse(ReasonCode::QuotaExceeded);
        assert_eq!(drained_ready(&mut out), [0x40, 3, 0, 7, 0x97]);
        // What is told last comes last.
        out.line_up(ProtocolVersion::V5);
        out.buffer().extend_from_slice(b"end");
        out.release(1, ProtocolVersion::V5);
        assert_eq!(drained_ready(&mut out), [&b"held"[..], &[0x50, 2, 0, 8], b"end"].concat());
    }

    fn drained_ready(out: &mut OutBuf) -> Vec<u8> {
        let ready = out.ready_from(0);
        assert_eq!(ready.len(), out.ready());
        out.advance(ready.len());
        ready
    }
}
