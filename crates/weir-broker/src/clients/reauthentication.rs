//! Where the re-authentication of a connection stands [MQTT 5.0 section 4.12.1].

use crate::ids::ConnId;

/// What a client shows for its re-authentication: to be answered by [`Core::continue_authentication`], [`Core::reauthenticated`] or
/// [`Core::disconnect`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reauthentication {
    pub connection: ConnId,
    /// Whether an exchange begins with it; else it answers what the client was asked.
    pub begins: bool,
    /// Authentication Data, where there is some.
    pub data: Option<Box<[u8]>>,
}

/// Where a re-authentication stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ReauthenticationState {
    /// None is under way.
    #[default]
    Idle,
    AwaitsServer,
    AwaitsClient,
}
