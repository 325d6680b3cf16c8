//! Bridges: the link between brokers in memory, cut at every byte, and the built broker beside real peers.

mod cuts;
mod live;
pub mod peers;
mod simulation;
