//! The MQTT wire format: bytes to [`Packet`] and back, for 3.1, 3.1.1 and 5.0. Pure: no IO, no clock.
//!
//! Decoding borrows from the caller's buffer and allocates nothing but a box for CONNECT and CONNACK; what must outlive
//! the buffer is copied by its owner. Encoding appends to a buffer that the caller owns.
//!
//! - [`decode`], [`decode_connect`]: strict; each rule is a row of `rule.rs`, with its clause in either specification.
//! - [`encode`] for any packet; [`encode_publish_parts`], [`puback`] and their like for the message path.
//! - [`SharedFilter`], [`matches()`], [`validate_topic_name`], [`validate_topic_filter`]: topics.
//! - [`ReasonCode`]: names, and which packet may carry which.

#![deny(missing_docs)]

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
pub use error::{ConnAckRefusal, DecodeError, DecodeErrorKind, EncodeError};
pub use packet::*;
pub use reason::{ReasonCode, UnknownReasonCode, return_code};
pub use topic::*;
