//! As much of MQTT as a load generator needs: prebuilt packets out, frames and deliveries in.
//!
//! Written apart from the broker's own codec, so that a fault in that one cannot hide here.

use anyhow::{Context, Result, bail, ensure};

/// The protocol a row speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V3_1_1,
    V5,
}

pub const CONNACK: u8 = 2;
pub const PUBLISH: u8 = 3;
pub const PUBACK: u8 = 4;
pub const PUBREC: u8 = 5;
pub const PUBREL: u8 = 6;
pub const PUBCOMP: u8 = 7;
pub const SUBACK: u8 = 9;
pub const UNSUBACK: u8 = 11;

/// The stamp at the head of every payload: stream (u32), sequence number (u32), send time (u64 ns).
pub const STAMP_BYTES: usize = 16;

/// One control packet, header parsed.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    pub first: u8,
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// The packet type, bits 7 to 4 of the first byte.
    pub fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// The packet identifier of an acknowledgement.
    pub fn packet_id(&self) -> Result<u16> {
        u16_at(self.body, 0)
    }
}

/// Splits the first frame off `buf`: the frame and its whole length, or `None` where it is incomplete.
pub fn split_frame(buf: &[u8]) -> Result<Option<(Frame<'_>, usize)>> {
    let Some(&first) = buf.first() else { return Ok(None) };
    let Some((remaining, width)) = varint(&buf[1..])? else { return Ok(None) };
    let head = 1 + width;
    let Some(body) = buf.get(head..head + remaining) else { return Ok(None) };
    Ok(Some((Frame { first, body }, head + remaining)))
}

fn varint(buf: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut value = 0usize;
    for (index, &byte) in buf.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    ensure!(buf.len() < 4, "the broker sent a malformed length");
    Ok(None)
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn u16_at(buf: &[u8], at: usize) -> Result<u16> {
    let bytes = buf.get(at..at + 2).context("the broker sent a packet that is too short")?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 5);
    out.push(first);
    put_varint(&mut out, body.len());
    out.extend_from_slice(body);
    out
}

/// CONNECT with a clean session and no keep-alive. For 5.0: receive maximum at its largest, eight topic aliases.
pub fn connect(version: Version, client_id: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(32 + client_id.len());
    put_str(&mut body, "MQTT");
    body.push(if version == Version::V5 { 5 } else { 4 });
    body.push(0b10);
    body.extend_from_slice(&0u16.to_be_bytes());
    if version == Version::V5 {
        body.extend_from_slice(&[6, 0x21, 0xff, 0xff, 0x22, 0, 8]);
    }
    put_str(&mut body, client_id);
    packet(0x10, &body)
}

/// CONNECT of a 3.1.1 client whose session outlives its connection.
pub fn connect_durable(client_id: &str) -> Vec<u8> {
    let mut packet = connect(Version::V3_1_1, client_id);
    let flags = packet.len() - client_id.len() - 2 - 2 - 1;
    packet[flags] = 0;
    packet
}

/// SUBSCRIBE to `filters` at `qos`.
pub fn subscribe<S: AsRef<str>>(version: Version, packet_id: u16, filters: &[S], qos: u8) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        put_str(&mut body, filter.as_ref());
        body.push(qos);
    }
    packet(0x82, &body)
}

/// UNSUBSCRIBE, 3.1.1.
pub fn unsubscribe(packet_id: u16, filter: &str) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    put_str(&mut body, filter);
    packet(0xa2, &body)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (`kind`) with success, in the short form both versions share.
pub fn ack(kind: u8, packet_id: u16) -> [u8; 4] {
    let flags = if kind == PUBREL { 0b10 } else { 0 };
    let [high, low] = packet_id.to_be_bytes();
    [kind << 4 | flags, 2, high, low]
}

/// The properties every PUBLISH of the 5.0 rows carries (beside the alias): content type and one user property.
fn publish_properties() -> Vec<u8> {
    let mut properties = vec![0x03];
    put_str(&mut properties, "application/octet-stream");
    properties.push(0x26);
    put_str(&mut properties, "site");
    put_str(&mut properties, "north-west");
    properties
}

/// A PUBLISH laid out once, then stamped per message.
#[derive(Debug, Clone)]
pub struct PublishTemplate {
    bytes: Vec<u8>,
    packet_id_at: Option<usize>,
    stamp_at: usize,
}

impl PublishTemplate {
    /// 3.1.1, `payload_bytes` at least [`STAMP_BYTES`].
    pub fn new(topic: &str, qos: u8, retain: bool, payload_bytes: usize) -> PublishTemplate {
        PublishTemplate::build(topic, qos, retain, payload_bytes, None)
    }

    /// 5.0 with properties and the topic alias 1; `topic` is empty where the alias is already set.
    pub fn v5(topic: &str, qos: u8, payload_bytes: usize) -> PublishTemplate {
        let mut properties = vec![0x23, 0, 1];
        properties.extend(publish_properties());
        PublishTemplate::build(topic, qos, false, payload_bytes, Some(&properties))
    }

    fn build(topic: &str, qos: u8, retain: bool, payload_bytes: usize, properties: Option<&[u8]>) -> PublishTemplate {
        let mut body = Vec::with_capacity(payload_bytes + topic.len() + 64);
        put_str(&mut body, topic);
        let mut packet_id_at = (qos > 0).then_some(body.len());
        if qos > 0 {
            body.extend_from_slice(&[0, 1]);
        }
        if let Some(properties) = properties {
            put_varint(&mut body, properties.len());
            body.extend_from_slice(properties);
        }
        let mut stamp_at = body.len();
        body.resize(stamp_at + payload_bytes.max(STAMP_BYTES), b'.');
        let bytes = packet(0x30 | qos << 1 | u8::from(retain), &body);
        let head = bytes.len() - body.len();
        stamp_at += head;
        packet_id_at = packet_id_at.map(|at| at + head);
        PublishTemplate { bytes, packet_id_at, stamp_at }
    }

    /// The packet's whole length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The packet for one message.
    pub fn stamp(&mut self, packet_id: u16, stream: u32, sequence: u32, sent_ns: u64) -> &[u8] {
        if let Some(at) = self.packet_id_at {
            self.bytes[at..at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        let stamp = &mut self.bytes[self.stamp_at..self.stamp_at + STAMP_BYTES];
        stamp[..4].copy_from_slice(&stream.to_be_bytes());
        stamp[4..8].copy_from_slice(&sequence.to_be_bytes());
        stamp[8..].copy_from_slice(&sent_ns.to_be_bytes());
        &self.bytes
    }
}

/// A PUBLISH as a subscriber got it.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    pub qos: u8,
    pub packet_id: u16,
    pub stream: u32,
    pub sequence: u32,
    pub sent_ns: u64,
    /// Bytes of payload, stamp included.
    pub payload_bytes: usize,
}

/// Reads a PUBLISH. 5.0: checks that the properties published came through whole.
pub fn delivery(version: Version, frame: Frame<'_>) -> Result<Delivery> {
    let qos = frame.first >> 1 & 3;
    let mut at = 2 + usize::from(u16_at(frame.body, 0)?);
    let mut packet_id = 0;
    if qos > 0 {
        packet_id = u16_at(frame.body, at)?;
        at += 2;
    }
    if version == Version::V5 {
        let (length, width) = varint(frame.body.get(at..).unwrap_or_default())?.context("properties cut short")?;
        at += width;
        let properties = frame.body.get(at..at + length).context("properties cut short")?;
        ensure!(ends_with_published_properties(properties), "the broker changed or lost a property");
        at += length;
    }
    let payload = frame.body.get(at..).unwrap_or_default();
    let Some(stamp) = payload.first_chunk::<STAMP_BYTES>() else {
        bail!("a payload of {} bytes arrived", payload.len())
    };
    let [a, b, c, d, e, f, g, h, sent @ ..] = *stamp;
    Ok(Delivery {
        qos,
        packet_id,
        stream: u32::from_be_bytes([a, b, c, d]),
        sequence: u32::from_be_bytes([e, f, g, h]),
        sent_ns: u64::from_be_bytes(sent),
        payload_bytes: payload.len(),
    })
}

/// Content type and user property may stand before or after an alias of the broker's own (3 bytes).
fn ends_with_published_properties(properties: &[u8]) -> bool {
    const CONTENT_TYPE: &[u8] = b"\x03\x00\x18application/octet-stream";
    const USER_PROPERTY: &[u8] = b"\x26\x00\x04site\x00\x0anorth-west";
    let (mut rest, mut content_type, mut user_property) = (properties, false, false);
    while !rest.is_empty() {
        rest = if let Some(after) = rest.strip_prefix(CONTENT_TYPE) {
            content_type = true;
            after
        } else if let Some(after) = rest.strip_prefix(USER_PROPERTY) {
            user_property = true;
            after
        } else if rest[0] == 0x23 && rest.len() >= 3 {
            &rest[3..]
        } else {
            return false;
        };
    }
    content_type && user_property
}

/// The return code of CONNACK; 0: accepted.
pub fn connack_code(frame: Frame<'_>) -> Result<u8> {
    ensure!(frame.kind() == CONNACK, "expected CONNACK, the broker sent a packet of type {}", frame.kind());
    frame.body.get(1).copied().context("a CONNACK cut short")
}

/// Whether every filter of a SUBSCRIBE was granted.
pub fn suback_granted(version: Version, frame: Frame<'_>) -> bool {
    let skip = if version == Version::V5 { 3 } else { 2 };
    frame.body.get(skip..).is_some_and(|codes| codes.iter().all(|&code| code < 0x80))
}
