//! The data plane over real sockets.

mod authentication;
mod client;
mod drain;
mod handshake;
mod inspect;
mod limits;
mod listeners;
mod plane;
mod proxy;
mod tls;
mod transports;
