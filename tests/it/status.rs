//! The status server, over real sockets: its answers against golden files, its bounds, its streams.

mod client;
mod fake;
mod golden;
mod server;
mod streams;
