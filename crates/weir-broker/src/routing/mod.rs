//! Which sessions, shared groups and shards a message goes to: namespaces, filter trees, subscriptions, shared
//! subscriptions, retained messages and the clients to which they may still be delivered.
//!
//! Owns the namespaces, the groups and the access lists of publishers of retained messages. It never touches a connection's
//! buffer or a session's queue.

pub(crate) mod filter_label;
pub(crate) mod filter_tree;
pub(crate) mod match_cache;
pub(crate) mod matches;
pub(crate) mod node_pages;
pub(crate) mod retained;
pub(crate) mod retained_acl;
pub(crate) mod retained_filter;
pub(crate) mod retained_totals;
pub(crate) mod shared_groups;
pub(crate) mod state;
pub(crate) mod subscribers;
pub(crate) mod subscriptions;
pub(crate) mod topic_tree;
