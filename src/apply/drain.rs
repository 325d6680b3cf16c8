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
    let by_window = (drain.window_s > 0).then(|| connections.div_ceil(drain.window_s).max(1));
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
    DrainPlan { which, per_s, reason_code, server_reference, handshake_ms }
}
