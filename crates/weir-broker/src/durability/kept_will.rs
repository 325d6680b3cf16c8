//! A will as another node keeps it, to publish it when the client's node dies.

use crate::Principal;
use crate::durability::recording::{WILL_FORM, write_message, write_principal};
use crate::durability::stored::{read_message, read_principal};
use crate::values::message::Message;
use crate::values::record::{ValueReader, ValueWriter};
use crate::values::will::PendingWill;

/// A will of a client of a node that died.
pub(crate) struct KeptWill<'a> {
    /// The name of the client's endpoint.
    pub(crate) endpoint: &'a str,
    pub(crate) principal: Principal,
    /// Its `expires_at` is a duration.
    pub(crate) message: Message,
}

/// The bytes of a will. `delay_s`: how long after the end of its connection it is published, if the client does not return.
pub(crate) fn write_kept_will(endpoint: &str, delay_s: u32, will: &PendingWill) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(will.message.size() + endpoint.len() + 64);
    let mut fields = ValueWriter(&mut bytes);
    fields.u32(delay_s).u8(WILL_FORM).sized(endpoint.as_bytes());
    write_principal(&mut fields, &will.principal);
    write_message(&mut fields, &will.message, will.message.expires_at);
    bytes
}

/// The delay of a will in seconds. `None`: it is not understood.
pub(crate) fn kept_will_delay_s(bytes: &[u8]) -> Option<u32> {
    ValueReader(bytes).u32()
}

/// Reads what [`write_kept_will`] wrote. `None`: it is not understood.
pub(crate) fn read_kept_will(bytes: &[u8]) -> Option<KeptWill<'_>> {
    let mut fields = ValueReader(bytes);
    let (_, form, endpoint) = (fields.u32()?, fields.u8()?, fields.text()?);
    let principal = read_principal(form, &mut fields)?;
    Some(KeptWill { endpoint, principal, message: read_message(fields)? })
}
