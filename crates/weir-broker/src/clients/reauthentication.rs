//! The state of a connection's re-authentication [MQTT 5.0 section 4.12.1].

use crate::ids::ConnId;

/// The authentication data of a client's AUTH: answer with `Core::continue_authentication`, `Core::reauthenticated`
/// or `Core::disconnect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reauthentication {
    /// The client's connection.
    pub connection: ConnId,
    /// Whether an exchange begins with it; else it answers what the client was asked.
    pub begins: bool,
    /// Authentication Data, where there is some.
    pub data: Option<Box<[u8]>>,
}

/// The state of a re-authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ReauthenticationState {
    /// None is under way.
    #[default]
    Idle,
    AwaitsServer,
    AwaitsClient,
}
