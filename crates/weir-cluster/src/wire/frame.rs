//! Frames: the messages in a link's byte stream. A frame is its kind, the length of its body, and the body; both numbers
//! are variable-length integers. What follows the known fields of a body is skipped.

use weir_broker::gateway::{PeerMessage, PeerPublish};
use weir_mqtt::ProtocolVersion;

use super::field::{FieldError, FieldProblem, Length, Reader, Sink};
use super::moves::{self, MoveFrame};
use super::relay::{self, RelayFrame};

const NAMESPACE: u64 = 1;
const ADD_INTEREST: u64 = 2;
const REMOVE_INTEREST: u64 = 3;
const GROUP: u64 = 4;
const SNAPSHOT_END: u64 = 5;
const PUBLISH: u64 = 6;
const GROUP_PUBLISH: u64 = 7;
const LOG_APPLIED: u64 = 8;
const CLIENT_CONNECTED: u64 = 9;
// 10 to 13 are those of relayed connections.
const CLIENT_WILL: u64 = 14;
const WILLS_END: u64 = 15;
const WILL_PUBLISHED: u64 = 16;
// 17 is that of moves.

const CLEAN_START: u8 = 1;

const HAS_WILL: u8 = 1;

/// A frame of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A message.
    Message(PeerMessage<'a>),
    /// Of a relayed connection.
    Relay(RelayFrame<'a>),
    /// Of a move of slots.
    Move(MoveFrame<'a>),
    /// A kind that this build does not know. It is skipped.
    Unknown {
        /// The kind's number.
        kind: u64,
    },
}

/// A frame that cannot be decoded. The rest of its stream cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Kind or length of the frame cannot be decoded.
    #[error("frame header: {0}")]
    Header(FieldError),
    /// The body is longer than allowed.
    #[error("frame of kind {kind} with {len} bytes: at most {max} are allowed")]
    TooLong {
        /// The kind's number.
        kind: u64,
        /// Bytes of the body.
        len: u64,
        /// Bytes that are allowed.
        max: usize,
    },
    /// A field of the body cannot be decoded.
    #[error("frame of kind {kind}: {error}")]
    Field {
        /// The kind's number.
        kind: u64,
        /// What is wrong.
        error: FieldError,
    },
}

/// Kind and lengths of a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameHeader {
    pub(crate) kind: u64,
    /// Bytes before the body.
    pub(crate) header: usize,
    /// Bytes of the body.
    pub(crate) body: usize,
}

impl FrameHeader {
    /// Whether this build knows the kind.
    pub(crate) const fn is_known(&self) -> bool {
        matches!(self.kind, NAMESPACE..=CLIENT_CONNECTED | relay::OPEN..=relay::CLOSE | CLIENT_WILL..=relay::END)
    }

    /// Whether it is a frame of a relayed connection, of which the gateway does not know.
    const fn is_relay(&self) -> bool {
        matches!(self.kind, relay::OPEN..=relay::CLOSE | relay::END)
    }

    /// Whether it is one of those that the gateway knows.
    pub(crate) const fn is_message(&self) -> bool {
        !self.is_relay() && self.kind != moves::MOVE
    }

    /// Bytes of the whole frame.
    pub(crate) const fn len(&self) -> usize {
        self.header + self.body
    }
}

/// Appends a frame. It allocates nothing but what `out` needs to grow.
#[inline]
pub fn encode_frame(message: &PeerMessage<'_>, out: &mut Vec<u8>) {
    let mut body = Length(0);
    write_body(message, &mut body);
    write_header(kind(message), body, out);
    write_body(message, out);
}

/// Appends a frame of a relayed connection, unless its body is longer than `max_body`: the peer would not take it.
#[inline]
pub fn encode_relay_frame(frame: &RelayFrame<'_>, max_body: usize, out: &mut Vec<u8>) -> bool {
    let mut body = Length(0);
    frame.write_body(&mut body);
    let fits = body.0 <= max_body;
    if fits {
        write_header(frame.kind(), body, out);
        frame.write_body(out);
    }
    fits
}

/// Appends a frame of a move, unless its body is longer than `max_body`.
pub fn encode_move_frame(frame: &MoveFrame<'_>, max_body: usize, out: &mut Vec<u8>) -> bool {
    let mut body = Length(0);
    frame.write_body(&mut body);
    let fits = body.0 <= max_body;
    if fits {
        write_header(moves::MOVE, body, out);
        frame.write_body(out);
    }
    fits
}

fn write_header(kind: u64, body: Length, out: &mut Vec<u8>) {
    out.reserve(body.0 + 11);
    out.varint(kind);
    out.varint(body.0 as u64);
}

const fn kind(message: &PeerMessage<'_>) -> u64 {
    match message {
        PeerMessage::Namespace { .. } => NAMESPACE,
        PeerMessage::AddInterest { .. } => ADD_INTEREST,
        PeerMessage::RemoveInterest { .. } => REMOVE_INTEREST,
        PeerMessage::Group { .. } => GROUP,
        PeerMessage::SnapshotEnd { .. } => SNAPSHOT_END,
        PeerMessage::Publish(_) => PUBLISH,
        PeerMessage::GroupPublish { .. } => GROUP_PUBLISH,
        PeerMessage::LogApplied { .. } => LOG_APPLIED,
        PeerMessage::ClientConnected { .. } => CLIENT_CONNECTED,
        PeerMessage::ClientWill { .. } => CLIENT_WILL,
        PeerMessage::WillsEnd => WILLS_END,
        PeerMessage::WillPublished { .. } => WILL_PUBLISHED,
    }
}

#[inline]
fn write_body(message: &PeerMessage<'_>, out: &mut impl Sink) {
    match message {
        PeerMessage::Namespace { id, name } => {
            out.varint(u64::from(*id));
            out.bytes(name.as_bytes());
        }
        PeerMessage::AddInterest { namespace, filter } | PeerMessage::RemoveInterest { namespace, filter } => {
            out.varint(u64::from(*namespace));
            out.bytes(filter.as_bytes());
        }
        PeerMessage::Group { namespace, group, filter, members, ready } => {
            out.varint(u64::from(*namespace));
            out.bytes(group.as_bytes());
            out.bytes(filter.as_bytes());
            out.varint(u64::from(*members));
            out.varint(u64::from(*ready));
        }
        PeerMessage::SnapshotEnd { stamp } => out.varint(*stamp),
        PeerMessage::WillsEnd => {}
        PeerMessage::LogApplied { sequence } => out.varint(*sequence),
        PeerMessage::ClientConnected { namespace, client_id, stamp, clean_start } => {
            out.byte(u8::from(*clean_start) * CLEAN_START);
            out.varint(u64::from(*namespace));
            out.bytes(client_id.as_bytes());
            out.varint(*stamp);
        }
        PeerMessage::ClientWill { namespace, client_id, stamp, will } => {
            out.byte(u8::from(will.is_some()) * HAS_WILL);
            out.varint(u64::from(*namespace));
            out.bytes(client_id.as_bytes());
            out.varint(*stamp);
            if let Some(will) = will {
                out.bytes(will);
            }
        }
        PeerMessage::WillPublished { namespace, client_id, stamp } => {
            out.varint(u64::from(*namespace));
            out.bytes(client_id.as_bytes());
            out.varint(*stamp);
        }
        PeerMessage::Publish(publish) => write_publish(publish, out),
        PeerMessage::GroupPublish { group, filter, publish } => {
            // Flags: none is defined.
            out.byte(0);
            out.bytes(group.as_bytes());
            out.bytes(filter.as_bytes());
            write_publish(publish, out);
        }
    }
}

#[inline]
fn write_publish(publish: &PeerPublish<'_>, out: &mut impl Sink) {
    out.varint(u64::from(publish.namespace));
    out.byte(publish.version as u8);
    out.varint(expiry_to_wire(publish.expires_in));
    out.bytes(publish.packet);
}

/// 0: the message does not expire.
pub(super) fn expiry_to_wire(expires_in: Option<u64>) -> u64 {
    expires_in.map_or(0, |ms| ms.saturating_add(1))
}

pub(super) fn expiry_from_wire(value: u64) -> Option<u64> {
    value.checked_sub(1)
}

pub(super) fn protocol_version(value: u8) -> Result<ProtocolVersion, FieldError> {
    match value {
        3 => Ok(ProtocolVersion::V3_1),
        4 => Ok(ProtocolVersion::V3_1_1),
        5 => Ok(ProtocolVersion::V5),
        other => Err(FieldProblem::Undefined(u64::from(other)).of("protocol version")),
    }
}

/// Decodes the first frame of `bytes`, and says how many bytes it takes. `None`: the frame has not arrived as a whole. A
/// body longer than `max_body` is an error as soon as its length is known.
pub fn decode_frame(bytes: &[u8], max_body: usize) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some(header) = frame_header(bytes, max_body)? else { return Ok(None) };
    let Some(body) = bytes.get(header.header..header.len()) else { return Ok(None) };
    if !header.is_known() {
        return Ok(Some((Frame::Unknown { kind: header.kind }, header.len())));
    }
    Ok(Some((decode_body(&header, body)?, header.len())))
}

/// The header of the first frame. `None`: it has not arrived as a whole.
#[inline]
pub(crate) fn frame_header(bytes: &[u8], max_body: usize) -> Result<Option<FrameHeader>, FrameError> {
    let mut reader = Reader(bytes);
    let mut number = |field| match reader.varint(field) {
        Ok(value) => Ok(Some((value, bytes.len() - reader.0.len()))),
        Err(FieldError { problem: FieldProblem::Truncated, .. }) => Ok(None),
        Err(error) => Err(FrameError::Header(error)),
    };
    let Some((kind, _)) = number("kind")? else { return Ok(None) };
    let Some((len, header)) = number("length")? else { return Ok(None) };
    match usize::try_from(len) {
        Ok(body) if body <= max_body => Ok(Some(FrameHeader { kind, header, body })),
        _ => Err(FrameError::TooLong { kind, len, max: max_body }),
    }
}

/// Decodes the body of a known kind.
#[inline]
pub(crate) fn decode_body<'a>(header: &FrameHeader, body: &'a [u8]) -> Result<Frame<'a>, FrameError> {
    let (kind, mut body) = (header.kind, Reader(body));
    let frame = if header.is_relay() {
        relay::read_body(kind, &mut body).map(Frame::Relay)
    } else if kind == moves::MOVE {
        moves::read_body(&mut body).map(Frame::Move)
    } else {
        read_body(kind, &mut body).map(Frame::Message)
    };
    frame.map_err(|error| FrameError::Field { kind, error })
}

#[inline]
fn read_body<'a>(kind: u64, body: &mut Reader<'a>) -> Result<PeerMessage<'a>, FieldError> {
    Ok(match kind {
        PUBLISH => PeerMessage::Publish(read_publish(body)?),
        GROUP_PUBLISH => {
            body.byte("flags")?;
            let (group, filter) = (body.text("group")?, body.text("filter")?);
            PeerMessage::GroupPublish { group, filter, publish: read_publish(body)? }
        }
        NAMESPACE => PeerMessage::Namespace { id: body.u32("namespace")?, name: body.text("name")? },
        ADD_INTEREST => PeerMessage::AddInterest { namespace: body.u32("namespace")?, filter: body.text("filter")? },
        REMOVE_INTEREST => {
            PeerMessage::RemoveInterest { namespace: body.u32("namespace")?, filter: body.text("filter")? }
        }
        GROUP => PeerMessage::Group {
            namespace: body.u32("namespace")?,
            group: body.text("group")?,
            filter: body.text("filter")?,
            members: body.u32("members")?,
            ready: body.u32("ready")?,
        },
        SNAPSHOT_END => {
            // Nodes before the field sent none.
            let stamp = if body.is_empty() { 0 } else { body.varint("stamp")? };
            PeerMessage::SnapshotEnd { stamp }
        }
        CLIENT_CONNECTED => {
            let clean_start = body.byte("flags")? & CLEAN_START != 0;
            let (namespace, client_id) = (body.u32("namespace")?, body.text("client id")?);
            PeerMessage::ClientConnected { namespace, client_id, stamp: body.varint("stamp")?, clean_start }
        }
        CLIENT_WILL => {
            let has_will = body.byte("flags")? & HAS_WILL != 0;
            let (namespace, client_id, stamp) =
                (body.u32("namespace")?, body.text("client id")?, body.varint("stamp")?);
            let will = if has_will { Some(body.bytes("will")?) } else { None };
            PeerMessage::ClientWill { namespace, client_id, stamp, will }
        }
        WILLS_END => PeerMessage::WillsEnd,
        WILL_PUBLISHED => PeerMessage::WillPublished {
            namespace: body.u32("namespace")?,
            client_id: body.text("client id")?,
            stamp: body.varint("stamp")?,
        },
        LOG_APPLIED => PeerMessage::LogApplied { sequence: body.varint("sequence")? },
        other => return Err(FieldProblem::Undefined(other).of("kind")),
    })
}

#[inline]
fn read_publish<'a>(body: &mut Reader<'a>) -> Result<PeerPublish<'a>, FieldError> {
    Ok(PeerPublish {
        namespace: body.u32("namespace")?,
        version: protocol_version(body.byte("protocol version")?)?,
        expires_in: expiry_from_wire(body.varint("expiry")?),
        packet: body.bytes("packet")?,
    })
}
