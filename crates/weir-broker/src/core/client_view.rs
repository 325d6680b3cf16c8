//! The view of a connected client for the control plane.

use crate::ids::{ConnId, Millis};
use crate::{Core, Principal};
use weir_mqtt::ProtocolVersion;

/// One connected client.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// The client id.
    pub client_id: &'a str,
    /// The endpoint's name.
    pub endpoint: &'a str,
    /// The client's identity.
    pub principal: &'a Principal,
    /// The version of MQTT that it speaks.
    pub version: ProtocolVersion,
    /// When it connected.
    pub connected_at: Millis,
}

impl Core {
    /// The client of a connection; `None` where it is gone, or on its way out.
    pub fn client(&self, conn: ConnId) -> Option<Client<'_>> {
        if self.clients.generation(conn.slot) != conn.generation {
            return None;
        }
        let connection = self.clients.connection(conn.slot).filter(|connection| !connection.closing)?;
        let session = self.clients.session(connection.session)?;
        Some(Client {
            client_id: &session.client_id,
            endpoint: &connection.policy.name,
            principal: &connection.principal,
            version: connection.version,
            connected_at: connection.connected_at,
        })
    }
}
