//! The MQTT wire format: bytes to [`Packet`] and back, for 3.1, 3.1.1 and 5.0. Pure: no IO, no clock.
//!
//! Decoding borrows from the caller's buffer and allocates nothing; what must outlive the buffer is copied by its owner.

mod decode;
mod encode;
mod error;
mod packet;
mod property;
mod raw;
mod reason;
mod rule;
#[cfg(test)]
mod tests;
mod topic;

pub use decode::{DecodeContext, Decoded, Side, decode, decode_connect};
pub use encode::*;
pub use error::{DecodeError, DecodeErrorKind, EncodeError, Refusal};
pub use packet::*;
pub use reason::{ReasonCode, UnknownReasonCode, return_code};
pub use topic::*;
