//! A client that was asked to disconnect, and is given time for what is in flight.

use std::sync::Arc;

use crate::ids::Millis;

/// The DISCONNECT that ends a drain, and its deadline.
#[derive(Debug, Clone)]
pub(crate) struct GracefulDisconnect {
    pub(crate) code: u8,
    pub(crate) server_reference: Option<Arc<str>>,
    pub(crate) until: Millis,
}
