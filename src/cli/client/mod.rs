//! A small MQTT client for `pub`, `sub` and `bench`, over every transport that a broker has.
//!
//! `address`: the URL; `args`: the flags; `tls`: the configuration of TLS; `transport`: byte streams; `connection`: MQTT
//! over one of them; `error`: why a connection ends; `properties`: what a PUBLISH carries besides its payload.
//! Must never print.

mod address;
mod args;
mod connection;
mod error;
mod properties;
mod tls;
mod transport;

pub(super) use args::{ClientArgs, Target, qos};
pub(super) use connection::{Connection, Event, Message, Outgoing};
pub(super) use error::ClientError;
pub(super) use properties::{PropertyArgs, PublishExtras};
