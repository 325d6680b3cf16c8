//! Which clients are disconnected after a change, and at which rate.

use std::sync::Arc;

use rustls::pki_types::UnixTime;

use crate::auth::is_in_process;
use crate::net::{ConnectionFacts, DrainPlan, DrainWhich, ListenerPolicy, Transport};
use weir_declare::config::{ChangeClass, Drain, FieldChange};

/// MQTT 5: administrative action.
const ADMINISTRATIVE_ACTION: u8 = 0x98;
/// MQTT 5: use another server (for now), with a server reference.
const USE_ANOTHER_SERVER: u8 = 0x9C;
/// MQTT 5: server moved (for good), with a server reference.
const SERVER_MOVED: u8 = 0x9D;

/// The time for messages in flight of one connection: a part of the drain window, with a maximum.
const IN_FLIGHT_PART: u32 = 4;
const IN_FLIGHT_MAX_MS: u32 = 5_000;

/// Why connections end after a change. A client that lost its right to connect is disconnected at once, whatever the
/// endpoint's `drain` is; `drain` protects the servers that the clients go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    /// The client may no longer be connected: it is banned, its user or password was removed, its certificate is no
    /// longer trusted, or no declaration admits it.
    Revoked,
    /// The client may be connected, but in another way: over another transport, in another namespace, with another
    /// version of MQTT, or to a socket that was replaced or closed.
    Replaced,
    /// There are more connections than a lowered limit allows.
    OverLimit,
}

impl Cause {
    /// The cause of a change of class `drain`, by its path. All other paths concern the right to connect: a field of
    /// the auth document, a ban, a file of credentials or of certificates.
    fn from_path(path: &str) -> Self {
        match path {
            "maxConnectionSize" | "maxConnectionPerAddress" => Self::OverLimit,
            "protocolVersions" => Self::Replaced,
            path if concerns_all_clients(path) => Self::Replaced,
            _ => Self::Revoked,
        }
    }
}

/// Drains all clients, because the listener closes: for good, or only for now.
pub(super) fn all_clients(policy: &ListenerPolicy, drain: &Drain, connections: u32, for_good: bool) -> DrainPlan {
    paced(DrainWhich::All, policy, drain, connections, for_good)
}

/// All clients but those in this process, because they are to connect to other nodes of the cluster. `in_flight`: there is
/// time for what is in flight.
#[cfg(feature = "cluster")]
pub(super) fn to_other_nodes(policy: &ListenerPolicy, drain: &Drain, connections: u32, in_flight: bool) -> DrainPlan {
    let which = DrainWhich::Matching(Arc::new(|facts| !is_in_process(facts.principal)));
    let mut plan = paced(which, policy, drain, connections, false);
    plan.reason_code = USE_ANOTHER_SERVER;
    if !in_flight {
        plan.in_flight_ms = 0;
    }
    plan
}

/// The drains after a change of an endpoint, revoked clients first. `anew`: the socket was replaced, and all clients of
/// the former one are drained.
pub(super) fn after_change(
    changes: &[FieldChange],
    anew: bool,
    policy: &Arc<ListenerPolicy>,
    drain: &Drain,
    connections: u32,
) -> Vec<DrainPlan> {
    let paths = || draining(changes);
    let mut plans: Vec<DrainPlan> = revoked_by(changes, policy).into_iter().collect();
    if anew || paths().any(concerns_all_clients) {
        plans.push(paced(DrainWhich::Before(policy.endpoint.generation), policy, drain, connections, false));
    } else if paths().any(|path| Cause::from_path(path) == Cause::Replaced) {
        let which = before(policy, |policy, facts| !policy.endpoint.versions.admits(facts.version));
        plans.push(paced(which, policy, drain, connections, false));
    }
    if let (true, Some(limit)) = (paths().any(|path| path == "maxConnectionSize"), policy.max_connections) {
        let over = connections.saturating_sub(limit);
        if over > 0 {
            plans.push(paced(DrainWhich::Newest(over), policy, drain, over, false));
        }
    }
    let per_address = policy.max_connections_per_address;
    if let (true, Some(limit)) = (paths().any(|path| path == "maxConnectionPerAddress"), per_address) {
        plans.push(paced(DrainWhich::NewestOfAddress(limit), policy, drain, connections, false));
    }
    plans
}

/// Those that lost their right to be connected, where any may have.
pub(super) fn revoked_by(changes: &[FieldChange], policy: &Arc<ListenerPolicy>) -> Option<DrainPlan> {
    let may_have = draining(changes).any(|path| Cause::from_path(path) == Cause::Revoked);
    may_have.then(|| at_once(before(policy, |policy, facts| !may_connect(policy, facts)), policy))
}

fn draining(changes: &[FieldChange]) -> impl Iterator<Item = &str> {
    changes.iter().filter(|change| change.class == ChangeClass::Drain).map(|change| &*change.path)
}

/// Whether the field concerns all connections: the transport or the namespace.
fn concerns_all_clients(path: &str) -> bool {
    matches!(path, "enabled" | "useWebsocket" | "sslConfig" | "sslConfig.minVersion" | "mountpoint")
        || path.starts_with("proxyProtocol")
        || path.starts_with("websocket")
}

/// Connections of an older generation of the policy that match `goes` under the new one.
fn before(policy: &Arc<ListenerPolicy>, goes: fn(&ListenerPolicy, &ConnectionFacts<'_>) -> bool) -> DrainWhich {
    let policy = Arc::clone(policy);
    DrainWhich::Matching(Arc::new(move |facts| facts.generation < policy.endpoint.generation && goes(&policy, facts)))
}

/// Whether the client of an open connection would be admitted, as far as its facts show.
fn may_connect(policy: &ListenerPolicy, facts: &ConnectionFacts<'_>) -> bool {
    (is_in_process(facts.principal) || certificate_is_trusted(policy, facts))
        && policy.authenticate.still_valid(facts.principal, facts.client_id)
}

fn certificate_is_trusted(policy: &ListenerPolicy, facts: &ConnectionFacts<'_>) -> bool {
    let Transport::Tls(tls) = &policy.transport else { return true };
    let Some(verifier) = &tls.client_verifier else { return true };
    match facts.certificates.split_first() {
        None => !verifier.client_auth_mandatory(),
        Some((own, issuers)) => verifier.verify_client_cert(own, issuers, UnixTime::now()).is_ok(),
    }
}

/// Disconnects revoked clients: without time for messages in flight, and without a server reference.
fn at_once(which: DrainWhich, policy: &ListenerPolicy) -> DrainPlan {
    DrainPlan {
        which,
        per_s: None,
        reason_code: ADMINISTRATIVE_ACTION,
        server_reference: None,
        in_flight_ms: 0,
        revokes: true,
        handshake_ms: policy.handshake.time_ms,
    }
}

fn paced(which: DrainWhich, policy: &ListenerPolicy, drain: &Drain, connections: u32, for_good: bool) -> DrainPlan {
    let window_ms = drain.window_s.saturating_mul(1000);
    let in_flight_ms = (window_ms / IN_FLIGHT_PART).min(IN_FLIGHT_MAX_MS);
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
    DrainPlan { which, per_s, reason_code, server_reference, in_flight_ms, revokes: false, handshake_ms }
}

/// The rate at which so many have had their turn in so many ms; at least 1.
fn per_second(connections: u32, ms: u32) -> u32 {
    let rate = (u64::from(connections) * 1000).div_ceil(u64::from(ms.max(1)));
    u32::try_from(rate).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use weir_declare::config::{Kind, schema};

    /// Paths of the fields with a change of class `drain` in some direction, as a plan names them.
    fn fields(kind: Kind, prefix: &str) -> Vec<String> {
        fn walk(parent: &Value, prefix: &str, found: &mut Vec<String>) {
            for (field, rule) in parent["properties"].as_object().into_iter().flatten() {
                let path = format!("{prefix}{field}");
                let class = &rule["x-change-class"];
                let drains = |class: &Value| class == "drain";
                if drains(class) || class.as_object().is_some_and(|directions| directions.values().any(drains)) {
                    found.push(path.clone());
                }
                walk(rule, &format!("{path}."), found);
            }
        }
        let reference = schema()["properties"][kind.key()]["$ref"].as_str().unwrap_or_default();
        let mut found = Vec::new();
        walk(schema().pointer(&reference[1..]).expect("a kind"), prefix, &mut found);
        found
    }

    #[test]
    fn every_field_that_ends_connections_has_its_cause() {
        let mut paths = fields(Kind::Endpoint, "");
        paths.extend(fields(Kind::Auth, "auth default: "));
        paths.extend(fields(Kind::Ban, "ban abuse: "));
        paths.extend(["auth default", "ban abuse", "file users.passwd"].map(str::to_owned));
        let mut by_cause: Vec<(Cause, String)> =
            paths.into_iter().map(|path| (Cause::from_path(&path), path)).collect();
        by_cause.sort();
        let of =
            |cause| by_cause.iter().filter(|(known, _)| *known == cause).map(|(_, path)| &**path).collect::<Vec<_>>();
        assert_eq!(
            of(Cause::Revoked),
            [
                "auth",
                "auth default",
                "auth default: chain",
                "ban abuse",
                "ban abuse: entries",
                "enableAuth",
                "file users.passwd",
                "sslConfig.caFile",
                "sslConfig.clientAuth",
                "sslConfig.crlFile",
            ]
        );
        assert_eq!(
            of(Cause::Replaced),
            [
                "enabled",
                "mountpoint",
                "protocolVersions",
                "proxyProtocol",
                "proxyProtocol.clientCertificate",
                "proxyProtocol.trustedSources",
                "sslConfig",
                "sslConfig.minVersion",
                "useWebsocket",
                "websocket",
                "websocket.origins",
            ]
        );
        assert_eq!(of(Cause::OverLimit), ["maxConnectionPerAddress", "maxConnectionSize"]);
    }
}
