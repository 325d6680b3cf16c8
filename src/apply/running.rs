//! Endpoints that listen, and failures of their actions: values that the parts share.

use std::sync::Arc;

use super::files::CompileError;
use crate::net::{ListenerPolicy, SocketKey, SocketOptions};
use weir_broker::EndpointId;
use weir_declare::config::BindAddress;
use weir_declare::reconcile::{ConditionReason, EffectiveEndpoint, Timestamp};

/// An endpoint that listens.
pub(super) struct RunningEndpoint {
    pub(super) id: EndpointId,
    pub(super) effective: EffectiveEndpoint,
    pub(super) address: BindAddress,
    /// The address as text.
    pub(super) shown_address: Arc<str>,
    pub(super) key: SocketKey,
    /// As the socket reported in this pass.
    pub(super) listening: bool,
    pub(super) options: SocketOptions,
    pub(super) policy: Arc<ListenerPolicy>,
    /// Over the endpoint, the documents it refers to and its files.
    pub(super) digest: Arc<str>,
    pub(super) certificate_expires_at: Option<Timestamp>,
}

/// Why an action could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ActionFailure {
    pub(super) reason: ConditionReason,
    pub(super) message: String,
}

impl ActionFailure {
    /// The failure of an action whose declaration cannot be compiled.
    pub(super) fn of_compilation(error: CompileError) -> Self {
        let reason = match error {
            CompileError::Unregistered(_) => ConditionReason::MissingReference,
            _ => ConditionReason::BadFile,
        };
        Self { reason, message: error.to_string() }
    }

    /// The beginning of the failure's log line.
    pub(super) fn headline(&self) -> &'static str {
        match self.reason {
            ConditionReason::AddressInUse | ConditionReason::BindFailed => "listener bind failed",
            ConditionReason::BadFile => "file load failed",
            _ => "endpoint apply failed",
        }
    }
}

/// Gives ids to endpoints and bridges, each once.
pub(super) struct EndpointIds {
    next: u32,
}

impl Default for EndpointIds {
    fn default() -> Self {
        Self { next: 1 }
    }
}

impl EndpointIds {
    /// The id that [`EndpointIds::allocate`] gives next.
    pub(super) fn peek(&self) -> EndpointId {
        EndpointId(self.next)
    }

    /// Gives an id.
    pub(super) fn allocate(&mut self) -> EndpointId {
        let id = self.peek();
        self.next += 1;
        id
    }
}
