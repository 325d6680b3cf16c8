//! Wills.

use crate::Principal;
use crate::ids::{Millis, RecordId};
use crate::values::message::Message;

/// A will that has not been sent.
#[derive(Debug)]
pub(crate) struct PendingWill {
    /// Its name, if the session is durable.
    pub(crate) record: RecordId,
    pub(crate) message: Message,
    pub(crate) delay_s: u32,
    /// When it is to be sent, once its connection has gone.
    pub(crate) due_at: Option<Millis>,
    /// As whom it is published; authorized when it is due.
    pub(crate) principal: Principal,
}
