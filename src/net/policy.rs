//! What a listener does with the connections it accepts, compiled from an endpoint's declaration. Immutable; looked up
//! at accept, so that a change holds from the next accepted connection on.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::server::danger::ClientCertVerifier;

use crate::auth::Authenticate;
use weir_broker::EndpointPolicy;

/// Everything about a listener but its socket.
pub struct ListenerPolicy {
    /// What the core enforces for its connections.
    pub endpoint: Arc<EndpointPolicy>,
    pub transport: Transport,
    /// `None`: MQTT directly on the transport.
    pub websocket: Option<WebSocketPolicy>,
    /// `None`: a PROXY header is not understood.
    pub proxy_protocol: Option<ProxyProtocolPolicy>,
    pub authenticate: Arc<dyn Authenticate>,
    /// Open connections of the endpoint, over all shards; `None`: no limit of the endpoint.
    pub max_connections: Option<u32>,
    /// Open connections of the endpoint from one address; `None`: no limit.
    pub max_connections_per_address: Option<u32>,
    /// Connections of the endpoint that are not admitted yet; `None`: only the node's bound.
    pub max_pending_connections: Option<u32>,
    /// Connections accepted per second; the burst is one second's worth.
    pub max_connections_per_s: Option<u32>,
    /// What happens above `max_connections_per_s`.
    pub accept_overflow: AcceptOverflow,
    pub child: ChildOptions,
    pub handshake: HandshakeLimits,
}

/// What carries the bytes.
#[derive(Clone)]
pub enum Transport {
    Plain,
    Tls(TlsPolicy),
}

/// A TLS configuration and what is needed to judge open connections again when it changes.
#[derive(Clone)]
pub struct TlsPolicy {
    pub config: Arc<rustls::ServerConfig>,
    /// The verifier of client certificates, where they are asked for.
    pub client_verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// MQTT over WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketPolicy {
    /// The request's path must be this; anything else gets 404.
    pub path: String,
    /// Origins admitted, compared whole and without regard to case; `None`: any, and clients that send none. A client
    /// that sends no Origin (not a browser) is admitted always.
    pub allowed_origins: Option<Vec<String>>,
    /// Bytes of one message (all its fragments together); above it the connection is closed with 1009.
    pub max_message_bytes: u64,
}

/// PROXY protocol, v1 and v2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocolPolicy {
    /// Who may say on whose behalf it connects. Each connection must begin with a PROXY header, and those from elsewhere
    /// are closed. On a Unix socket its permissions say who may, and this list is not asked.
    pub sources: Vec<IpRange>,
    /// Take the common name of the client certificate that the proxy has verified (PP2_SUBTYPE_SSL_CN).
    pub client_certificate: bool,
}

/// An address range: `prefix_bits` leading bits of `network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpRange {
    pub network: IpAddr,
    pub prefix_bits: u8,
}

impl IpRange {
    /// Whether `address` lies within. An IPv4 address mapped into IPv6 is taken for what it is.
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

/// What happens to connections above the accept rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AcceptOverflow {
    /// They wait in the kernel's backlog.
    #[default]
    Delay,
    /// They are accepted and closed.
    Refuse,
}

/// Options of accepted sockets. They are set on the listening socket, from which Linux hands them on: no system call
/// per connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildOptions {
    /// TCP_NODELAY; default true: the event loop coalesces writes itself.
    pub no_delay: bool,
    /// SO_KEEPALIVE; `None`: off.
    pub keep_alive: Option<KeepAlive>,
    pub send_buffer_bytes: Option<u32>,
    pub receive_buffer_bytes: Option<u32>,
    /// TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged.
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

/// TCP's own keep-alive. `None`: the system's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeepAlive {
    /// Silence before the first probe.
    pub idle_s: Option<u32>,
    pub interval_s: Option<u32>,
    /// Unanswered probes before the connection is given up.
    pub count: Option<u32>,
}

/// Bounds of everything before a connection is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeLimits {
    /// From accept to admission, all stages together, milliseconds.
    pub time_ms: u32,
    /// Bytes a client may send before its CONNECT (PROXY header, TLS handshake, HTTP request).
    pub max_bytes: u32,
    /// Bytes of the CONNECT packet; the endpoint's `message_max_size` holds beside it.
    pub max_connect_bytes: u32,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self { time_ms: 10_000, max_bytes: 64 << 10, max_connect_bytes: 256 << 10 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_contain_what_they_say() {
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
