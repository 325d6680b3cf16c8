//! `bridge`: links to other brokers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{FileRef, Name, Origin, SecretRef};

/// A link to another broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bridge {
    /// The document's name.
    #[serde(default)]
    pub name: Name,
    /// Where the document is.
    #[serde(skip)]
    pub origin: Origin,
    /// Free text for people.
    #[serde(default)]
    pub description: Option<Arc<str>>,
    /// Whether it connects.
    #[serde(default = "default_true")]
    pub enabled: bool,
    /// Addresses of the remote broker, tried in order.
    pub address: Vec<RemoteAddress>,
    /// The version of MQTT that it speaks.
    #[serde(default)]
    pub protocol_version: BridgeVersion,
    /// `None`: derived from the names of the node and of the bridge.
    #[serde(default)]
    pub client_id: Option<Arc<str>>,
    /// The user name at the remote broker.
    #[serde(default)]
    pub username: Option<Arc<str>>,
    /// The password at the remote broker.
    #[serde(default)]
    pub password: Option<SecretRef>,
    /// The keep alive, seconds.
    #[serde(default = "Bridge::default_keep_alive_s")]
    pub keep_alive_s: u16,
    /// Whether the remote broker discards an earlier session.
    #[serde(default)]
    pub clean_start: bool,
    /// Session expiry at the remote broker, seconds (MQTT 5).
    #[serde(default = "Bridge::default_session_expiry_s")]
    pub session_expiry_s: u32,
    /// Files for TLS.
    #[serde(default)]
    pub tls: BridgeTls,
    /// Rules for messages to the remote broker.
    #[serde(default)]
    pub out: Vec<BridgeRule>,
    /// Rules for messages from the remote broker.
    #[serde(default, rename = "in")]
    pub inward: Vec<BridgeRule>,
    /// The bounds of its queue.
    #[serde(default)]
    pub queue: BridgeQueue,
    /// The pauses between attempts to connect.
    #[serde(default)]
    pub reconnect: Reconnect,
    /// A local topic with the retained state: `1` while connected, otherwise `0`.
    #[serde(default)]
    pub notification_topic: Option<Arc<str>>,
}

fn default_true() -> bool {
    true
}

impl Bridge {
    fn default_keep_alive_s() -> u16 {
        60
    }
    fn default_session_expiry_s() -> u32 {
        86_400
    }
}

/// `mqtt://host:port` or `mqtts://host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RemoteAddress {
    /// Whether the connection has TLS.
    pub tls: bool,
    /// A name or an IP address, without brackets.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
}

impl RemoteAddress {
    /// Parses `mqtt[s]://host[:port]`; the port defaults to 1883, with TLS to 8883.
    ///
    /// # Errors
    /// `text` is not such an address.
    pub fn parse(text: &str) -> Result<Self, RemoteAddressError> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| RemoteAddressError::Form(text.to_owned()))?;
        let tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            other => return Err(RemoteAddressError::Scheme(other.to_owned())),
        };
        if rest.contains('@') {
            return Err(RemoteAddressError::Credentials);
        }
        let (host, port) = split_port(rest.strip_suffix('/').unwrap_or(rest));
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || !host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':')) {
            return Err(RemoteAddressError::Host(host.to_owned()));
        }
        let port = match port {
            None => 1883 + 7000 * u16::from(tls),
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|&port| port != 0 && digits.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| RemoteAddressError::Port(digits.to_owned()))?,
        };
        Ok(Self { tls, host: Arc::from(host), port })
    }
}

/// Why a text is not a [`RemoteAddress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteAddressError {
    /// It is not `mqtt://HOST:PORT` or `mqtts://HOST:PORT`.
    #[error("an address is written mqtt://host:port or mqtts://host:port, not {0:?}")]
    Form(String),
    /// The scheme is unknown.
    #[error("{0:?} is neither mqtt nor mqtts")]
    Scheme(String),
    /// It has a user name or a password.
    #[error("the address must not contain a username or a password; use `username` and `password`")]
    Credentials,
    /// The host is not a name or an address.
    #[error("{0:?} is not a host")]
    Host(String),
    /// The port is not 1 to 65535.
    #[error("{0:?} is not a port; ports are 1 to 65535")]
    Port(String),
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    let after_bracket = authority.rfind(']').map_or(0, |at| at + 1);
    match authority.get(after_bracket..).and_then(|rest| rest.rfind(':')) {
        Some(colon) => {
            let (host, port) = authority.split_at(after_bracket + colon);
            (host, port.get(1..))
        }
        None => (authority, None),
    }
}

impl TryFrom<String> for RemoteAddress {
    type Error = RemoteAddressError;
    fn try_from(text: String) -> Result<Self, RemoteAddressError> {
        Self::parse(&text)
    }
}

impl From<RemoteAddress> for String {
    fn from(address: RemoteAddress) -> Self {
        let scheme = if address.tls { "mqtts" } else { "mqtt" };
        let RemoteAddress { host, port, .. } = &address;
        if host.contains(':') { format!("{scheme}://[{host}]:{port}") } else { format!("{scheme}://{host}:{port}") }
    }
}

/// The protocol version towards the remote broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BridgeVersion {
    /// MQTT 3.1.1.
    V3_1_1,
    /// MQTT 5.0.
    #[default]
    V5,
}

impl Serialize for BridgeVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::V3_1_1 => "3.1.1",
            Self::V5 => "5",
        })
    }
}

impl<'de> Deserialize<'de> for BridgeVersion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let version = serde_json::Value::deserialize(deserializer)?;
        // Unquoted, YAML reads 5 as a number.
        match version.as_str().map_or_else(|| version.to_string(), str::to_owned).as_str() {
            "3.1.1" => Ok(Self::V3_1_1),
            "5" | "5.0" => Ok(Self::V5),
            other => Err(serde::de::Error::custom(format!("no protocol version {other}"))),
        }
    }
}

/// TLS towards the remote broker, for `mqtts://` addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct BridgeTls {
    /// Certificate authorities; `None`: those of the system.
    pub ca_file: Option<FileRef>,
    /// The client's certificate.
    pub cert_file: Option<FileRef>,
    /// The client's private key.
    pub key_file: Option<FileRef>,
    /// The server name that the certificate must have; `None`: the host of the address.
    pub server_name: Option<Arc<str>>,
}

/// Messages to forward, and how to rename their topics: `stripPrefix` is removed, then `addPrefix` is added in front.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BridgeRule {
    /// A topic filter at the source of the messages.
    pub filter: Arc<str>,
    /// What is removed from the beginning of topics.
    #[serde(default)]
    pub strip_prefix: Option<Arc<str>>,
    /// What is put before topics.
    #[serde(default)]
    pub add_prefix: Option<Arc<str>>,
    /// The maximum QoS; messages with a higher one are downgraded.
    #[serde(default = "BridgeRule::default_qos")]
    pub qos: u8,
    /// Whether the retain flag is forwarded.
    #[serde(default = "default_true")]
    pub retain: bool,
    /// `in` only: the group of a shared subscription, for several brokers that forward the same topics.
    #[serde(default)]
    pub share: Option<Arc<str>>,
}

impl BridgeRule {
    fn default_qos() -> u8 {
        1
    }
}

/// The queue while the remote broker is not connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct BridgeQueue {
    /// Messages at most.
    pub max_messages: u32,
    /// Bytes of messages at most.
    pub max_bytes: u64,
    /// What happens to a message for a full queue.
    pub overflow: super::QueueOverflow,
}

impl Default for BridgeQueue {
    fn default() -> Self {
        Self { max_messages: 100_000, max_bytes: 64 << 20, overflow: super::QueueOverflow::DropOldest }
    }
}

/// Delay between connection attempts: doubles from `minMs` to `maxMs`, with jitter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Reconnect {
    /// The first pause, milliseconds.
    pub min_ms: u32,
    /// The longest pause, milliseconds.
    pub max_ms: u32,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { min_ms: 500, max_ms: 60_000 }
    }
}
