//! Clusters of real brokers and real nats-servers. Each test starts its own on free ports and ends them.

mod bridges;
mod clients;
mod control;
mod delivery;
#[cfg(feature = "etcd")]
mod discovery;
mod document;
mod large;
mod load;
mod membership;
mod moves;
mod nodes;
mod pressure;
mod refusals;
mod retained;
mod rounds;
mod sessions;
mod shared;
pub mod traffic;
