//! Options of an endpoint's sockets, WebSocket, PROXY protocol, and protocol versions.

use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Cidr;
use weir_broker::ProtocolVersions;

/// Options of the listening socket. `None`: the system's default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ServerOptions {
    /// Length of the accept queue.
    pub backlog: u32,
    /// SO_REUSEPORT: other processes may bind the same port.
    pub reuse_port: bool,
    /// SO_RCVBUF in bytes.
    pub receive_buffer: Option<u32>,
    /// SO_SNDBUF in bytes.
    pub send_buffer: Option<u32>,
    /// TCP_DEFER_ACCEPT in seconds: the kernel hands over a connection once data has arrived.
    pub defer_accept_s: Option<u16>,
    /// Permissions of a Unix socket, octal: `"0660"`.
    pub unix_mode: Option<UnixMode>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            backlog: 1024,
            reuse_port: false,
            receive_buffer: None,
            send_buffer: None,
            defer_accept_s: None,
            unix_mode: None,
        }
    }
}

/// Permission bits of a file, at most `0o777`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnixMode(pub u32);

/// Why a text is not a [`UnixMode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("permissions are three octal digits like \"0660\", not {0:?}")]
pub struct UnixModeError(String);

impl TryFrom<String> for UnixMode {
    type Error = UnixModeError;
    fn try_from(text: String) -> Result<Self, UnixModeError> {
        let digits = text.strip_prefix('0').unwrap_or(&text);
        let is_octal = digits.len() == 3 && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let bits = if is_octal { u32::from_str_radix(digits, 8).ok() } else { None };
        bits.map(Self).ok_or(UnixModeError(text))
    }
}

impl From<UnixMode> for String {
    fn from(mode: UnixMode) -> Self {
        format!("{:04o}", mode.0)
    }
}

/// Options of accepted sockets. `None`: the system's default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ChildOptions {
    /// TCP_NODELAY.
    pub no_delay: bool,
    /// SO_KEEPALIVE.
    pub keep_alive: bool,
    /// TCP_KEEPIDLE in seconds.
    pub keep_alive_idle_s: Option<u16>,
    /// TCP_KEEPINTVL in seconds.
    pub keep_alive_interval_s: Option<u16>,
    /// TCP_KEEPCNT.
    pub keep_alive_count: Option<u8>,
    /// SO_SNDBUF in bytes.
    pub send_buffer: Option<u32>,
    /// SO_RCVBUF in bytes.
    pub receive_buffer: Option<u32>,
    /// TCP_USER_TIMEOUT in milliseconds: how long sent data may stay unacknowledged.
    pub user_timeout_ms: Option<u32>,
}

impl Default for ChildOptions {
    fn default() -> Self {
        Self {
            no_delay: true,
            keep_alive: false,
            keep_alive_idle_s: None,
            keep_alive_interval_s: None,
            keep_alive_count: None,
            send_buffer: None,
            receive_buffer: None,
            user_timeout_ms: None,
        }
    }
}

/// Options of the WebSocket handshake, for endpoints with `useWebsocket`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Websocket {
    /// Allowed `Origin` headers, `*` for every one; empty: those of the host that the request names. Requests without one
    /// are admitted.
    pub origins: Vec<Arc<str>>,
}

/// PROXY protocol, versions 1 and 2, before TLS and MQTT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Addresses of trusted proxies. Connections from other addresses are closed.
    pub trusted_sources: Vec<Cidr>,
    /// Whether to use the common name of the client certificate that the proxy verified (PP2_SUBTYPE_SSL_CN).
    #[serde(default)]
    pub client_certificate: bool,
}

/// The protocol versions an endpoint admits: `["3.1", "3.1.1", "5"]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions(pub ProtocolVersions);

impl Default for Versions {
    fn default() -> Self {
        Self(ProtocolVersions::ALL)
    }
}

impl Serialize for Versions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ProtocolVersions { v3_1, v3_1_1, v5 } = self.0;
        let named = [(v3_1, "3.1"), (v3_1_1, "3.1.1"), (v5, "5")];
        serializer.collect_seq(named.iter().filter(|(admitted, _)| *admitted).map(|(_, name)| name))
    }
}

impl<'de> Deserialize<'de> for Versions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut versions = ProtocolVersions { v3_1: false, v3_1_1: false, v5: false };
        for version in Vec::<serde_json::Value>::deserialize(deserializer)? {
            // YAML reads an unquoted 3.1 and 5 as numbers.
            match version.as_str().map_or_else(|| version.to_string(), str::to_owned).as_str() {
                "3.1" => versions.v3_1 = true,
                "3.1.1" => versions.v3_1_1 = true,
                "5" | "5.0" => versions.v5 = true,
                other => return Err(D::Error::custom(format!("no protocol version {other}"))),
            }
        }
        Ok(Self(versions))
    }
}
