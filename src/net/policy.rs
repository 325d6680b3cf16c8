//! The policy of a listener, compiled from an endpoint's declaration. Immutable; read at accept, so a change applies
//! from the next accepted connection on.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::server::danger::ClientCertVerifier;

use crate::auth::Authenticate;
use weir_broker::EndpointPolicy;

/// Everything of a listener except its socket.
pub struct ListenerPolicy {
    /// The part that the broker core enforces.
    pub endpoint: Arc<EndpointPolicy>,
    pub transport: Transport,
    /// `None`: MQTT directly on the transport.
    pub websocket: Option<WebSocketPolicy>,
    /// `None`: PROXY protocol is off.
    pub proxy_protocol: Option<ProxyProtocolPolicy>,
    pub authenticate: Arc<dyn Authenticate>,
    /// Maximum of open connections of the endpoint, over all shards; `None`: no limit.
    pub max_connections: Option<u32>,
    /// Maximum of open connections of the endpoint from one address; `None`: no limit.
    pub max_connections_per_address: Option<u32>,
    /// Maximum of pending connections of the endpoint; `None`: only the node's limit applies.
    pub max_pending_connections: Option<u32>,
    /// Maximum of pending connections of the endpoint from one source (an IPv4 address, an IPv6 /64); `None`: no limit.
    pub max_pending_per_address: Option<u32>,
    /// Maximum of accepted connections per second; the burst is one second's worth.
    pub max_connections_per_s: Option<u32>,
    /// The treatment of connections above `max_connections_per_s`.
    pub accept_overflow: AcceptOverflow,
    pub child: ChildOptions,
    pub handshake: HandshakeLimits,
}

/// The transport.
#[derive(Clone)]
pub enum Transport {
    Plain,
    Tls(TlsPolicy),
}

/// A TLS configuration, and the verifier to check open connections again when it changes.
#[derive(Clone)]
pub struct TlsPolicy {
    pub config: Arc<rustls::ServerConfig>,
    /// The verifier of client certificates, if they are requested.
    pub client_verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// MQTT over WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketPolicy {
    /// The path of the upgrade request; any other gets 404.
    pub path: String,
    /// A client that sends no Origin (not a browser) is always allowed.
    pub allowed_origins: AllowedOrigins,
    /// Maximum size of a message, all fragments together, bytes; a larger one closes the connection with 1009.
    pub max_message_bytes: u64,
}

/// The pages whose scripts may open a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// Those of the host that the request's `Host` header names, on any port.
    SameHost,
    /// Those of these origins, compared whole and case-insensitively.
    Listed(Vec<String>),
    Any,
}

/// PROXY protocol, v1 and v2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocolPolicy {
    /// Trusted proxies. Each of their connections must begin with a PROXY header; connections from other addresses are
    /// closed. On a Unix socket the file's permissions decide, and this list is ignored.
    pub sources: Vec<IpRange>,
    /// Use the common name of the client certificate that the proxy has verified (PP2_SUBTYPE_SSL_CN).
    pub client_certificate: bool,
}

/// An address range: `prefix_bits` leading bits of `network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpRange {
    pub network: IpAddr,
    pub prefix_bits: u8,
}

impl IpRange {
    /// Whether the range contains `address`. An IPv4-mapped IPv6 address counts as its IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix_bits.min(32));
                let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
                (u32::from(network) ^ u32::from(address)) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix_bits.min(128));
                let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
                (u128::from(network) ^ u128::from(address)) & mask == 0
            }
            _ => false,
        }
    }
}

/// The handling of connections above the accept rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AcceptOverflow {
    /// They wait in the kernel's backlog.
    #[default]
    Delay,
    /// They are accepted and closed at once.
    Refuse,
}

/// Options of accepted sockets. They are set on the listening socket, and Linux copies them to accepted sockets: no
/// system call per connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildOptions {
    /// TCP_NODELAY; default true: the event loop coalesces writes itself.
    pub no_delay: bool,
    /// SO_KEEPALIVE; `None`: off.
    pub keep_alive: Option<KeepAlive>,
    pub send_buffer_bytes: Option<u32>,
    pub receive_buffer_bytes: Option<u32>,
    /// TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged, milliseconds.
    pub user_timeout_ms: Option<u32>,
}

impl Default for ChildOptions {
    fn default() -> Self {
        Self {
            no_delay: true,
            keep_alive: None,
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
            user_timeout_ms: None,
        }
    }
}

/// TCP keep-alive (not MQTT's). `None`: the system's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeepAlive {
    /// Idle time before the first probe, seconds.
    pub idle_s: Option<u32>,
    pub interval_s: Option<u32>,
    /// Unanswered probes after which the connection is dropped.
    pub count: Option<u32>,
}

/// Limits of a connection before it is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeLimits {
    /// Time from accept to admission, all stages together, milliseconds.
    pub time_ms: u32,
    /// Maximum of bytes before CONNECT (PROXY header, TLS handshake, HTTP request).
    pub max_bytes: u32,
    /// Maximum size of the CONNECT packet, bytes; the endpoint's `message_max_size` applies too.
    pub max_connect_bytes: u32,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self { time_ms: 10_000, max_bytes: 16 << 10, max_connect_bytes: 16 << 10 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ip_range_contains_its_addresses_only() {
        let cases = [
            ("10.0.0.0", 8, "10.255.0.1", true),
            ("10.0.0.0", 8, "11.0.0.1", false),
            ("0.0.0.0", 0, "192.0.2.1", true),
            ("192.0.2.1", 32, "192.0.2.1", true),
            ("192.0.2.1", 32, "192.0.2.2", false),
            ("192.0.2.1", 32, "::ffff:192.0.2.1", true),
            ("fd00::", 8, "fd12::1", true),
            ("fd00::", 8, "fe80::1", false),
            ("::", 0, "2001:db8::1", true),
            ("::", 0, "192.0.2.1", false),
        ];
        for (network, prefix_bits, address, expected) in cases {
            let range = IpRange { network: network.parse().unwrap(), prefix_bits };
            assert_eq!(range.contains(address.parse().unwrap()), expected, "{network}/{prefix_bits} {address}");
        }
    }
}
