//! Plain values that the parts pass to each other: messages, deliveries, wills, groups, records.
//!
//! Owns nothing. Nothing here knows a part.

pub(crate) mod delivery;
pub(crate) mod group;
pub(crate) mod memory;
pub(crate) mod message;
pub(crate) mod publisher;
pub(crate) mod record;
pub(crate) mod retained;
pub(crate) mod slot_copy;
pub(crate) mod will;
