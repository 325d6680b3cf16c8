//! MQTT over WebSocket (RFC 6455): the upgrade, and the frames. Pure: bytes in, bytes out.

mod frames;
#[cfg_attr(not(feature = "websocket"), path = "no_upgrade.rs")]
mod upgrade;

pub(super) use frames::{FrameError, FrameReader, FrameWriter, Incoming};
pub(super) use upgrade::{Upgrade, upgrade};
