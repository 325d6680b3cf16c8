//! The output of a connection.

mod gates;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use self::gates::Gates;

pub(crate) use self::gates::Acknowledgement;

/// Bytes of an acknowledgement, without and with a reason.
pub(crate) const ACKNOWLEDGEMENT_BYTES: u32 = 4;
pub(crate) const REFUSAL_BYTES: u32 = 5;

/// Bytes for one connection's socket, in order: small packets run together in one buffer, large payloads are shared.
#[derive(Debug, Default)]
pub struct OutBuf {
    buf: Vec<u8>,
    /// Bytes of `buf` taken.
    written: usize,
    /// Shared pieces that go between the bytes of `buf`, in order.
    shared: Option<Box<SharedPieces>>,
    /// From where on bytes are gated, and until which epoch is settled; both grow.
    gates: Option<Box<Gates>>,
}

#[derive(Debug, Default)]
struct SharedPieces {
    pieces: VecDeque<Piece>,
    bytes: usize,
    memory_bytes: usize,
}

#[derive(Debug)]
struct Piece {
    /// The piece goes before this index of `buf`.
    at: usize,
    bytes: Arc<[u8]>,
    range: Range<usize>,
    /// This buffer's part of the bytes.
    memory_bytes: usize,
}

impl OutBuf {
    /// Bytes not yet taken.
    pub fn len(&self) -> usize {
        let acknowledgements = self.gates.as_ref().map_or(0, |gates| gates.acknowledgements.len());
        let shared = self.shared.as_ref().map_or(0, |s| s.bytes);
        self.buf.len() - self.written + shared + acknowledgements * ACKNOWLEDGEMENT_BYTES as usize
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that may be written now.
    pub fn ready(&self) -> usize {
        let limit = self.limit();
        let pieces = self.shared.iter().flat_map(|shared| &shared.pieces).take_while(|piece| piece.at <= limit);
        limit - self.written + pieces.map(|piece| piece.range.len()).sum::<usize>()
    }

    /// End of the writable part of `buf`. A shared piece belongs to the part before it.
    fn limit(&self) -> usize {
        self.gates.as_ref().and_then(|gates| gates.list.front()).map_or(self.buf.len(), |gate| gate.at)
    }

    /// Where the next packet will be appended.
    pub(crate) fn end(&self) -> usize {
        self.buf.len()
    }

    /// Fills `slices` with what may be written, from the front; returns how many it filled (0: nothing does).
    pub fn fill_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let limit = self.limit();
        let Some(shared) = &self.shared else {
            return match (slices.first_mut(), self.written < limit) {
                (Some(slot), true) => {
                    *slot = IoSlice::new(&self.buf[self.written..limit]);
                    1
                }
                _ => 0,
            };
        };
        let mut at = self.written;
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
            Some(piece) if piece.at == self.written => &piece.bytes[piece.range.clone()],
            _ => &self.buf[self.written..self.written + length],
        }
    }

    /// A copy of what may be written now, behind the first `skip` bytes.
    pub fn ready_from(&self, skip: usize) -> Vec<u8> {
        let limit = self.limit();
        let (mut at, mut bytes) = (self.written, Vec::with_capacity(self.ready()));
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
                let own = (piece.at - self.written).min(n);
                self.written += own;
                n -= own;
                if self.written < piece.at {
                    return;
                }
                let part = piece.range.len().min(n);
                piece.range.start += part;
                shared.bytes -= part;
                n -= part;
                if !piece.range.is_empty() {
                    return;
                }
                shared.memory_bytes -= piece.memory_bytes;
                shared.pieces.pop_front();
            }
            self.shared = None;
        }
        self.written = (self.written + n).min(self.buf.len());
    }

    /// Drops what was not taken, with the acknowledgements that wait. The rest of a packet that was taken in part goes, too.
    pub(crate) fn discard(&mut self) {
        *self = Self::default();
    }

    /// The buffer to append whole packets to.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buf
    }

    /// Appends bytes that about `sharers` buffers share.
    pub(crate) fn push_shared(&mut self, bytes: Arc<[u8]>, range: Range<usize>, sharers: usize) {
        let at = self.buf.len();
        let shared = self.shared.get_or_insert_default();
        shared.bytes += range.len();
        let memory_bytes = size_of::<Piece>() + range.len() / sharers.max(1);
        shared.memory_bytes += memory_bytes;
        shared.pieces.push_back(Piece { at, bytes, range, memory_bytes });
    }

    /// Memory of its own, used or not, and its part of what it shares with others.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.buf.capacity() + self.shared.as_ref().map_or(0, |shared| shared.memory_bytes)
    }

    /// Whether it has no buffer of its own to write into yet.
    pub(crate) fn has_no_buffer(&self) -> bool {
        self.buf.capacity() == 0
    }

    /// Gives it a buffer.
    pub(crate) fn set_buffer(&mut self, buf: Vec<u8>) {
        self.buf = buf;
        self.written = 0;
    }

    /// Takes the buffer back once all is written; `None` while something waits.
    pub(crate) fn reclaim(&mut self) -> Option<Vec<u8>> {
        if !self.is_empty() || self.has_no_buffer() {
            return None;
        }
        // No output is behind a gate, or it would wait: gated output begins with the next buffer.
        self.gates.iter_mut().flat_map(|gates| &mut gates.list).for_each(|gate| gate.at = 0);
        self.written = 0;
        let mut buf = std::mem::take(&mut self.buf);
        buf.clear();
        Some(buf)
    }

    /// Makes room by dropping what was taken, when that is most of the buffer.
    pub(crate) fn compact(&mut self) {
        if self.shared.is_none() && self.written > 64 << 10 && self.written * 2 > self.buf.len() {
            self.buf.drain(..self.written);
            self.gates.iter_mut().flat_map(|gates| &mut gates.list).for_each(|gate| gate.at -= self.written);
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_mqtt::{PacketId, ProtocolVersion, QoS, ReasonCode};

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
            out.push_shared((*b"0123").into(), 1..3, 1);
            out.buffer().extend_from_slice(b"abc");
            out.push_shared((*b"xyz").into(), 0..3, 1);
            out.push_shared((*b"w").into(), 0..1, 1);
            out.buffer().extend_from_slice(b"end");
            assert_eq!(out.len(), 12);
            assert_eq!(drained(&mut out, step), b"12abcxyzwend", "step {step}");
            assert!(out.reclaim().is_some());
        }
    }
    /// The gated output may not have been appended after all, or follows later.
    #[test]
    fn a_gate_with_nothing_behind_it_outlives_the_buffer() {
        let mut out = OutBuf::default();
        out.buffer().extend_from_slice(b"abc");
        assert!(out.gate(1, false));
        assert_eq!(out.first(), b"abc");
        out.advance(3);
        assert_eq!(out.reclaim(), Some(Vec::new()));
        assert_eq!((out.ready(), out.first()), (0, &b""[..]));
        out.set_buffer(Vec::new());
        out.buffer().extend_from_slice(b"wait");
        assert!(!out.gate(1, false));
        assert_eq!((out.ready(), out.first()), (0, &b""[..]));
        out.release(1, ProtocolVersion::V5);
        assert_eq!(drained(&mut out, 100), b"wait");
    }

    fn acknowledgement(epoch: u64, qos: QoS, id: u16) -> Acknowledgement {
        let packet_id = PacketId::new(id).unwrap_or(PacketId::MIN);
        Acknowledgement { epoch, qos, packet_id, code: ReasonCode::Success }
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
        assert_eq!(drained_ready(&mut out), [&b"free"[..], &[0x50, 2, 0, 8, 0x40, 2, 0, 7]].concat());
        assert_eq!(out.acknowledges(QoS::AtLeastOnce), Some(2));
        assert!(!out.is_empty());
        out.release(2, ProtocolVersion::V5);
        assert_eq!(drained_ready(&mut out), [0x40, 2, 0, 9]);
        assert!(out.is_empty() && out.gates.is_none());
    }

    #[test]
    fn bytes_that_do_not_wait_go_out_before_gated_ones_but_not_before_connack() {
        for connack in [false, true] {
            let mut out = OutBuf::default();
            out.buffer().extend_from_slice(b"abc");
            out.gate(5, connack);
            out.buffer().extend_from_slice(b"wait");
            out.push_shared((*b"piece").into(), 0..5, 1);
            out.acknowledge(acknowledgement(4, QoS::AtLeastOnce, 7));
            let start = out.buffer().len();
            out.buffer().extend_from_slice(b"ping");
            out.move_before_gates(start, usize::MAX);
            out.release(4, ProtocolVersion::V3_1_1);
            let passed = [&b"ping"[..], &[0x40, 2, 0, 7]].concat();
            if connack {
                assert_eq!(drained_ready(&mut out), b"abc");
                out.release(5, ProtocolVersion::V3_1_1);
                assert_eq!(drained_ready(&mut out), [b"waitpiece", &passed[..]].concat());
            } else {
                assert_eq!(drained_ready(&mut out), [b"abc", &passed[..]].concat());
                out.release(5, ProtocolVersion::V3_1_1);
                assert_eq!(drained_ready(&mut out), b"waitpiece");
            }
        }
    }

    #[test]
    fn a_pubrec_goes_out_before_the_gated_message_and_a_puback_after_it() {
        let mut out = OutBuf::default();
        out.buffer().extend_from_slice(b"abc");
        let start = out.end();
        out.buffer().extend_from_slice(b"head");
        out.push_shared((*b"payload").into(), 0..7, 1);
        out.acknowledge(acknowledgement(2, QoS::AtLeastOnce, 7));
        out.acknowledge(acknowledgement(2, QoS::ExactlyOnce, 8));
        out.gate_from(start, 2);
        out.gate_from(out.end(), 2);
        assert_eq!(drained_ready(&mut out), b"abc");
        out.release(2, ProtocolVersion::V3_1_1);
        let expected = [&[0x50, 2, 0, 8][..], b"headpayload", &[0x40, 2, 0, 7]].concat();
        assert_eq!(drained_ready(&mut out), expected);
        assert!(out.is_empty() && out.gates.is_none());
    }

    #[test]
    fn what_is_moved_goes_before_a_position_and_before_gates_but_not_before_connack() {
        for (gate, expected) in [(None, "abcPUBRECown"), (Some(false), "abcPUBREC"), (Some(true), "abc")] {
            let mut out = OutBuf::default();
            out.buffer().extend_from_slice(b"abc");
            if let Some(is_connack) = gate {
                out.gate(1, is_connack);
                out.buffer().extend_from_slice(b"gated");
            }
            let before = out.end();
            out.buffer().extend_from_slice(b"own");
            let start = out.end();
            out.buffer().extend_from_slice(b"PUBREC");
            out.move_before_gates(start, before);
            assert_eq!(drained_ready(&mut out), expected.as_bytes());
            out.release(1, ProtocolVersion::V3_1_1);
            let rest = match gate {
                None => "",
                Some(false) => "gatedown",
                Some(true) => "gatedPUBRECown",
            };
            assert_eq!(drained_ready(&mut out), rest.as_bytes());
        }
    }

    #[test]
    fn refused_qos_1_goes_out_and_qos_2_goes_on_waiting() {
        let mut out = OutBuf::default();
        out.gate(1, false);
        out.buffer().extend_from_slice(b"wait");
        out.acknowledge(acknowledgement(1, QoS::AtLeastOnce, 7));
        out.acknowledge(acknowledgement(1, QoS::ExactlyOnce, 8));
        out.refuse(ReasonCode::QuotaExceeded);
        assert_eq!(drained_ready(&mut out), [0x40, 3, 0, 7, 0x97]);
        // DISCONNECT comes last.
        out.append_acknowledgements(ProtocolVersion::V5);
        out.buffer().extend_from_slice(b"end");
        out.release(1, ProtocolVersion::V5);
        assert_eq!(drained_ready(&mut out), [&b"wait"[..], &[0x50, 2, 0, 8], b"end"].concat());
    }

    fn drained_ready(out: &mut OutBuf) -> Vec<u8> {
        let ready = out.ready_from(0);
        assert_eq!(ready.len(), out.ready());
        out.advance(ready.len());
        ready
    }
}
