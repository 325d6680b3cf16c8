//! Drains: which connections of an endpoint are disconnected, and how.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weir_broker::Principal;
use weir_mqtt::ProtocolVersion;

/// How a drain disconnects clients.
#[derive(Clone)]
pub struct DrainPlan {
    pub which: DrainWhich,
    /// Disconnects per second, over all shards; `None`: all at once.
    pub per_s: Option<u32>,
    /// Reason code of DISCONNECT (5.0); 3.x connections are closed without a packet.
    pub reason_code: u8,
    /// DISCONNECT's Server Reference (5.0).
    pub server_reference: Option<Arc<str>>,
    /// How long a client may complete QoS 1 and 2 exchanges that are in flight before it gets DISCONNECT, milliseconds;
    /// the broker begins no new ones meanwhile. 0: DISCONNECT is sent at once.
    pub in_flight_ms: u32,
    /// The clients are no longer authorized: `in_flight_ms` is ignored, and wills are not published.
    pub revokes: bool,
    /// How long the plan applies to connections that were accepted before it and are admitted after it: the handshake
    /// timeout, milliseconds.
    pub handshake_ms: u32,
}

/// Which connections of an endpoint a drain disconnects. The choice is made when the drain begins; for pending
/// connections, when they are admitted.
#[derive(Clone)]
pub enum DrainWhich {
    /// All connections. Pending ones are admitted, and get DISCONNECT at once.
    All,
    /// Connections that were admitted under an older generation of the endpoint's policy. Pending ones as with `All`.
    Before(u64),
    /// This number of connections, the most recently accepted first.
    Newest(u32),
    /// For each client address, the connections above this number, the most recently accepted first.
    NewestOfAddress(u32),
    /// Connections that match the predicate, which gets the client id, the principal and, with mutual TLS, the
    /// certificate chain. Pending connections that match are refused.
    Matching(Arc<DrainPredicate>),
}

/// A predicate over one connection.
pub type DrainPredicate = dyn Fn(&ConnectionFacts<'_>) -> bool + Send + Sync;

/// The properties of a connection that a drain predicate gets.
pub struct ConnectionFacts<'a> {
    pub client_id: &'a str,
    pub principal: &'a Principal,
    pub peer: Option<SocketAddr>,
    pub version: ProtocolVersion,
    /// [`EndpointPolicy::generation`](weir_broker::EndpointPolicy::generation) of the policy that admitted it: tells connections from before and after a change
    /// apart.
    pub generation: u64,
    /// The certificate chain, DER, the client's own certificate first; empty without mutual TLS.
    pub certificates: &'a [rustls::pki_types::CertificateDer<'static>],
}

/// The sequence numbers of the connections over a limit: the highest ones.
pub(super) fn newest(mut accepted: Vec<(u64, Option<IpAddr>)>, which: &DrainWhich) -> HashSet<u64> {
    accepted.sort_unstable();
    match which {
        DrainWhich::Newest(count) => {
            accepted.iter().rev().take(*count as usize).map(|(sequence, _)| *sequence).collect()
        }
        DrainWhich::NewestOfAddress(limit) => {
            let mut counts: HashMap<IpAddr, u32> = HashMap::new();
            let is_over = |(sequence, address): (u64, Option<IpAddr>)| {
                let count = counts.entry(address?).or_default();
                *count += 1;
                (*count > *limit).then_some(sequence)
            };
            accepted.into_iter().filter_map(is_over).collect()
        }
        DrainWhich::All | DrainWhich::Before(_) | DrainWhich::Matching(_) => HashSet::new(),
    }
}
