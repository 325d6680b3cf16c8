//! The publisher of a retained message.

use std::net::IpAddr;
use std::sync::Arc;

use crate::values::record::{ValueReader, ValueWriter};
use crate::{Principal, Subject};

/// The publisher of a retained message. One for all that a connection retains.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PublisherIdentity {
    pub(crate) client_id: Box<str>,
    pub(crate) username: Option<Box<str>>,
    pub(crate) address: Option<IpAddr>,
    /// Name of the endpoint it came in by.
    pub(crate) endpoint: Arc<str>,
}

impl PublisherIdentity {
    pub(crate) fn new(client_id: &str, principal: &Principal, endpoint: &Arc<str>) -> Self {
        Self {
            client_id: client_id.into(),
            username: principal.username.clone(),
            address: principal.address,
            endpoint: Arc::clone(endpoint),
        }
    }

    /// Writes it into a record.
    pub(crate) fn write(&self, fields: &mut ValueWriter<'_>) {
        fields.sized(self.client_id.as_bytes()).sized(self.endpoint.as_bytes());
        write_identity(fields, self.username.as_deref(), self.address);
    }

    /// Reads what [`PublisherIdentity::write`] wrote.
    pub(crate) fn read(value: &mut ValueReader<'_>) -> Option<Self> {
        let (client_id, endpoint) = (value.text()?, value.text()?);
        let (username, address) = read_identity(value)?;
        Some(Self { client_id: client_id.into(), username, address, endpoint: endpoint.into() })
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject { client_id: &self.client_id, username: self.username.as_deref(), address: self.address }
    }
}

/// Writes a user name and an address into a record.
pub(crate) fn write_identity(fields: &mut ValueWriter<'_>, username: Option<&str>, address: Option<IpAddr>) {
    fields.u8(u8::from(username.is_some())).sized(username.unwrap_or_default().as_bytes());
    fields.sized(address.map(|address| address.to_string()).unwrap_or_default().as_bytes());
}

/// Reads what [`write_identity`] wrote.
pub(crate) fn read_identity(value: &mut ValueReader<'_>) -> Option<(Option<Box<str>>, Option<IpAddr>)> {
    let has_username = value.u8()? != 0;
    let (username, address) = (value.text()?, value.text()?);
    let address = if address.is_empty() { None } else { Some(address.parse().ok()?) };
    Some((has_username.then(|| username.into()), address))
}
