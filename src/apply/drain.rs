//! Who has to go after a change, and how fast.

use std::sync::Arc;

use rustls::pki_types::UnixTime;

use crate::config::{ChangeClass, Drain, FieldChange};
use crate::net::{ConnectionFacts, DrainPlan, DrainWhich, ListenerPolicy, Transport};

/// MQTT 5: administrative action.
const ADMINISTRATIVE_ACTION: u8 = 0x98;
/// MQTT 5: use another server (for now), with a server reference.
const USE_ANOTHER_SERVER: u8 = 0x9C;
/// MQTT 5: server moved (for good), with a server reference.
const SERVER_MOVED: u8 = 0x9D;

/// A connection's time to finish what is in flight, once its turn has come: a part of the window, and at most so long.
const IN_FLIGHT_PART: u32 = 4;
const IN_FLIGHT_MAX_MS: u32 = 5_000;

/// Everybody, because the listener goes: for good, or only for now.
pub(super) fn everybody(policy: &ListenerPolicy, drain: &Drain, connections: u32, for_good: bool) -> DrainPlan {
    with_rate(DrainWhich::All, policy, drain, connections, for_good)
}

/// Everybody who came in by an older generation than `policy`'s.
pub(super) fn everybody_before(policy: &ListenerPolicy, drain: &Drain, connections: u32) -> DrainPlan {
    with_rate(DrainWhich::Before(policy.endpoint.generation), policy, drain, connections, false)
}

/// Whom the new policy would not have let in, judged by what `changes` touch.
pub(super) fn no_longer_admitted(
    changes: &[FieldChange],
    policy: &Arc<ListenerPolicy>,
    drain: &Drain,
    connections: u32,
) -> Vec<DrainPlan> {
    let draining: Vec<&FieldChange> = changes.iter().filter(|change| change.class == ChangeClass::Drain).collect();
    let mut plans = Vec::new();
    if draining.iter().any(|change| concerns_everybody(&change.path)) {
        plans.push(everybody_before(policy, drain, connections));
    } else if draining.iter().any(|change| !is_limit(&change.path)) {
        let judge = Arc::clone(policy);
        let which = DrainWhich::Matching(Arc::new(move |facts| {
            facts.generation < judge.endpoint.generation && !admits(&judge, facts)
        }));
        plans.push(with_rate(which, policy, drain, connections, false));
    }
    let lowered = draining.iter().any(|change| change.path == "maxConnectionSize");
    if let (true, Some(limit)) = (lowered, policy.max_connections) {
        let over = connections.saturating_sub(limit);
        if over > 0 {
            plans.push(with_rate(DrainWhich::Newest(over), policy, drain, over, false));
        }
    }
    let lowered = draining.iter().any(|change| change.path == "maxConnectionPerAddress");
    if let (true, Some(limit)) = (lowered, policy.max_connections_per_address) {
        plans.push(with_rate(DrainWhich::NewestOfAddress(limit), policy, drain, connections, false));
    }
    plans
}

/// What carries the bytes, and the namespace: one for all connections.
fn concerns_everybody(path: &str) -> bool {
    matches!(path, "useWebsocket" | "sslConfig" | "sslConfig.minVersion" | "mountpoint")
        || path.starts_with("proxyProtocol")
        || path.starts_with("websocket")
}

fn is_limit(path: &str) -> bool {
    matches!(path, "maxConnectionSize" | "maxConnectionPerAddress")
}

/// Whether `policy` would let this connection in, as far as can be told of one that is open.
fn admits(policy: &ListenerPolicy, facts: &ConnectionFacts<'_>) -> bool {
    policy.endpoint.versions.admits(facts.version)
        && certificate_is_trusted(policy, facts)
        && policy.authenticate.confirms(facts.principal, facts.client_id)
}

fn certificate_is_trusted(policy: &ListenerPolicy, facts: &ConnectionFacts<'_>) -> bool {
    let Transport::Tls(tls) = &policy.transport else { return true };
    let Some(verifier) = &tls.client_verifier else { return true };
    match facts.certificates.split_first() {
        None => !verifier.client_auth_mandatory(),
        Some((own, issuers)) => verifier.verify_client_cert(own, issuers, UnixTime::now()).is_ok(),
    }
}

fn with_rate(which: DrainWhich, policy: &ListenerPolicy, drain: &Drain, connections: u32, for_good: bool) -> DrainPlan {
    let window_ms = drain.window_s.saturating_mul(1000);
    // What the new declaration refuses has lost its right: nothing of it has to come to an end.
    let is_revoked = matches!(which, DrainWhich::Matching(_));
    let in_flight_ms = if is_revoked { 0 } else { (window_ms / IN_FLIGHT_PART).min(IN_FLIGHT_MAX_MS) };
    let by_window = (window_ms > 0).then(|| per_second(connections, window_ms - in_flight_ms));
    let per_s = match (by_window, drain.max_per_second) {
        (Some(rate), Some(most)) => Some(rate.min(most)),
        (rate, most) => rate.or(most),
    };
    let reason_code = match &drain.server_reference {
        None => ADMINISTRATIVE_ACTION,
        Some(_) if for_good => SERVER_MOVED,
        Some(_) => USE_ANOTHER_SERVER,
    };
    let (server_reference, handshake_ms) = (drain.server_reference.clone(), policy.handshake.time_ms);
    DrainPlan { which, per_s, reason_code, server_reference, in_flight_ms, handshake_ms }
}

/// The rate at which so many have had their turn in so many ms; at least 1.
fn per_second(connections: u32, ms: u32) -> u32 {
    let rate = (u64::from(connections) * 1000).div_ceil(u64::from(ms.max(1)));
    u32::try_from(rate).unwrap_or(u32::MAX).max(1)
}
