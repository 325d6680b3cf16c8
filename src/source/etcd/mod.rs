//! Documents in etcd: one key `<root>endpoints/<name>` each, one transaction one snapshot.
//!
//! - `options`: servers, credentials, root. `client`: one connection, and the meaning of errors.
//! - `replica`: the content of the prefix, and which part of it is trusted. Pure. `marker`: the marker of a push.
//! - `follow`: list, watch, list again. `push_plan` (pure), `push`: writing to etcd.

mod client;
mod follow;
mod marker;
mod options;
mod push;
mod push_plan;
mod replica;

pub use client::{EtcdResult, connect, describe_error, list_values, prefix_end, timed_out, with_timeout};
pub use follow::spawn_etcd;
pub use marker::{MARKER_KEY, Marker, MarkerError, PushState, documents_digest};
pub use options::{EtcdAccess, EtcdAccessError, EtcdOptions, EtcdRoot, EtcdRootError, EtcdUrlError, check_url};
pub use push::{PushError, PushTarget, push, read_target};
pub use push_plan::{Documents, PushPlan, Pushed, UnreadableFiles, after_push, documents_of, plan_push};
pub use replica::PriorState;
