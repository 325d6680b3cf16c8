//! The status server, over real sockets: its answers against golden files, its bounds, its streams.

// Helpers outside `#[test]` functions may unwrap too: a panic is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod bounds;
mod browser;
mod client;
mod clients;
mod docs;
mod fake;
mod fake_data;
mod golden;
mod live;
mod openapi;
mod otlp;
mod page;
mod page_client;
mod server;
mod streams;
mod tools;
