//! Checks of one document that a schema cannot express.

use super::document::{Body, Document};
use super::path::InstancePath;
use super::pattern::touching_placeholders;
use super::unreachable_rules::unreachable_rules;
use super::{Acl, AclRule, Auth, Authenticator, Bridge, ClusterSpec, Diagnostic, Related, Severity};

/// Errors and warnings about a document by itself. Endpoints are checked once `defaults` is applied; see `conflicts`.
pub(super) fn check_document(document: &Document, body: &Body) -> Vec<Diagnostic> {
    match body {
        Body::Acl(acl) => check_acl(document, acl),
        Body::Bridge(bridge) => check_bridge(document, bridge),
        Body::Auth(auth) => check_auth(document, auth),
        Body::Cluster(cluster) => check_cluster(document, cluster),
        Body::Endpoint(_) | Body::Ban(_) | Body::Defaults(_) | Body::Reconcile(_) | Body::Events(_) => Vec::new(),
    }
}

/// A node that is removed has no clients to disconnect gradually.
fn check_cluster(document: &Document, cluster: &ClusterSpec) -> Vec<Diagnostic> {
    let both = cluster.evacuate.iter().enumerate().filter(|(_, name)| cluster.removes(name));
    both.map(|(index, name)| {
        let path = InstancePath::from_keys(&["cluster", "evacuate"]).index(index);
        let message = format!("{name} is in `removed` too, so it is not a member that could be evacuated");
        let mut diagnostic = document.diagnostic(Severity::Warning, "no-effect", &path, message);
        diagnostic.help = Some("remove it from one of the two lists".into());
        diagnostic
    })
    .collect()
}

fn check_acl(document: &Document, acl: &Acl) -> Vec<Diagnostic> {
    let rules = InstancePath::from_keys(&["acl", "rules"]);
    let mut found = Vec::new();
    for (index, rule) in acl.rules.iter().enumerate() {
        if rule.retain.is_some() && rule.action == super::AclAction::Subscribe {
            let path = rules.index(index).key("retain");
            let message = "the rule never matches: subscriptions have no retain flag";
            found.push(document.diagnostic(Severity::Warning, "never-matches", &path, message));
        }
        for (number, pattern) in rule.topics.iter().flatten().enumerate() {
            let Some(level) = touching_placeholders(pattern.as_str()) else { continue };
            let path = rules.index(index).key("topics").index(number);
            let message = format!(
                "the placeholders in {level:?} have nothing between them: clients could choose values that join to \
                 another client's"
            );
            let mut diagnostic = document.diagnostic(Severity::Error, "placeholders", &path, message);
            diagnostic.help = Some(
                "write them in levels of their own, or put a character between them that no client id and no username \
                 contains"
                    .into(),
            );
            found.push(diagnostic);
        }
    }
    for (later, earlier) in unreachable_rules(acl) {
        let (later_path, earlier_path) = (rules.index(later), rules.index(earlier));
        let message = format!(
            "the rule never decides: rule {} ({}) comes before it and matches everything that it matches",
            earlier + 1,
            permission_word(acl.rules.get(earlier)),
        );
        let mut diagnostic = document.diagnostic(Severity::Warning, "shadowed-rule", &later_path, message);
        diagnostic.help = Some("remove it, move it up, or give it a higher `priority`".into());
        diagnostic.related.push(Related {
            file: document.origin.file.clone(),
            position: earlier_path.position_in(&document.node),
            message: format!("rule {}", earlier + 1),
        });
        found.push(diagnostic);
    }
    found
}

fn permission_word(rule: Option<&AclRule>) -> &'static str {
    match rule.map(|rule| rule.permission) {
        Some(super::Permission::Allow) => "allow",
        _ => "deny",
    }
}

/// A service that is asked over `http://` gets passwords in clear text, unless it is on this machine.
fn check_auth(document: &Document, auth: &Auth) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (index, each) in auth.chain.iter().enumerate() {
        let Authenticator::Http(hook) = each else { continue };
        let Some(host) = hook.url.strip_prefix("http://").map(host_of) else { continue };
        if !is_loopback(host) {
            let path = InstancePath::from_keys(&["auth", "chain"]).index(index).key("http").key("url");
            let message = format!("clients' passwords go to {host} in clear text");
            let mut diagnostic = document.diagnostic(Severity::Warning, "clear-text", &path, message);
            diagnostic.help = Some("write https:// and name the service's authority in `caFile`".into());
            found.push(diagnostic);
        }
    }
    found
}

/// The host of what follows the scheme in a URL, without its port.
fn host_of(rest: &str) -> &str {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn check_bridge(document: &Document, bridge: &Bridge) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (direction, rules) in [("out", &bridge.out), ("in", &bridge.inward)] {
        for (index, rule) in rules.iter().enumerate() {
            let Some(prefix) = &rule.strip_prefix else { continue };
            if !literal_prefix(&rule.filter).starts_with(&**prefix) {
                let path = InstancePath::from_keys(&["bridge", direction]).index(index).key("stripPrefix");
                let message = format!("not every topic that {:?} matches begins with {:?}", &*rule.filter, &**prefix);
                let mut diagnostic = document.diagnostic(Severity::Error, "strip-prefix", &path, message);
                diagnostic.help = Some("use a prefix of the filter that ends before its first wildcard".into());
                found.push(diagnostic);
            }
        }
    }
    if bridge.out.is_empty() && bridge.inward.is_empty() {
        let path = InstancePath::from_keys(&["bridge"]);
        let mut diagnostic = document.diagnostic(
            Severity::Warning,
            "no-effect",
            &path,
            "the bridge has no rules, so it forwards nothing",
        );
        diagnostic.help = Some("add rules to `out` or `in`".into());
        found.push(diagnostic);
    }
    if bridge.tls != super::BridgeTls::default() && bridge.address.iter().all(|address| !address.tls) {
        let path = InstancePath::from_keys(&["bridge", "tls"]);
        let mut diagnostic = document.diagnostic(
            Severity::Warning,
            "no-effect",
            &path,
            "`tls` has no effect: no address begins with mqtts://",
        );
        diagnostic.help = Some("write mqtts:// in `address`".into());
        found.push(diagnostic);
    }
    if bridge.password.is_some() {
        for (index, address) in bridge.address.iter().enumerate() {
            if !address.tls && !is_loopback(&address.host) {
                let path = InstancePath::from_keys(&["bridge", "address"]).index(index);
                let message = format!("the bridge's password goes to {} in clear text", address.host);
                let mut diagnostic = document.diagnostic(Severity::Warning, "clear-text", &path, message);
                diagnostic.help =
                    Some("write mqtts://, and name the authority in `tls.caFile` if it is not public".into());
                found.push(diagnostic);
            }
        }
    }
    if bridge.reconnect.min_ms > bridge.reconnect.max_ms {
        let path = InstancePath::from_keys(&["bridge", "reconnect"]);
        let message = format!("minMs ({}) is more than maxMs ({})", bridge.reconnect.min_ms, bridge.reconnect.max_ms);
        found.push(document.diagnostic(Severity::Error, "out-of-range", &path, message));
    }
    found
}

/// The prefix that all topics of a filter share.
fn literal_prefix(filter: &str) -> &str {
    filter.find(['+', '#']).map_or(filter, |wildcard| filter.get(..wildcard).unwrap_or_default())
}
