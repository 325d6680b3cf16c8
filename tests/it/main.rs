//! Integration tests: one binary, a module per area.
#![allow(unreachable_pub)] // nothing is public in a test binary
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

mod adversary;
mod attacks;
mod auth;
mod bridge;
mod broker_sim;
mod ci_examples;
mod client;
mod cluster;
mod cluster_clients;
#[cfg(feature = "cluster")]
mod cluster_engine;
#[cfg(feature = "cluster")]
mod cluster_nodes;
mod cluster_sim;
mod cluster_wills;
mod codec;
mod conformance;
mod cve;
mod durability;
mod embed;
mod environment;
#[cfg(feature = "etcd")]
mod etcd;
mod figures;
mod fingerprints;
mod golden;
mod graceful_disconnect;
mod load_bench;
mod mailbox_model;
mod many_shards;
mod memory;
mod net;
mod node;
mod process;
mod programs;
mod public_api;
mod reconcile;
mod reconcile_sim;
mod schema;
mod scram;
mod script;
mod seeded_random;
mod source;
mod statements;
mod status;
mod supply_chain;
mod support;
mod systemd;
mod tcp;
mod tour;
mod validate_watch;
mod websocket;
mod wills;
mod wire;
