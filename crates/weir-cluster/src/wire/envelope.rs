//! Envelopes: what core NATS carries between two nodes.

use crate::Incarnation;

const VERSION: u8 = 1;
const WANTS_ACK: u8 = 1;
const RESEND: u8 = 2;

/// A piece of the sender's byte stream, and how much of the receiver's stream the sender has.
///
/// | bytes | field |
/// | --- | --- |
/// | 0 | version of the wire format |
/// | 1 | length of the header: at least 64; what a reader does not know at its end is skipped |
/// | 2 | flags: 1 wants an acknowledgement, 2 asks for a resend; others are ignored |
/// | 3 | 0 |
/// | 4 to 8 | CRC-32 of all other bytes, header and payload |
/// | 8 to 16, 16 to 24 | incarnations of the sender and of the receiver |
/// | 24 to 28, 28 to 32 | generation of the sender's stream, and of the acknowledged stream |
/// | 32 to 40 | offset of the first payload byte in the sender's stream |
/// | 40 to 48, 48 to 56, 56 to 64 | acknowledged: bytes received, frames processed, frames stored |
///
/// Numbers are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The sending node.
    pub sender: Incarnation,
    /// The receiving node.
    pub receiver: Incarnation,
    /// The sender asks for an acknowledgement at once.
    pub wants_ack: bool,
    /// The sender asks for the receiver's stream again, from `acknowledgement.received`.
    pub resend: bool,
    /// Generation of the sender's stream, from 1.
    pub generation: u32,
    /// Offset of the first byte of `payload` in that stream. Without payload: of the next byte.
    pub offset: u64,
    /// How much of the receiver's stream the sender has.
    pub acknowledgement: Acknowledgement,
    /// Bytes of the stream. Frames may begin and end anywhere.
    pub payload: &'a [u8],
}

/// How much of a stream its receiver has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Acknowledgement {
    /// Generation of the stream. 0: the receiver has seen none.
    pub generation: u32,
    /// Bytes received.
    pub received: u64,
    /// Number of the last frame that was processed. 0: none.
    pub processed: u64,
    /// Number of the last frame that was stored. 0: none.
    pub stored: u64,
}

/// An envelope that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// It has fewer bytes than a header.
    #[error("an envelope has at least {} bytes, this one {len}", Envelope::HEADER)]
    TooShort {
        /// Its bytes.
        len: usize,
    },
    /// A version of the wire format that this build does not read.
    #[error("wire format version {version}: this build reads version {VERSION}")]
    UnsupportedVersion {
        /// The envelope's version.
        version: u8,
    },
    /// The header's length is below the least one, or beyond the end.
    #[error("header length {header}: not between {} and the envelope's {len} bytes", Envelope::HEADER)]
    HeaderLength {
        /// The length that the header names.
        header: u8,
        /// Bytes of the envelope.
        len: usize,
    },
    /// The bytes have changed on their way.
    #[error("checksum mismatch: the bytes were damaged on their way")]
    Checksum,
    /// The sender's stream has no generation.
    #[error("generation 0: generations begin with 1")]
    NoGeneration,
}

impl<'a> Envelope<'a> {
    /// Bytes of a header.
    pub const HEADER: usize = 64;

    /// Appends the envelope's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut header = [0; Self::HEADER];
        header[0] = VERSION;
        header[1] = Self::HEADER as u8;
        header[2] = (u8::from(self.wants_ack) * WANTS_ACK) | (u8::from(self.resend) * RESEND);
        let ack = &self.acknowledgement;
        header[8..16].copy_from_slice(&self.sender.to_le_bytes());
        header[16..24].copy_from_slice(&self.receiver.to_le_bytes());
        header[24..28].copy_from_slice(&self.generation.to_le_bytes());
        header[28..32].copy_from_slice(&ack.generation.to_le_bytes());
        header[32..40].copy_from_slice(&self.offset.to_le_bytes());
        header[40..48].copy_from_slice(&ack.received.to_le_bytes());
        header[48..56].copy_from_slice(&ack.processed.to_le_bytes());
        header[56..64].copy_from_slice(&ack.stored.to_le_bytes());
        let checksum = checksum(&[&header[..4], &header[8..], self.payload]);
        header[4..8].copy_from_slice(&checksum.to_le_bytes());
        out.reserve(Self::HEADER + self.payload.len());
        out.extend_from_slice(&header);
        out.extend_from_slice(self.payload);
    }

    /// Decodes an envelope, which borrows its payload.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        let len = bytes.len();
        let header = bytes.first_chunk::<{ Envelope::HEADER }>().ok_or(EnvelopeError::TooShort { len })?;
        if header[0] != VERSION {
            return Err(EnvelopeError::UnsupportedVersion { version: header[0] });
        }
        if checksum(&[&bytes[..4], &bytes[8..]]) != u32_at(header, 4) {
            return Err(EnvelopeError::Checksum);
        }
        let payload = usize::from(header[1]);
        if payload < Self::HEADER || payload > len {
            return Err(EnvelopeError::HeaderLength { header: header[1], len });
        }
        if u32_at(header, 24) == 0 {
            return Err(EnvelopeError::NoGeneration);
        }
        Ok(Self {
            sender: u64_at(header, 8),
            receiver: u64_at(header, 16),
            wants_ack: header[2] & WANTS_ACK != 0,
            resend: header[2] & RESEND != 0,
            generation: u32_at(header, 24),
            offset: u64_at(header, 32),
            acknowledgement: Acknowledgement {
                generation: u32_at(header, 28),
                received: u64_at(header, 40),
                processed: u64_at(header, 48),
                stored: u64_at(header, 56),
            },
            payload: &bytes[payload..],
        })
    }
}

/// CRC-32 of the parts in order.
pub(super) fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

fn u32_at(header: &[u8; Envelope::HEADER], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| header[at + i]))
}

fn u64_at(header: &[u8; Envelope::HEADER], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| header[at + i]))
}
