//! The flags of `pub`, `sub` and `bench`, and the transports to a broker.
//!
//! `address`: the URL; `args`: the flags; `properties`: those of a message; `tls`: the configuration of TLS; `transport`:
//! byte streams. [`crate::client`] has MQTT over one of them.
//! Must never print.

mod address;
mod args;
mod properties;
mod tls;
mod transport;

pub(super) use args::{ClientArgs, Target, qos};
pub(super) use properties::PropertyArgs;
