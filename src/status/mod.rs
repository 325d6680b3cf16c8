//! The read-only HTTP server: FluxMQ's paths and envelope, probes, metrics, events, and a page for a person.
//!
//! [`serve`] runs it; its data comes through [`StatusProvider`] alone. A request passes `server` (connections, limits),
//! `router` (paths, methods, conditional requests) and a handler, a pure function of the view and the query.
//! It must never change anything.

mod access;
mod bridges;
mod budget;
mod clients;
mod connections;
mod control;
mod counters;
mod endpoints;
mod events;
mod hosts;
mod http;
mod live;
mod members;
mod method_not_allowed;
mod metrics;
mod packets;
mod page;
mod probes;
mod prometheus_text;
mod query;
mod router;
mod sampler;
mod secret;
mod server;
mod system;
mod topic_tree;
mod topics;
mod trace;
mod traffic;
mod validate;
mod validator;
mod view;

pub use access::{AccessError, AccessOptions, TlsFiles};
pub use bridges::{BridgeCondition, BridgeLink, BridgeView, RefusedFilter};
pub use hosts::is_host_name;
pub use live::LiveStatus;
pub use members::{
    ClusterAppliedView, ClusterEngineView, ClusterLinkView, ClusterLogView, ClusterMembersView, ClusterMovesView,
    ClusterPeerView, ClusterRelaysView, ClusterSlotView, ClusterSuspectView, ClusterWillsView, PEER_STATES,
};
pub use metrics::prometheus_metrics;
pub use router::paths;
pub use secret::{Secret, SecretError, SecretReferenceError};
pub use server::{StatusOptions, StatusServer, serve};
pub use topic_tree::{TopicLevelPage, TopicLevelQuery, TopicLevelView, TopicValueView};
pub use view::*;

pub use crate::kernel::resident_bytes;
