//! Frames of a move of slots with their sessions: from the old owner, the mover, to the new one and to all other nodes, and
//! their answers. `number` is the mover's number of the move.

use super::field::{FieldError, Reader, Sink};

pub(super) const MOVE: u64 = 17;

const OFFER: u8 = 1;
const ACCEPTED: u8 = 2;
const REFUSED: u8 = 3;
const HOLD: u8 = 4;
const HELD: u8 = 5;
const CUT: u8 = 6;
const CUT_DONE: u8 = 7;
const DATA: u8 = 8;
const DATA_END: u8 = 9;
const IMPORTED: u8 = 10;
const RELEASE: u8 = 11;
const RELEASED: u8 = 12;
const ABANDONED: u8 = 13;
const QUERY: u8 = 14;

/// A step of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveStep {
    /// To the new owner: it is to get these slots, a bit each.
    Offer(u128),
    /// It takes them.
    Accepted,
    /// The receiver of a step does not do it: the move is abandoned.
    Refused,
    /// To all: begin nothing that would be delivered.
    Hold,
    /// All that the node has begun before has been processed everywhere.
    Held,
    /// To the new owner: stop applying the log of retained messages, behind that sequence or where it is.
    Cut(u64),
    /// It has applied the log up to there, and no further.
    CutDone(u64),
    /// A part of the copy, in the frame's bytes.
    Data,
    /// The copy is complete. The frame's bytes are the incarnations of the nodes that hold, in 8 bytes each, little-endian.
    DataEnd,
    /// So many sessions are imported, and every node knows their interest.
    Imported(u64),
    /// To all: the hold is over.
    Release,
    /// The answer: whether the node held until then.
    Released(bool),
    /// The move is abandoned.
    Abandoned,
    /// From the new owner, which has the copy: what has become of the move?
    Query,
    /// Of a newer version.
    Unknown,
}

/// A frame of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveFrame<'a> {
    /// The mover's number of the move.
    pub number: u64,
    /// What is done.
    pub step: MoveStep,
    /// Of [`MoveStep::Data`] and [`MoveStep::DataEnd`]; else empty.
    pub bytes: &'a [u8],
}

impl MoveFrame<'_> {
    pub(super) fn write_body(&self, out: &mut impl Sink) {
        let mut head = |step: u8| {
            out.byte(step);
            out.varint(self.number);
        };
        match self.step {
            MoveStep::Offer(slots) => {
                head(OFFER);
                out.varint(slots as u64);
                out.varint((slots >> 64) as u64);
            }
            MoveStep::Accepted => head(ACCEPTED),
            MoveStep::Refused => head(REFUSED),
            MoveStep::Hold => head(HOLD),
            MoveStep::Held => head(HELD),
            MoveStep::Cut(sequence) => {
                head(CUT);
                out.varint(sequence);
            }
            MoveStep::CutDone(sequence) => {
                head(CUT_DONE);
                out.varint(sequence);
            }
            MoveStep::Data => {
                head(DATA);
                out.bytes(self.bytes);
            }
            MoveStep::DataEnd => {
                head(DATA_END);
                out.bytes(self.bytes);
            }
            MoveStep::Imported(sessions) => {
                head(IMPORTED);
                out.varint(sessions);
            }
            MoveStep::Release => head(RELEASE),
            MoveStep::Released(has_held) => {
                head(RELEASED);
                out.byte(u8::from(has_held));
            }
            MoveStep::Abandoned => head(ABANDONED),
            MoveStep::Query => head(QUERY),
            MoveStep::Unknown => head(0),
        }
    }
}

pub(super) fn read_body<'a>(body: &mut Reader<'a>) -> Result<MoveFrame<'a>, FieldError> {
    let (step, number) = (body.byte("step")?, body.varint("move")?);
    let mut bytes = &[][..];
    let step = match step {
        OFFER => {
            let (low, high) = (body.varint("slots")?, body.varint("slots")?);
            MoveStep::Offer(u128::from(low) | u128::from(high) << 64)
        }
        ACCEPTED => MoveStep::Accepted,
        REFUSED => MoveStep::Refused,
        HOLD => MoveStep::Hold,
        HELD => MoveStep::Held,
        CUT => MoveStep::Cut(body.varint("sequence")?),
        CUT_DONE => MoveStep::CutDone(body.varint("sequence")?),
        DATA => {
            bytes = body.bytes("copy")?;
            MoveStep::Data
        }
        DATA_END => {
            bytes = body.bytes("nodes")?;
            MoveStep::DataEnd
        }
        IMPORTED => MoveStep::Imported(body.varint("sessions")?),
        RELEASE => MoveStep::Release,
        RELEASED => MoveStep::Released(body.byte("held")? != 0),
        ABANDONED => MoveStep::Abandoned,
        QUERY => MoveStep::Query,
        _ => MoveStep::Unknown,
    };
    Ok(MoveFrame { number, step, bytes })
}
