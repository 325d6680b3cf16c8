//! The state of a server, for the program that embeds it.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::handle::one_line;
use crate::net::{DataPlane, SocketKey};
use crate::state::ControlState;

/// What is declared, live and rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStatus {
    /// The newest revision that is live: a commit, a revision of etcd, or a hash of the documents.
    pub revision: Option<String>,
    /// Why the source cannot be read now.
    pub source_error: Option<String>,
    /// What keeps the declaration from being live: errors of documents, and actions that failed and are tried again.
    pub problems: Vec<String>,
    /// Declared endpoints and those that still listen, by name.
    pub endpoints: Vec<EndpointStatus>,
}

/// The state of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStatus {
    /// Its name.
    pub name: String,
    /// Where it listens; `None`: it does not, or on a Unix socket.
    pub address: Option<SocketAddr>,
    /// Its Unix socket.
    pub unix_path: Option<PathBuf>,
    /// Open connections.
    pub connections: u32,
}

impl ServerStatus {
    pub(super) fn of(state: &ControlState, plane: &DataPlane) -> Self {
        let errors = state.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).map(one_line);
        let pending = state.endpoints.iter().filter_map(|(name, endpoint)| {
            let pending = endpoint.pending.as_ref().filter(|_| endpoint.declared.is_some())?;
            Some(format!("endpoint {name}: {pending}"))
        });
        let bridges = state.bridges.iter().filter_map(|(name, bridge)| {
            let failure = bridge.failure.as_ref()?;
            Some(format!("bridge {name}: {failure}"))
        });
        let endpoints = state.endpoints.iter().map(|(name, endpoint)| EndpointStatus {
            name: name.to_string(),
            address: match &endpoint.address {
                Some(SocketKey::Tcp(address)) => Some(*address),
                _ => None,
            },
            unix_path: match &endpoint.address {
                Some(SocketKey::Unix(path)) => Some(path.clone()),
                _ => None,
            },
            connections: endpoint
                .id
                .and_then(|id| plane.endpoint_stats(id))
                .map_or(0, |stats| stats.connections_current),
        });
        Self {
            revision: state.source.applied_revision.clone(),
            source_error: state.source.error.as_ref().map(|error| error.message.clone()),
            problems: errors.chain(pending).chain(bridges).collect(),
            endpoints: endpoints.collect(),
        }
    }
}
