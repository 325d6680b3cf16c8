//! Bytes to packets: strict, borrowing, without an allocation for anything but CONNECT and CONNACK (which are boxed).

mod acks;
mod connect;
mod properties;
mod publish;
mod reader;
mod subscribe;

use reader::{Reader, varint};

use super::rule::{self, Broken};
use super::{Connect, DecodeError, Packet, ProtocolVersion};

/// Who sent what is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The sender is a client.
    Client,
    /// The sender is a server.
    Server,
}

/// What the decoder must know about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeContext {
    /// As CONNECT said. A CONNECT is decoded as the version it names itself.
    pub version: ProtocolVersion,
    /// Bytes of the largest packet taken, fixed header and all.
    pub max_packet_size: u32,
    /// Who sent the bytes.
    pub from: Side,
}

/// What came of decoding.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded<P> {
    /// A whole packet, and how many bytes it took.
    /// A packet of `len` bytes.
    Packet {
        /// The packet.
        packet: P,
        /// Its length, bytes.
        len: usize,
    },
    /// More bytes are needed: `needs` in all, where the fixed header is complete.
    /// The bytes are the beginning of a packet that has at least `needs` bytes; `None`: the fixed header is incomplete.
    Incomplete {
        /// `None`: the length is not known yet.
        needs: Option<usize>,
    },
}

/// Decodes the first packet of `bytes`.
///
/// A wrong type, wrong flags, a remaining length that is no integer or is too large are refused as soon as their bytes
/// are there; nothing waits for the body. (The flags of a CONNECT are judged with its protocol name and level.) What is refused closes the connection; `DecodeError` says with which words.
#[inline]
pub fn decode<'a>(bytes: &'a [u8], context: &DecodeContext) -> Result<Decoded<Packet<'a>>, DecodeError> {
    let frame = match frame(bytes, Some(context.version), context.from, context.max_packet_size) {
        Ok(Framed::Whole(frame)) => frame,
        Ok(Framed::Partial { needs }) => return Ok(Decoded::Incomplete { needs }),
        Err(broken) => return Err(broken.error(context.version)),
    };
    let packet = if frame.packet_type == PUBLISH {
        publish::publish(&frame, context.version, context.from).map(Packet::Publish)
    } else if frame.packet_type == CONNECT {
        return connect::connect(frame.body)
            .map(|connect| Decoded::Packet { packet: Packet::Connect(Box::new(connect)), len: frame.len });
    } else {
        other(&frame, context.version, context.from)
    };
    match packet {
        Ok(packet) => Ok(Decoded::Packet { packet, len: frame.len }),
        Err(broken) => Err(broken.error(context.version)),
    }
}

/// Decodes a connection's first packet, which must be a CONNECT [MQTT-3.1.0-1].
///
/// `max_packet_size` is in bytes, fixed header and all. An error's `refusal` is the CONNACK to send before the close.
pub fn decode_connect(bytes: &[u8], max_packet_size: u32) -> Result<Decoded<Connect<'_>>, DecodeError> {
    match bytes.first() {
        Some(first) if first >> 4 != CONNECT => Err(rule::FIRST_NOT_CONNECT.error(ProtocolVersion::V5)),
        _ => match frame(bytes, None, Side::Client, max_packet_size) {
            Ok(Framed::Whole(frame)) => {
                connect::connect(frame.body).map(|packet| Decoded::Packet { packet, len: frame.len })
            }
            Ok(Framed::Partial { needs }) => Ok(Decoded::Incomplete { needs }),
            Err(broken) => Err(connect::refuse(broken, bytes)),
        },
    }
}

const CONNECT: u8 = 1;
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const SUBSCRIBE: u8 = 8;
const SUBACK: u8 = 9;
const UNSUBSCRIBE: u8 = 10;
const UNSUBACK: u8 = 11;
const PINGREQ: u8 = 12;
const PINGRESP: u8 = 13;
const DISCONNECT: u8 = 14;
const AUTH: u8 = 15;

/// A packet whose fixed header is right and whose body is all there.
struct Frame<'a> {
    packet_type: u8,
    flags: u8,
    body: &'a [u8],
    /// Bytes of the whole packet.
    len: usize,
}

enum Framed<'a> {
    Whole(Frame<'a>),
    Partial { needs: Option<usize> },
}

#[inline]
fn frame(
    bytes: &[u8],
    version: Option<ProtocolVersion>,
    from: Side,
    max_packet_size: u32,
) -> Result<Framed<'_>, Broken> {
    let Some((&first, after)) = bytes.split_first() else { return Ok(Framed::Partial { needs: None }) };
    let (packet_type, flags) = (first >> 4, first & 0x0F);
    check_first_byte(bytes, packet_type, flags, version, from)?;
    let Some((remaining, varint_len)) = varint(after)? else { return Ok(Framed::Partial { needs: None }) };
    let header_len = 1 + varint_len;
    let len = header_len + remaining as usize;
    if len > max_packet_size as usize {
        return Err(&rule::TOO_LARGE);
    }
    match bytes.get(header_len..len) {
        Some(body) => Ok(Framed::Whole(Frame { packet_type, flags, body, len })),
        None => Ok(Framed::Partial { needs: Some(len) }),
    }
}

/// The packet type, whether this side sends it, and the flags [MQTT-2.1.3-1]. `bytes` is what has been read of the packet.
#[inline]
fn check_first_byte(
    bytes: &[u8],
    packet_type: u8,
    flags: u8,
    version: Option<ProtocolVersion>,
    from: Side,
) -> Result<(), Broken> {
    if packet_type == PUBLISH {
        return match flags >> 1 & 0b11 {
            0b11 => Err(&rule::QOS_3),
            0 if flags & 0b1000 != 0 => Err(&rule::DUP_AT_QOS_0),
            _ => Ok(()),
        };
    }
    let by_client = match packet_type {
        0 => return Err(&rule::PACKET_TYPE_ZERO),
        AUTH if version != Some(ProtocolVersion::V5) => return Err(&rule::PACKET_TYPE_AUTH),
        CONNECT | SUBSCRIBE | UNSUBSCRIBE | PINGREQ => Some(true),
        CONNACK | SUBACK | UNSUBACK | PINGRESP => Some(false),
        // only 5.0's server has a DISCONNECT
        DISCONNECT if version != Some(ProtocolVersion::V5) => Some(true),
        _ => None,
    };
    match (from, by_client) {
        (Side::Client, Some(false)) => return Err(&rule::NOT_FROM_CLIENT),
        (Side::Server, Some(true)) => return Err(&rule::NOT_FROM_SERVER),
        _ => {}
    }
    let (wanted, broken) = match packet_type {
        PUBREL => (0b0010, &rule::FLAGS_PUBREL),
        SUBSCRIBE => (0b0010, &rule::FLAGS_SUBSCRIBE),
        UNSUBSCRIBE => (0b0010, &rule::FLAGS_UNSUBSCRIBE),
        DISCONNECT => (0, &rule::FLAGS_DISCONNECT),
        AUTH => (0, &rule::FLAGS_AUTH),
        _ => (0, &rule::FLAGS),
    };
    if flags == wanted {
        return Ok(());
    }
    let v3_1 = match packet_type {
        CONNECT => connect::may_be_v3_1(bytes),
        _ => version == Some(ProtocolVersion::V3_1),
    };
    // MQTT 3.1 sends PUBREL, SUBSCRIBE and UNSUBSCRIBE at QoS 1, again with DUP where they are repeated, and does not use
    // RETAIN. In all other packets it uses none of the flags.
    let unused = if wanted == 0 { 0b1111 } else { 0b1001 };
    if v3_1 && flags & !unused == wanted { Ok(()) } else { Err(broken) }
}

/// Everything but PUBLISH and CONNECT.
fn other<'a>(frame: &Frame<'a>, version: ProtocolVersion, from: Side) -> Result<Packet<'a>, Broken> {
    let reader = Reader::new(frame.body);
    match frame.packet_type {
        CONNACK => connect::connack(reader, version).map(|connack| Packet::ConnAck(Box::new(connack))),
        PUBACK => acks::ack(reader, version, acks::PUBACK).map(Packet::PubAck),
        PUBREC => acks::ack(reader, version, acks::PUBREC).map(Packet::PubRec),
        PUBREL => acks::ack(reader, version, acks::PUBREL).map(Packet::PubRel),
        PUBCOMP => acks::ack(reader, version, acks::PUBCOMP).map(Packet::PubComp),
        SUBSCRIBE => subscribe::subscribe(reader, version).map(Packet::Subscribe),
        SUBACK => acks::suback(reader, version).map(Packet::SubAck),
        UNSUBSCRIBE => subscribe::unsubscribe(reader, version).map(Packet::Unsubscribe),
        UNSUBACK => acks::unsuback(reader, version).map(Packet::UnsubAck),
        PINGREQ => reader.end().map(|()| Packet::PingReq),
        PINGRESP => reader.end().map(|()| Packet::PingResp),
        DISCONNECT => acks::disconnect(reader, version, from).map(Packet::Disconnect),
        AUTH => acks::auth(reader, from).map(Packet::Auth),
        _ => Err(&rule::PACKET_TYPE_ZERO),
    }
}
