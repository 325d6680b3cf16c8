//! What was acknowledged is never lost: clients and the checker of what they saw, against cores in memory whose disk
//! forgets, and against a real process that is killed.
//!
//! `history`: the checker; `sim_client`, `roles`, `client_set`: the clients; `memory`: cores and a disk in memory, seeded; `process`:
//! `kill -9` and power cuts (`power_cut`); `cross_shard_waits`: shards that wait for each other's disks; `ended_session`:
//! sessions that end amid a QoS 2 publish; `handover`: messages that go from one shard to another; `full_disk_answers` and
//! `full_disk_recovery`: what clients are answered while the disk is full (`small_disk`), and that it gets room again;
//! `data_directory`: data directories that cannot be used, and their export.

mod client_set;
mod cross_shard_waits;
mod data_directory;
mod ended_session;
mod full_disk_answers;
mod full_disk_recovery;
mod handover;
mod history;
mod memory;
mod power_cut;
mod process;
mod roles;
mod sim_client;
mod small_disk;
