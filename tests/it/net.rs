//! The data plane over real sockets.

mod authentication;
pub mod client;
mod drain;
pub mod floods;
mod handshake;
mod inspect;
mod limits;
mod listeners;
mod plane;
mod proxy;
mod relay;
mod relay_drains;
mod relay_ends;
pub mod tls;
mod transports;
