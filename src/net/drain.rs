//! Drains: which connections of an endpoint are disconnected, and how.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weir_broker::{EndpointId, Millis, Principal};
use weir_mqtt::ProtocolVersion;

/// How a drain disconnects clients.
#[derive(Clone)]
pub struct DrainPlan {
    pub which: DrainWhich,
    /// Disconnects per second, relayed clients included; `None`: all at once.
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
/// connections, when they are admitted. Pending ones whose session another node has are refused.
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

/// A drain of an endpoint, for the shards and the relay thread.
#[derive(Clone)]
pub(super) struct DrainRequest {
    pub(super) endpoint: EndpointId,
    /// Only these connections, by sequence number; `None`: those that the plan selects.
    pub(super) chosen: Option<Arc<HashSet<u64>>>,
    /// The last sequence number that the drain applies to.
    pub(super) until_sequence: u64,
    pub(super) plan: Arc<DrainPlan>,
    pub(super) rate: Arc<DrainRate>,
}

impl DrainRequest {
    /// Whether the drain disconnects a connection of the endpoint that was admitted under `generation` of its policy.
    pub(super) fn selects<'a>(
        &self,
        sequence: u64,
        generation: u64,
        facts: impl FnOnce() -> Option<ConnectionFacts<'a>>,
    ) -> bool {
        self.chosen.as_ref().map_or(sequence <= self.until_sequence, |chosen| chosen.contains(&sequence))
            && match &self.plan.which {
                DrainWhich::All | DrainWhich::Newest(_) | DrainWhich::NewestOfAddress(_) => true,
                DrainWhich::Before(before) => generation < *before,
                DrainWhich::Matching(predicate) => facts().is_some_and(|facts| predicate(&facts)),
            }
    }
}

/// How much of a rate that was not used may be used later, microseconds: a thread looks after so long at the latest.
const BURST_US: u64 = 100_000;

/// The rate of a drain, which all threads with connections of it share.
pub(super) struct DrainRate {
    /// Microseconds between two disconnects; `None`: all at once.
    interval_us: Option<u64>,
    /// When the next one is due.
    due_us: AtomicU64,
}

impl DrainRate {
    pub(super) fn new(per_s: Option<u32>, now: Millis) -> Self {
        let interval_us = per_s.map(|per_s| 1_000_000 / u64::from(per_s.max(1)));
        Self { interval_us, due_us: AtomicU64::new(now.saturating_mul(1000)) }
    }

    /// Whether a connection may be disconnected now. The caller has taken its turn.
    pub(super) fn take(&self, now: Millis) -> bool {
        let Some(interval) = self.interval_us else { return true };
        let now = now.saturating_mul(1000);
        let next = |due: u64| (due <= now).then(|| due.max(now.saturating_sub(BURST_US)).saturating_add(interval));
        self.due_us.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_ok()
    }

    /// When the next connection may be disconnected.
    pub(super) fn next_due(&self) -> Millis {
        self.interval_us.map_or(0, |_| self.due_us.load(Ordering::Acquire).div_ceil(1000))
    }
}

/// Drains that have begun, kept for connections that were accepted before them and are not admitted yet.
#[derive(Default)]
pub(super) struct PastDrains(Vec<PastDrain>);

struct PastDrain {
    request: DrainRequest,
    /// When every connection accepted before it is admitted or closed.
    until: Millis,
}

/// The effect of earlier drains on a connection that is about to be admitted.
pub(super) enum DrainDecision {
    Admit,
    /// It is admitted, and gets DISCONNECT at once.
    AdmitThenDisconnect(Arc<DrainPlan>),
    Refuse,
}

impl PastDrains {
    /// One that chose its connections by sequence number chose among the pending ones too.
    pub(super) fn add(&mut self, request: &DrainRequest, now: Millis) {
        self.0.retain(|past| past.until > now);
        if request.chosen.is_none() {
            let until = now + Millis::from(request.plan.handshake_ms);
            self.0.push(PastDrain { request: request.clone(), until });
        }
    }

    /// Applies the drains that began after a connection was accepted, at its admission.
    pub(super) fn decision(&self, endpoint: EndpointId, sequence: u64, facts: &ConnectionFacts<'_>) -> DrainDecision {
        let mut decision = DrainDecision::Admit;
        let of_endpoint = self.0.iter().map(|past| &past.request).filter(|past| past.endpoint == endpoint);
        for past in of_endpoint.filter(|past| sequence <= past.until_sequence) {
            match &past.plan.which {
                DrainWhich::Matching(predicate) if predicate(facts) => return DrainDecision::Refuse,
                DrainWhich::Before(generation) if facts.generation >= *generation => {}
                DrainWhich::All | DrainWhich::Before(_) => {
                    decision = DrainDecision::AdmitThenDisconnect(Arc::clone(&past.plan))
                }
                DrainWhich::Matching(_) | DrainWhich::Newest(_) | DrainWhich::NewestOfAddress(_) => {}
            }
        }
        decision
    }

    pub(super) fn forget(&mut self, endpoint: EndpointId) {
        self.0.retain(|past| past.request.endpoint != endpoint);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_the_rate_and_make_up_for_100_ms() {
        let rate = DrainRate::new(Some(100), 1000);
        let taken = |now| (0..1000).filter(|_| rate.take(now)).count();
        assert_eq!((taken(1000), rate.next_due(), taken(1009)), (1, 1010, 0));
        assert_eq!(taken(1050), 5);
        assert_eq!(taken(9000), 11, "not for the 8 s");
        assert_eq!((DrainRate::new(None, 5).next_due(), DrainRate::new(None, 5).take(0)), (0, true));
        assert!(!DrainRate::new(Some(0), 5).take(0), "not before its time");
    }
}
