//! What waits to be written to a connection.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

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
}

#[derive(Debug)]
struct Hold {
    /// What of `buf` is at or behind this index waits.
    at: usize,
    turn: u64,
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
        self.buf.len() - self.taken + self.shared.as_ref().map_or(0, |s| s.bytes)
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

    /// What is appended from now on waits until turn `turn` is settled. `false`: it waits for that already.
    pub(super) fn hold(&mut self, turn: u64) -> bool {
        let (at, holds) = (self.buf.len(), &mut self.holds.get_or_insert_default().list);
        if holds.back().is_some_and(|hold| hold.turn >= turn) {
            return false;
        }
        holds.push_back(Hold { at, turn });
        true
    }

    /// Every turn up to `turn` is settled.
    pub(super) fn release(&mut self, turn: u64) {
        let Some(holds) = &mut self.holds else { return };
        while holds.list.front().is_some_and(|hold| hold.turn <= turn) {
            holds.list.pop_front();
        }
        if holds.list.is_empty() {
            self.holds = None;
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

    /// A copy of what waits behind the first `skip` bytes.
    pub fn to_vec_from(&self, skip: usize) -> Vec<u8> {
        let (mut at, mut bytes) = (self.taken, Vec::with_capacity(self.len()));
        for piece in self.shared.iter().flat_map(|shared| &shared.pieces) {
            bytes.extend_from_slice(&self.buf[at..piece.at]);
            bytes.extend_from_slice(&piece.bytes[piece.range.clone()]);
            at = piece.at;
        }
        bytes.extend_from_slice(&self.buf[at..]);
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
        assert!(out.hold(1));
        assert_eq!(out.first(), b"abc");
        out.advance(3);
        assert_eq!(out.reclaim(), Some(Vec::new()));
        assert_eq!((out.ready(), out.first()), (0, &b""[..]));
        out.lend(Vec::new());
        out.buffer().extend_from_slice(b"held");
        assert!(!out.hold(1));
        assert_eq!((out.ready(), out.first()), (0, &b""[..]));
        out.release(1);
        assert_eq!(drained(&mut out, 100), b"held");
    }
}
