//! Conflicts between documents: addresses, the default endpoint, references, mountpoints of bridges.
//!
//! An address belongs first to the endpoint that has exactly that address, then to one that has a part of it, then to a
//! new one. So an endpoint whose wish cannot be fulfilled never takes anything from another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::document::Document;
use super::path::InstancePath;
use super::suggest::did_you_mean;
use super::{Authenticator, BindAddress, ClientAuth, Declared, Diagnostic, Endpoint, Kind, Name, NodeContext, Related};
use super::{DEFAULT_NAME, Severity};

/// An endpoint that may be declared.
pub(super) struct Candidate {
    pub(super) endpoint: Arc<Endpoint>,
    /// `None`: the endpoint is held at its last good declaration.
    pub(super) document: Option<Arc<Document>>,
    /// Its last good declaration.
    pub(super) incumbent: Option<Arc<Endpoint>>,
}

impl Candidate {
    /// A candidate that keeps its last good declaration.
    pub(super) fn held(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint: Arc::clone(&endpoint), document: None, incumbent: Some(endpoint) }
    }
}

/// A candidate that cannot be declared, and why.
pub(super) struct Conflict {
    pub(super) name: Name,
    pub(super) diagnostic: Diagnostic,
    /// The endpoint that has the address; `None`: the conflict is not about an address.
    pub(super) holder: Option<Name>,
}

/// Candidates by name.
pub(super) type Candidates = BTreeMap<Name, Candidate>;

/// All conflicts of the candidates. Once these are resolved there may be new ones: call it again.
pub(super) fn find(candidates: &Candidates, node: &NodeContext, targets: &ReferenceTargets<'_>) -> Vec<Conflict> {
    let mut found = Vec::new();
    address_conflicts(candidates, node, &mut found);
    status_address_conflicts(candidates, node, &mut found);
    default_endpoint_conflicts(candidates, &mut found);
    for candidate in candidates.values() {
        missing_references(candidate, targets, &mut found);
    }
    mountpoint_conflicts(candidates, &mut found);
    // One conflict per candidate and field.
    let mut seen = BTreeSet::new();
    found.retain(|conflict| seen.insert((conflict.name.clone(), conflict.diagnostic.path.clone())));
    found
}

/// The documents that endpoints can refer to.
pub(super) struct ReferenceTargets<'a> {
    pub(super) declared: &'a Declared,
    /// In the snapshot, but refused and without a last good declaration.
    pub(super) refused: &'a BTreeSet<(Kind, Name)>,
}

impl ReferenceTargets<'_> {
    fn has(&self, kind: Kind, name: &str) -> bool {
        match kind {
            Kind::Auth => self.declared.auths.contains_key(name),
            Kind::Acl => self.declared.acls.contains_key(name),
            _ => self.declared.bridges.contains_key(name),
        }
    }

    fn names(&self, kind: Kind) -> Vec<&str> {
        match kind {
            Kind::Auth => self.declared.auths.keys().map(Name::as_str).collect(),
            Kind::Acl => self.declared.acls.keys().map(Name::as_str).collect(),
            _ => self.declared.bridges.keys().map(Name::as_str).collect(),
        }
    }
}

/// Which of two candidates keeps what both want, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Precedence {
    /// It is held, so it cannot be refused.
    Held,
    /// Its last good declaration has exactly this.
    SameHolder,
    /// Its last good declaration has a part of this, such as one address of all addresses.
    OverlappingHolder,
    Newcomer,
}

/// Sort key of candidates that want the same: precedence, then name.
fn precedence_of<'a>(
    name: &'a Name,
    candidate: &Candidate,
    incumbent_precedence: impl Fn(&Endpoint) -> Precedence,
) -> (Precedence, &'a Name) {
    let precedence = match (&candidate.document, &candidate.incumbent) {
        (None, _) => Precedence::Held,
        (Some(_), Some(incumbent)) if incumbent.enabled => incumbent_precedence(incumbent),
        _ => Precedence::Newcomer,
    };
    (precedence, name)
}

fn holder_if(holds: bool) -> Precedence {
    if holds { Precedence::SameHolder } else { Precedence::Newcomer }
}

fn address_conflicts(candidates: &Candidates, node: &NodeContext, found: &mut Vec<Conflict>) {
    // Only endpoints with the same port or path can conflict.
    type PortOrPath<'a> = (Option<u16>, Option<&'a std::path::Path>);
    let mut by_port_or_path: Vec<(PortOrPath<'_>, (&Name, &Candidate))> = Vec::with_capacity(candidates.len());
    for (name, candidate) in candidates.iter().filter(|(_, candidate)| candidate.endpoint.enabled) {
        let port_or_path = match &candidate.endpoint.listen {
            super::Listen::Tcp { port, .. } => (Some(*port), None),
            super::Listen::Unix { path } => (None, Some(&**path)),
        };
        by_port_or_path.push((port_or_path, (name, candidate)));
    }
    by_port_or_path.sort_by_key(|(port_or_path, _)| *port_or_path);
    let address = |endpoint: &Endpoint| endpoint.listen.bind_address(node.default_host);
    for contenders in by_port_or_path.chunk_by(|(a, _), (b, _)| a == b).filter(|contenders| contenders.len() > 1) {
        let mut ranked: Vec<(&Name, &Candidate)> = contenders.iter().map(|(_, contender)| *contender).collect();
        ranked.sort_by_key(|(name, candidate)| {
            let wanted = address(&candidate.endpoint);
            precedence_of(name, candidate, |incumbent| match address(incumbent) {
                held if held == wanted => Precedence::SameHolder,
                held if held.overlaps(&wanted) => Precedence::OverlappingHolder,
                _ => Precedence::Newcomer,
            })
        });
        let mut holders: Vec<(&Name, &Candidate)> = Vec::new();
        for (name, candidate) in ranked {
            let wanted = address(&candidate.endpoint);
            let holder = holders.iter().find(|(_, holder)| {
                address(&holder.endpoint).overlaps(&wanted) && holder.endpoint.can_share_node_with(&candidate.endpoint)
            });
            match (holder, &candidate.document) {
                (Some((holder_name, holder)), Some(document)) => found.push(Conflict {
                    name: name.clone(),
                    diagnostic: address_conflict(document, candidate, holder, &wanted, &address(&holder.endpoint)),
                    holder: Some((*holder_name).clone()),
                }),
                _ => holders.push((name, candidate)),
            }
        }
    }
}

fn address_conflict(
    document: &Document,
    candidate: &Candidate,
    holder: &Candidate,
    wanted: &BindAddress,
    held: &BindAddress,
) -> Diagnostic {
    let other = &holder.endpoint;
    let path = InstancePath::from_keys(&["endpoint", if is_tcp(wanted) { "port" } else { "host" }]);
    let message = if wanted == held {
        format!("{wanted} is already taken by endpoint `{}`", other.name)
    } else {
        format!("{wanted} overlaps {held} of endpoint `{}`", other.name)
    };
    let mut diagnostic = document.diagnostic(Severity::Error, "address-conflict", &path, message);
    diagnostic.help = Some(if candidate.endpoint.use_websocket != other.use_websocket {
        "WebSocket and plain MQTT cannot share a port; choose another `port`".into()
    } else {
        "choose another `port`, or another `host` for each".into()
    });
    let place = if holder.document.is_some() { "first taken" } else { "held by the last good declaration" };
    // The position of `port`; of the declaration where its document is not available.
    let port_at = holder.document.as_deref().map(|document| path.position_in(&document.node));
    diagnostic.related.push(Related {
        file: Arc::clone(&other.origin.file),
        position: port_at.unwrap_or(other.origin.position),
        message: place.into(),
    });
    diagnostic
}

fn is_tcp(address: &BindAddress) -> bool {
    matches!(address, BindAddress::Tcp(_))
}

fn status_address_conflicts(candidates: &Candidates, node: &NodeContext, found: &mut Vec<Conflict>) {
    let Some(status) = node.status_addr.filter(|status| status.port() != 0) else { return };
    for (name, candidate) in candidates.iter().filter(|(_, candidate)| candidate.endpoint.enabled) {
        let Some(document) = &candidate.document else { continue };
        let wanted = candidate.endpoint.listen.bind_address(node.default_host);
        if wanted.overlaps(&BindAddress::Tcp(status)) {
            let diagnostic = status_address_conflict(document, &wanted, status);
            found.push(Conflict { name: name.clone(), diagnostic, holder: None });
        }
    }
}

fn status_address_conflict(document: &Document, wanted: &BindAddress, status: SocketAddr) -> Diagnostic {
    let path = InstancePath::from_keys(&["endpoint", "port"]);
    let message = format!("{wanted} is the address of the status listener ({status})");
    let mut diagnostic = document.diagnostic(Severity::Error, "status-port", &path, message);
    diagnostic.help = Some("choose another `port`, or move the status listener with --status-addr".into());
    diagnostic
}

fn default_endpoint_conflicts(candidates: &Candidates, found: &mut Vec<Conflict>) {
    let mut defaults: Vec<_> = candidates.iter().filter(|(_, candidate)| candidate.endpoint.is_default).collect();
    defaults
        .sort_by_key(|(name, candidate)| precedence_of(name, candidate, |incumbent| holder_if(incumbent.is_default)));
    let mut defaults = defaults.into_iter();
    let Some((first, holder)) = defaults.next() else { return };
    for (name, candidate) in defaults {
        let Some(document) = &candidate.document else { continue };
        let path = InstancePath::from_keys(&["endpoint", "isDefault"]);
        let message = format!("endpoint `{first}` is the default already");
        let mut diagnostic = document.diagnostic(Severity::Error, "two-defaults", &path, message);
        diagnostic.help = Some("remove `isDefault` from one of them".into());
        let at = holder.document.as_deref().map(|document| path.position_in(&document.node));
        diagnostic.related.push(Related {
            file: Arc::clone(&holder.endpoint.origin.file),
            position: at.unwrap_or(holder.endpoint.origin.position),
            message: "first".into(),
        });
        found.push(Conflict { name: name.clone(), diagnostic, holder: None });
    }
}

/// References to documents that do not exist.
fn missing_references(candidate: &Candidate, targets: &ReferenceTargets<'_>, found: &mut Vec<Conflict>) {
    let Some(document) = &candidate.document else { return };
    let endpoint = &candidate.endpoint;
    let named = [(Kind::Auth, "auth", &endpoint.auth), (Kind::Acl, "acl", &endpoint.acl)];
    let named = named.into_iter().filter_map(|(kind, field, name)| Some((kind, field, None, name.as_ref()?)));
    let bridges = endpoint.bridges.iter().enumerate().map(|(i, name)| (Kind::Bridge, "bridges", Some(i), name));
    for (kind, field, index, name) in named.chain(bridges) {
        if targets.has(kind, name.as_str()) {
            continue;
        }
        let mut path = InstancePath::from_keys(&["endpoint", field]);
        if let Some(index) = index {
            path = path.index(index);
        }
        let refused = targets.refused.contains(&(kind, name.clone()));
        let why = if refused { "has errors" } else { "does not exist" };
        let message = format!("the {kind} document `{name}` {why}");
        let mut diagnostic = document.diagnostic(Severity::Error, "missing-reference", &path, message);
        let known = targets.names(kind);
        diagnostic.help = match did_you_mean(name.as_str(), known.iter().copied()) {
            _ if refused => Some("fix its errors first".into()),
            Some(near) => Some(format!("did you mean `{near}`?")),
            None if known.is_empty() => Some(format!("add a document `{kind}: {{name: {name}, ...}}`")),
            None => Some(format!("known names: {}", name_list(&known))),
        };
        found.push(Conflict { name: endpoint.name.clone(), diagnostic, holder: None });
    }
}

/// Endpoints with different mountpoints that name one bridge: a bridge carries the topics of one namespace.
fn mountpoint_conflicts(candidates: &Candidates, found: &mut Vec<Conflict>) {
    let mut contenders: BTreeMap<&Name, Vec<(&Name, &Candidate, usize)>> = BTreeMap::new();
    for (name, candidate) in candidates.iter().filter(|(_, candidate)| candidate.endpoint.enable_bridge) {
        for (index, bridge) in candidate.endpoint.bridges.iter().enumerate() {
            contenders.entry(bridge).or_default().push((name, candidate, index));
        }
    }
    for (bridge, mut contenders) in contenders {
        contenders.sort_by_key(|(name, candidate, _)| {
            precedence_of(name, candidate, |incumbent| {
                holder_if(incumbent.enable_bridge && incumbent.bridges.contains(bridge))
            })
        });
        let Some((first, holder, _)) = contenders.first().copied() else { continue };
        for (name, candidate, index) in contenders {
            let Some(document) = &candidate.document else { continue };
            if candidate.endpoint.mountpoint == holder.endpoint.mountpoint {
                continue;
            }
            let path = InstancePath::from_keys(&["endpoint", "bridges"]).index(index);
            let message =
                format!("the bridge `{bridge}` carries the topics of endpoint `{first}`'s mountpoint already");
            let mut diagnostic = document.diagnostic(Severity::Error, "bridge-mountpoint", &path, message);
            diagnostic.help = Some("declare another bridge for this mountpoint".into());
            found.push(Conflict { name: name.clone(), diagnostic, holder: None });
        }
    }
}

fn name_list(names: &[&str]) -> String {
    const MAX: usize = 8;
    let mut shown: Vec<String> = names.iter().take(MAX).map(|name| format!("`{name}`")).collect();
    if names.len() > MAX {
        shown.push(format!("and {} more", names.len() - MAX));
    }
    shown.join(", ")
}

/// Warnings about an endpoint among the other documents: it is valid, but probably a mistake.
pub(super) fn warnings(document: &Document, endpoint: &Endpoint, declared: &Declared) -> Vec<Diagnostic> {
    let mut found = super::build_endpoint::warnings(document, endpoint);
    if !endpoint.enabled {
        return found;
    }
    let mut warn = |field: &str, code, message: String, help: &str| {
        let path = InstancePath::from_keys(&["endpoint", field]);
        let mut diagnostic = document.diagnostic(Severity::Warning, code, &path, message);
        diagnostic.help = Some(help.to_owned());
        found.push(diagnostic);
    };
    let auth = declared.auths.get(endpoint.auth_name());
    if endpoint.enable_auth && endpoint.auth.is_none() && auth.is_none() {
        let message = format!("every CONNECT will be refused: no auth document has the name `{DEFAULT_NAME}`");
        warn("enableAuth", "no-auth", message, "add it, name another one with `auth`, or set `enableAuth: false`");
    }
    if endpoint.enable_acl && endpoint.acl.is_none() && !declared.acls.contains_key(DEFAULT_NAME) {
        let message = format!("every topic will be refused: no acl document has the name `{DEFAULT_NAME}`");
        warn("enableAcl", "no-acl", message, "add it, name another one with `acl`, or set `enableAcl: false`");
    }
    let by_certificate =
        auth.is_some_and(|auth| auth.chain.iter().any(|link| matches!(link, Authenticator::ClientCertificate(_))));
    let asked = endpoint.ssl_config.as_ref().is_some_and(|tls| tls.client_auth != ClientAuth::None)
        || endpoint.proxy_protocol.as_ref().is_some_and(|proxy| proxy.client_certificate);
    if endpoint.enable_auth && by_certificate && !asked {
        let message =
            format!("auth `{}` uses client certificates, but this endpoint does not ask for any", endpoint.auth_name());
        warn("auth", "no-effect", message, "add `clientAuth: optional` or `required` and `caFile` to `sslConfig`");
    }
    found
}
