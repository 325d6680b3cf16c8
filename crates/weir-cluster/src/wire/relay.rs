//! Frames of relayed connections: the bytes of a client whose session is at another node than its socket.

use super::field::{FieldError, FieldProblem, Reader, Sink};

pub(super) const OPEN: u64 = 10;
pub(super) const DATA: u64 = 11;
pub(super) const CREDIT: u64 = 12;
pub(super) const CLOSE: u64 = 13;
pub(super) const END: u64 = 18;

const FROM_OPENER: u8 = 1;
/// Of an end.
const REVOKES: u8 = 2;

/// A frame of a relayed connection. `relay` is the number that the node with the socket, the opener, gave it: unique among
/// those that it opened to this peer. `from_opener` says which of the two nodes sent the frame, as both number their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayFrame<'a> {
    /// A client has connected to the sender, and its session is in a slot of the receiver.
    Open {
        /// The connection.
        relay: u64,
        /// The slot for which the sender takes the receiver as the owner.
        slot: u16,
        /// What the sender has found out about the client. This crate does not read it.
        admission: &'a [u8],
    },
    /// Bytes of the connection.
    Data {
        /// The connection.
        relay: u64,
        /// Whether the sender has the socket.
        from_opener: bool,
        /// At least one byte, in the order of the stream.
        bytes: &'a [u8],
    },
    /// The sender has taken so many more bytes, which the receiver may send.
    Credit {
        /// The connection.
        relay: u64,
        /// Whether the sender has the socket.
        from_opener: bool,
        /// Bytes.
        bytes: u32,
    },
    /// The opener asks the owner to disconnect the client. An owner that does not know the frame skips it.
    End {
        /// The connection.
        relay: u64,
        /// Reason code of DISCONNECT.
        code: u8,
        /// How long what is in flight may be acknowledged, milliseconds.
        within_ms: u32,
        /// The client has lost its right to be connected: its will is not published.
        revokes: bool,
        /// Server reference, UTF-8; empty: none.
        reference: &'a [u8],
    },
    /// The connection has ended. Nothing follows of it.
    Close {
        /// The connection.
        relay: u64,
        /// Whether the sender has the socket.
        from_opener: bool,
        /// Why.
        reason: RelayClose,
    },
}

/// Why a relayed connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayClose {
    /// The socket or the session's side closed it.
    Ended,
    /// The node does not own the slot: the opener looks again for the owner. Nothing was done with the connection.
    NotOwner,
    /// The node does not accept the connection.
    Refused,
    /// The node has as many connections as it may have.
    Full,
}

impl RelayClose {
    const fn to_wire(self) -> u8 {
        match self {
            Self::Ended => 0,
            Self::NotOwner => 1,
            Self::Refused => 2,
            Self::Full => 3,
        }
    }

    /// A reason of a newer version ends the connection.
    const fn from_wire(value: u8) -> Self {
        match value {
            1 => Self::NotOwner,
            2 => Self::Refused,
            3 => Self::Full,
            _ => Self::Ended,
        }
    }
}

impl RelayFrame<'_> {
    /// The number of the connection.
    pub const fn relay(&self) -> u64 {
        match self {
            Self::Open { relay, .. }
            | Self::Data { relay, .. }
            | Self::Credit { relay, .. }
            | Self::End { relay, .. }
            | Self::Close { relay, .. } => *relay,
        }
    }

    pub(super) const fn kind(&self) -> u64 {
        match self {
            Self::Open { .. } => OPEN,
            Self::Data { .. } => DATA,
            Self::Credit { .. } => CREDIT,
            Self::Close { .. } => CLOSE,
            Self::End { .. } => END,
        }
    }

    #[inline]
    pub(super) fn write_body(&self, out: &mut impl Sink) {
        let flags = |from_opener: bool| u8::from(from_opener) * FROM_OPENER;
        match *self {
            Self::Open { relay, slot, admission } => {
                out.varint(relay);
                out.varint(u64::from(slot));
                out.bytes(admission);
            }
            Self::Data { relay, from_opener, bytes } => {
                out.byte(flags(from_opener));
                out.varint(relay);
                out.bytes(bytes);
            }
            Self::Credit { relay, from_opener, bytes } => {
                out.byte(flags(from_opener));
                out.varint(relay);
                out.varint(u64::from(bytes));
            }
            Self::End { relay, code, within_ms, revokes, reference } => {
                out.byte(FROM_OPENER | (u8::from(revokes) * REVOKES));
                out.varint(relay);
                out.byte(code);
                out.varint(u64::from(within_ms));
                out.bytes(reference);
            }
            Self::Close { relay, from_opener, reason } => {
                out.byte(flags(from_opener));
                out.varint(relay);
                out.byte(reason.to_wire());
            }
        }
    }
}

#[inline]
pub(super) fn read_body<'a>(kind: u64, body: &mut Reader<'a>) -> Result<RelayFrame<'a>, FieldError> {
    if kind == OPEN {
        let (relay, slot) = (body.varint("relay")?, body.varint("slot")?);
        let slot = u16::try_from(slot).map_err(|_| FieldProblem::TooLarge.of("slot"))?;
        return Ok(RelayFrame::Open { relay, slot, admission: body.bytes("admission")? });
    }
    let flags = body.byte("flags")?;
    let from_opener = flags & FROM_OPENER != 0;
    let relay = body.varint("relay")?;
    Ok(match kind {
        DATA => RelayFrame::Data { relay, from_opener, bytes: body.bytes("bytes")? },
        CREDIT => RelayFrame::Credit { relay, from_opener, bytes: body.u32("bytes")? },
        CLOSE => RelayFrame::Close { relay, from_opener, reason: RelayClose::from_wire(body.byte("reason")?) },
        END => RelayFrame::End {
            relay,
            code: body.byte("code")?,
            within_ms: body.u32("within")?,
            revokes: flags & REVOKES != 0,
            reference: body.bytes("reference")?,
        },
        other => return Err(FieldProblem::Undefined(other).of("kind")),
    })
}
