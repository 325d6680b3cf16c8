//! Why a connection could not be opened, or ended.

use std::io;

use weir_mqtt::{DecodeError, EncodeError, ProtocolVersion, ReasonCode};

/// Why a connection could not be opened, or ended. The address is not in the message: the verb names it.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ClientError {
    #[error("connect failed: {0}")]
    Connect(String),
    #[error("TLS handshake failed: {0}")]
    Tls(String),
    #[error("WebSocket upgrade failed: {0}")]
    WebSocket(String),
    #[error("no connection within {0} s")]
    ConnectTimeout(u64),
    #[error("the broker refused the connection: {0}")]
    Refused(String),
    #[error("the broker disconnected this client: {0}")]
    Disconnected(String),
    #[error("connection lost: {0}")]
    Lost(String),
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
    #[error("{0}")]
    Unsupported(String),
    #[error("the packet cannot be encoded: {0}")]
    Encode(#[from] EncodeError),
}

impl From<DecodeError> for ClientError {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl ClientError {
    pub(super) fn lost(error: &io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// A reason code with its name, and the reason string of the broker.
pub(super) fn reason(code: u8, text: Option<&str>) -> String {
    let name = ReasonCode::try_from(code).map_or_else(|_| format!("reason code 0x{code:02X}"), |code| code.to_string());
    match text {
        Some(text) => format!("{name}: {text}"),
        None => name,
    }
}

/// The code of a CONNACK.
pub(super) fn connect_reason(version: ProtocolVersion, code: u8, text: Option<&str>) -> String {
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
