//! `weirmq`'s pure modules, and nothing else of it.

#[path = "../../../src/broker/mod.rs"]
pub mod broker;
#[path = "../../../src/mqtt/mod.rs"]
pub mod mqtt;
