//! The engine of a cluster against real nats-servers. Each test starts its servers on free ports and ends them.

mod connect;
mod example;
mod faults;
mod log;
mod members;
pub mod nats;
mod node;
mod slots;
