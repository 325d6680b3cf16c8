//! Documents in etcd: `<root>endpoints/<name>` each, one transaction one snapshot.
//!
//! - `options`: where, and as whom. `client`: one connection, and what errors mean.
//! - `replica`: what the prefix holds, and which part of it may be believed. Pure. `marker`: what a push leaves.
//! - `follow`: list, watch, begin anew. `push_plan` (pure), `push`: the other direction.

mod client;
mod follow;
mod marker;
mod options;
mod push;
mod push_plan;
mod replica;

pub use client::{EtcdResult, answered, connect, explained, list_values, prefix_end, silent};
pub use follow::spawn_etcd;
pub use marker::{MARKER_KEY, Marker, PushState, documents_digest};
pub use options::{EtcdAccess, EtcdOptions, EtcdRoot, check_url};
pub use push::{Present, PushError, present, push};
pub use push_plan::{Documents, PushPlan, Pushed, after_push, documents_of, plan_push};
pub use replica::Known;
