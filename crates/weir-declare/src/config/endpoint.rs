//! `endpoint`: a declared listener and its options. `schema/endpoint.schema.json` describes each field.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ChildOptions, Versions};
use super::{Host, Listen, Name, Origin, ProxyProtocol, ServerOptions, SslConfig, Websocket};
use weir_broker::EndpointLimits;

/// A declared endpoint, with `defaults` applied and every default filled in. A field that is neither here nor in
/// [`EndpointLimits`] is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Endpoint {
    /// The document's name.
    pub name: Name,
    /// Where the document is.
    #[serde(skip)]
    pub origin: Origin,
    /// The address of `host` and `port`.
    #[serde(skip)]
    pub listen: Listen,
    pub(super) port: Option<u16>,
    pub(super) host: Option<Host>,

    /// Free text for people.
    pub description: Option<Arc<str>>,
    /// Labels, for selections.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Label selector: only nodes with all of these labels run the endpoint.
    pub nodes: BTreeMap<Arc<str>, Arc<str>>,
    /// Whether it listens.
    pub enabled: bool,
    /// Whether it is the default endpoint.
    pub is_default: bool,
    /// A change of this text binds the socket again.
    pub restarted_at: Option<Arc<str>>,
    /// Level of log lines about this endpoint; `None`: the node's level.
    pub log_level: Option<LogLevel>,
    /// Whether it is removed with its document.
    pub prune: Prune,

    /// Whether clients connect over WebSocket.
    pub use_websocket: bool,
    /// WebSocket path.
    pub path: Arc<str>,
    /// The options of WebSocket.
    pub websocket: Websocket,
    /// `None`: no TLS.
    #[serde(deserialize_with = "super::tls::empty_is_none")]
    pub ssl_config: Option<SslConfig>,
    /// The PROXY protocol; `None`: not used.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Options of the listening socket.
    pub server_options: ServerOptions,
    /// Options of the sockets of connections.
    pub child_options: ChildOptions,

    /// Whether clients have to authenticate.
    pub enable_auth: bool,
    /// Name of an auth document; `None`: `default`.
    pub auth: Option<Name>,
    /// Whether an access list applies.
    pub enable_acl: bool,
    /// Name of an acl document; `None`: `default`.
    pub acl: Option<Name>,
    /// Interceptors that the program which embeds the broker has registered, in the order of their calls.
    pub interceptors: Vec<Name>,
    /// Whether its bridges run.
    pub enable_bridge: bool,
    /// The bridges of this endpoint.
    pub bridges: Vec<Name>,
    /// The namespace of topics, client ids and sessions; `None`: the shared namespace.
    pub mountpoint: Option<Arc<str>>,
    /// The versions of MQTT that it accepts.
    pub protocol_versions: Versions,

    /// Open connections; `None`: the node's limit.
    pub max_connection_size: Option<u32>,
    /// Open connections from one address.
    pub max_connection_per_address: Option<u32>,
    /// Accepted connections per second.
    pub max_connection_per_second: Option<u32>,
    /// What happens to a connection above the rate.
    pub accept_overflow: AcceptOverflow,
    /// Connections before CONNACK.
    pub max_pending_connections: Option<u32>,
    /// Connections before CONNACK from one IPv4 address or IPv6 /64.
    pub max_pending_per_address: u32,
    /// Size of a CONNECT packet, bytes.
    pub max_connect_bytes: u32,
    /// Time from accept to CONNECT including the TLS and WebSocket handshakes, milliseconds.
    pub connect_timeout_ms: u32,
    /// The options that the broker's core enforces.
    #[serde(flatten)]
    pub limits: EndpointLimits,
    /// How its clients are disconnected.
    pub drain: Drain,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            name: Name::default(),
            origin: Origin::default(),
            listen: Listen::Tcp { host: None, port: 0 },
            port: None,
            host: None,
            description: None,
            labels: BTreeMap::new(),
            nodes: BTreeMap::new(),
            enabled: true,
            is_default: false,
            restarted_at: None,
            log_level: None,
            prune: Prune::Enabled,
            use_websocket: false,
            path: Arc::from("/mqtt"),
            websocket: Websocket::default(),
            ssl_config: None,
            proxy_protocol: None,
            server_options: ServerOptions::default(),
            child_options: ChildOptions::default(),
            enable_auth: true,
            auth: None,
            enable_acl: true,
            acl: None,
            interceptors: Vec::new(),
            enable_bridge: false,
            bridges: Vec::new(),
            mountpoint: None,
            protocol_versions: Versions::default(),
            max_connection_size: None,
            max_connection_per_address: None,
            max_connection_per_second: None,
            accept_overflow: AcceptOverflow::Delay,
            max_pending_connections: None,
            max_pending_per_address: 256,
            max_connect_bytes: 16 << 10,
            connect_timeout_ms: 10_000,
            limits: EndpointLimits::default(),
            drain: Drain::default(),
        }
    }
}

impl Endpoint {
    /// Whether a node with `labels` runs the endpoint.
    pub fn matches_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.nodes.iter().all(|(key, value)| labels.get(&**key).is_some_and(|have| **have == **value))
    }

    /// Whether one node can run both endpoints: not if their selectors require different values of one label.
    pub fn can_share_node_with(&self, other: &Self) -> bool {
        self.nodes.iter().all(|(label, value)| other.nodes.get(label).is_none_or(|wanted| wanted == value))
    }

    /// The name of its auth document.
    pub fn auth_name(&self) -> &str {
        self.auth.as_ref().map_or(DEFAULT_NAME, Name::as_str)
    }

    /// The name of its acl document.
    pub fn acl_name(&self) -> &str {
        self.acl.as_ref().map_or(DEFAULT_NAME, Name::as_str)
    }
}

/// The name of the auth and acl documents of endpoints that name none.
pub const DEFAULT_NAME: &str = "default";

/// Whether removing the document deletes the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Prune {
    /// It is removed.
    Enabled,
    /// It stays until its removal is confirmed.
    Disabled,
}

/// What the broker does with connections above `maxConnectionPerSecond`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AcceptOverflow {
    /// It leaves them in the listening socket's backlog.
    Delay,
    /// It accepts and closes them.
    Refuse,
}

/// The level of log lines about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LogLevel {
    /// Errors.
    Error,
    /// Errors and warnings.
    Warn,
    /// Also what happens to endpoints and clients.
    Info,
    /// Also details for the search of an error.
    Debug,
    /// Everything.
    Trace,
}

/// How the broker closes connections that the declaration no longer admits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Drain {
    /// Seconds over which the closing is spread; 0: at once.
    pub window_s: u32,
    /// Connections closed per second at most; extends the window where needed.
    pub max_per_second: Option<u32>,
    /// MQTT 5: another server to use, sent with reason code 0x9C.
    pub server_reference: Option<Arc<str>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { window_s: 10, max_per_second: None, server_reference: None }
    }
}
