//! Integration tests: one binary, a module per area.
#![allow(unreachable_pub)] // nothing is public in a test binary

mod conformance;
mod golden;
mod script;
mod status;
mod tcp;
mod wire;
