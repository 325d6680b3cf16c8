//! Why a connection could not be opened, or ended.

use std::io;

use weir_mqtt::{DecodeError, EncodeError, ProtocolVersion, ReasonCode};

/// Why a client could not connect or do something, or why its connection ended. The broker's address is not in the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No connection to the broker.
    #[error("connect failed: {0}")]
    Connect(String),
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {0}")]
    Tls(String),
    /// The WebSocket upgrade failed.
    #[error("WebSocket upgrade failed: {0}")]
    WebSocket(String),
    /// The broker did not answer in time, seconds.
    #[error("no connection within {0} s")]
    ConnectTimeout(u64),
    /// CONNACK has this reason.
    #[error("the broker refused the connection: {0}")]
    Refused(String),
    /// The broker sent DISCONNECT with this reason.
    #[error("the broker disconnected this client: {0}")]
    Disconnected(String),
    /// The acknowledgement of a PUBLISH or SUBSCRIBE has this reason.
    #[error("the broker rejected it: {0}")]
    Rejected(String),
    /// This client has disconnected.
    #[error("the client has disconnected")]
    Closed,
    /// The connection ended without a DISCONNECT.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The broker sent what MQTT does not allow.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
    /// What was asked for is impossible, or this broker does not support it.
    #[error("{0}")]
    Unsupported(String),
    /// A packet would have more than MQTT allows.
    #[error("the packet cannot be encoded: {0}")]
    Encode(String),
}

impl From<EncodeError> for ClientError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error.to_string())
    }
}

impl From<DecodeError> for ClientError {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl ClientError {
    pub(crate) fn lost(error: &io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// A reason code with its name, and the reason string of the broker.
pub(crate) fn reason(code: u8, text: Option<&str>) -> String {
    let name = ReasonCode::try_from(code).map_or_else(|_| format!("reason code 0x{code:02X}"), |code| code.to_string());
    match text {
        Some(text) => format!("{name}: {text}"),
        None => name,
    }
}

/// The code of a CONNACK.
pub(crate) fn connect_reason(version: ProtocolVersion, code: u8, text: Option<&str>) -> String {
    if version == ProtocolVersion::V5 {
        return reason(code, text);
    }
    let name = match code {
        1 => "unacceptable protocol version",
        2 => "client identifier rejected",
        3 => "server unavailable",
        4 => "bad user name or password",
        5 => "not authorized",
        _ => "unknown return code",
    };
    format!("{name} ({code})")
}
