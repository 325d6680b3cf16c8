//! A broker's record of itself: one value in etcd, one row of `/api/cluster/nodes`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::control::{ControlState, EndpointState, Phase};
use weir_declare::config::{Diagnostic, Kind};
use weir_declare::reconcile::{ConditionReason, ConditionType, Timestamp};

const FORMAT: &str = "weir/node/v1";
/// Refusals in a record; the others are counted.
const REFUSALS_MAX: usize = 50;
/// Addresses in a record.
const ADDRESSES_MAX: usize = 100;
/// Characters of a refusal's message.
const MESSAGE_CHARS_MAX: usize = 400;

/// A broker, in its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    pub format: String,
    pub name: String,
    /// Of this process: two brokers of one name differ in it.
    pub instance: String,
    pub version: String,
    pub started_at: Timestamp,
    pub status_url: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub phase: Phase,
    pub endpoints: EndpointSummary,
    pub attempted_revision: Option<String>,
    pub applied_revision: Option<String>,
    /// Digests over the documents as bytes; a directory has none.
    pub attempted_documents: Option<String>,
    pub applied_documents: Option<String>,
    /// The commit that was pushed, where the documents are those of it.
    pub commit: Option<String>,
    pub declaration_digest: String,
    pub live_digest: String,
    pub connections: u64,
    /// By the key (or file) that the document stands in.
    pub refusals: BTreeMap<String, NodeRefusal>,
    /// The number of refusals that the record has no room for.
    pub more_refusals: usize,
    /// The current error of the source.
    #[serde(rename = "trouble")]
    pub error: Option<String>,
}

/// A broker's endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSummary {
    pub declared: usize,
    pub listening: usize,
    /// Of those that listen, by name, up to a bound.
    pub addresses: BTreeMap<String, String>,
}

/// A document that is not as it declares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRefusal {
    /// The endpoint, where it is one's.
    pub endpoint: Option<String>,
    pub reason: String,
    pub message: String,
}

/// Facts about a broker besides the state of its control plane.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    pub instance: String,
    pub version: String,
    pub status_url: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Where endpoints without a `host` listen.
    pub default_host: Option<std::net::IpAddr>,
}

/// The other brokers, as this one has read them.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
    /// All others, by name and instance.
    pub others: Vec<NodeRecord>,
    /// Names that several brokers have.
    pub duplicates: BTreeSet<String>,
    /// Why the list may be incomplete, and this broker missing from the lists of others.
    pub error: Option<String>,
}

/// Why a text cannot be a node's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeNameError {
    #[error("a node's name must not be empty")]
    Empty,
    #[error("a node's name has at most 255 bytes")]
    TooLong,
    #[error("a node's name must not contain {character:?}: {name:?}")]
    Character { name: String, character: char },
}

/// Checks that a broker may have this name: it becomes the last segment of a key in etcd.
///
/// # Errors
/// See [`NodeNameError`].
pub fn check_node_name(name: &str) -> Result<(), NodeNameError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == '~';
    match name.chars().find(|c| bad(*c)) {
        _ if name.is_empty() => Err(NodeNameError::Empty),
        _ if name.len() > 255 => Err(NodeNameError::TooLong),
        Some(character) => Err(NodeNameError::Character { name: name.to_owned(), character }),
        None => Ok(()),
    }
}

/// Why a value is not a broker's record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("its format is {0:?}")]
    Format(String),
}

impl NodeRecord {
    /// The record of the current state.
    pub fn new(control: &ControlState, facts: &NodeFacts, connections: u64) -> Self {
        let source = &control.source;
        let (refusals, more_refusals) = refusals(control);
        Self {
            format: FORMAT.to_owned(),
            name: control.node_name.clone(),
            instance: facts.instance.clone(),
            version: facts.version.clone(),
            started_at: control.started_at,
            status_url: facts.status_url.clone(),
            labels: facts.labels.clone(),
            phase: control.phase,
            endpoints: endpoints(control, facts),
            attempted_revision: source.attempted_revision.clone(),
            applied_revision: source.applied_revision.clone(),
            attempted_documents: source.store.as_ref().map(|store| store.attempted_documents.clone()),
            applied_documents: source.store.as_ref().and_then(|store| store.applied_documents.clone()),
            commit: source.commit.as_ref().map(|commit| commit.id.clone()),
            declaration_digest: control.declaration_digest.clone(),
            live_digest: control.live_digest.clone(),
            connections,
            refusals,
            more_refusals,
            error: source.error.as_ref().map(|error| error.message.clone()),
        }
    }

    /// Reads a record.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: Self = serde_json::from_slice(bytes)?;
        record.check_format()?;
        Ok(record)
    }

    /// Whether this build knows the format.
    ///
    /// # Errors
    /// See [`RecordError::Format`].
    pub(super) fn check_format(&self) -> Result<(), RecordError> {
        if self.format == FORMAT { Ok(()) } else { Err(RecordError::Format(self.format.clone())) }
    }

    /// A record of a broker that has told nothing.
    pub fn empty() -> Self {
        Self { format: FORMAT.to_owned(), ..Self::default() }
    }

    /// The record without what may be long: addresses and labels; refusals are counted, and a long error is cut.
    pub(super) fn without_details(&self) -> Self {
        let mut record = self.clone();
        record.more_refusals += record.refusals.len();
        record.refusals.clear();
        record.endpoints.addresses.clear();
        record.labels.clear();
        record.error = record.error.as_deref().map(bounded);
        record
    }

    /// As it is stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings, numbers and times: serialization cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Whether the records are equal, apart from the number of clients.
    pub fn is_same(&self, other: &Self) -> bool {
        let connections = other.connections;
        Self { connections, ..self.clone() } == *other
    }
}

fn endpoints(control: &ControlState, facts: &NodeFacts) -> EndpointSummary {
    let declared = control.endpoints.values().filter(|endpoint| endpoint.declared.is_some()).count();
    let programmed = |endpoint: &&Arc<EndpointState>| endpoint.conditions.is_true(ConditionType::Programmed);
    let listening = control.endpoints.values().filter(programmed).count();
    let host = facts.default_host.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    let addresses =
        control.endpoints.iter().filter(|(_, endpoint)| programmed(endpoint)).filter_map(|(name, endpoint)| {
            Some((name.to_string(), endpoint.live.as_ref()?.listen.bind_address(host).to_string()))
        });
    EndpointSummary { declared, listening, addresses: addresses.take(ADDRESSES_MAX).collect() }
}

/// By key: refused endpoints, by their conditions, then all other errors.
fn refusals(control: &ControlState) -> (BTreeMap<String, NodeRefusal>, usize) {
    let mut found: BTreeMap<String, NodeRefusal> = BTreeMap::new();
    for (name, endpoint) in &control.endpoints {
        if let Some((reason, message)) = refusal(endpoint) {
            // An endpoint that was never valid has no origin of its own: its diagnostic has one.
            let file = endpoint.origin.rsplit_once(':').map(|(file, _)| file).filter(|file| !file.is_empty());
            let said = || control.diagnostics.iter().find(|each| endpoint_of(each).is_some_and(|each| *each == **name));
            let key = file.or_else(|| said().map(|diagnostic| &*diagnostic.file)).unwrap_or(name);
            let refused = NodeRefusal { endpoint: Some(name.to_string()), reason, message: bounded(&message) };
            found.entry(key.to_owned()).or_insert(refused);
        }
    }
    for diagnostic in control.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()) {
        let refused = NodeRefusal {
            endpoint: endpoint_of(diagnostic),
            reason: format!("{:?}", ConditionReason::Invalid),
            message: bounded(&diagnostic.to_string()),
        };
        found.entry(diagnostic.file.to_string()).or_insert(refused);
    }
    let more = found.len().saturating_sub(REFUSALS_MAX);
    (found.into_iter().take(REFUSALS_MAX).collect(), more)
}

fn endpoint_of(diagnostic: &Diagnostic) -> Option<String> {
    let identity = diagnostic.identity.as_ref().filter(|identity| identity.kind == Kind::Endpoint)?;
    Some(identity.name.to_string())
}

/// The refusal of an endpoint; a state that is declared so is none.
fn refusal(endpoint: &EndpointState) -> Option<(String, String)> {
    let meant = |reason| {
        matches!(
            reason,
            ConditionReason::AsDeclared
                | ConditionReason::Pending
                | ConditionReason::Suspended
                | ConditionReason::Disabled
                | ConditionReason::NotSelected
                | ConditionReason::Removed
                | ConditionReason::ShuttingDown
        )
    };
    let good = |kind: ConditionType, holds: bool| kind.healthy_when_true() == holds;
    let bad = endpoint.conditions.iter().find(|condition| {
        let holds = match condition.status {
            weir_declare::reconcile::ConditionStatus::True => true,
            weir_declare::reconcile::ConditionStatus::False => false,
            weir_declare::reconcile::ConditionStatus::Unknown => return false,
        };
        condition.kind != ConditionType::Draining && !good(condition.kind, holds) && !meant(condition.reason)
    })?;
    Some((format!("{:?}", bad.reason), bad.message.clone()))
}

fn bounded(message: &str) -> String {
    if message.chars().count() <= MESSAGE_CHARS_MAX {
        return message.to_owned();
    }
    message.chars().take(MESSAGE_CHARS_MAX).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_another_format_is_refused() {
        let record = NodeRecord { format: FORMAT.into(), name: "n1".into(), ..NodeRecord::default() };
        assert_eq!(NodeRecord::parse(&record.to_bytes()).unwrap(), record);
        let other = NodeRecord { format: "weir/node/v9".into(), ..record.clone() };
        assert!(NodeRecord::parse(&other.to_bytes()).unwrap_err().to_string().contains("v9"));
        assert!(record.is_same(&NodeRecord { connections: 7, ..record.clone() }));
        assert!(!record.is_same(&NodeRecord { live_digest: "x".into(), ..record.clone() }));
    }

    #[test]
    fn names_that_cannot_be_a_segment_are_refused() {
        for (name, is) in
            [("n1", true), ("host.example.com", true), ("", false), ("a/b", false), ("a~b", false), ("a b", false)]
        {
            assert_eq!(check_node_name(name).is_ok(), is, "{name:?}");
        }
    }
}
