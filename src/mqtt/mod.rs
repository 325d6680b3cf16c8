//! The MQTT wire format: bytes to [`Packet`] and back, for 3.1, 3.1.1 and 5.0. Pure: no IO, no clock.
//!
//! Decoding borrows from the caller's buffer and allocates nothing; what must outlive the buffer is copied by its owner.

mod packet;

pub use packet::*;
