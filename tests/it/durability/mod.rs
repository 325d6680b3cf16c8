//! What was acknowledged is never lost: clients and the checker of what they saw, against cores in memory whose disk
//! forgets, and against a real process that is killed.
//!
//! `history`: the checker; `actor`, `cast`: the clients; `memory`: cores and a disk in memory, seeded; `process`: `kill -9`
//! and power cuts (`power_cut`); `full_disk`: a disk that the store fills; `circle`: shards that wait for each other's disks;
//! `orphan`: sessions that end amid a QoS 2 publish; `handover`: messages that go from one
//! shard to another; `full`: who is answered while the disk is full.

mod actor;
mod cast;
mod circle;
mod full;
mod full_disk;
mod handover;
mod history;
mod memory;
mod orphan;
mod power_cut;
mod process;
mod trouble;
