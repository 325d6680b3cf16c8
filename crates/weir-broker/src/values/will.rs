//! Wills.

use crate::Principal;
use crate::ids::{Millis, RecordId};
use crate::values::memory::Charge;
use crate::values::message::Message;

/// A will that has not been sent.
#[derive(Debug)]
pub(crate) struct PendingWill {
    /// Its name, if the session is durable.
    pub(crate) record: RecordId,
    pub(crate) message: Message,
    pub(crate) delay_s: u32,
    /// When to publish it, once the client is disconnected.
    pub(crate) due_at: Option<Millis>,
    /// The identity it is published as; authorized when it is due.
    pub(crate) principal: Principal,
    /// Of its bytes.
    #[expect(dead_code, reason = "it counts while it lives")]
    pub(crate) charge: Charge,
}

impl PendingWill {
    /// The bytes that one takes.
    pub(crate) fn bytes(message: &Message, principal: &Principal) -> usize {
        size_of::<Self>() + message.size() + principal.username.as_ref().map_or(0, |name| name.len())
    }
}
