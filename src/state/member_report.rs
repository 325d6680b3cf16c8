//! What the control plane of a node tells those of the other nodes of its cluster, with each heartbeat. Bounded: the
//! heartbeats of all nodes pass through one stream.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::node::{NodeRecord, RecordError};

/// Bytes of the names of endpoints in a report at most, and of those of bridges.
const NAMES_MAX_BYTES: usize = 8 << 10;
/// Bytes of JSON around a name.
const ENTRY_BYTES: usize = 24;

/// A node's report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberReport {
    pub node: NodeRecord,
    /// Clients by endpoint, of the endpoints with the most clients.
    #[serde(default)]
    pub endpoints: BTreeMap<String, u64>,
    /// Clients of all endpoints that are not listed.
    #[serde(default)]
    pub unlisted_clients: u64,
    /// The bridges that the node can run.
    #[serde(default)]
    pub bridges: Vec<String>,
    /// There are bridges that are not listed.
    #[serde(default)]
    pub more_bridges: bool,
}

impl MemberReport {
    /// A report of these endpoints and bridges, as far as there is room for them.
    pub fn new(
        node: NodeRecord,
        endpoints: impl Iterator<Item = (String, u64)>,
        bridges: impl Iterator<Item = String>,
    ) -> Self {
        let mut report = Self { node, ..Self::default() };
        let mut counted: Vec<(String, u64)> = endpoints.filter(|(_, clients)| *clients > 0).collect();
        counted.sort_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then_with(|| a.cmp(b)));
        let mut room = NAMES_MAX_BYTES;
        for (name, clients) in counted {
            match room.checked_sub(name.len() + ENTRY_BYTES) {
                Some(left) => {
                    room = left;
                    report.endpoints.insert(name, clients);
                }
                None => report.unlisted_clients += clients,
            }
        }
        let mut room = NAMES_MAX_BYTES;
        for name in bridges {
            match room.checked_sub(name.len() + ENTRY_BYTES) {
                Some(left) => {
                    room = left;
                    report.bridges.push(name);
                }
                None => report.more_bridges = true,
            }
        }
        report
    }

    /// How many clients an endpoint has at most. More than it has where its count was left out.
    pub fn clients_at_most(&self, endpoint: &str) -> u64 {
        self.endpoints.get(endpoint).copied().unwrap_or(self.unlisted_clients)
    }

    /// Reads a report.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let report: Self = serde_json::from_slice(bytes)?;
        report.node.check_format()?;
        Ok(report)
    }

    /// As it is sent, in at most `max` bytes: of what the record has, the rest is left out. Empty: not even that is enough.
    pub fn to_bytes(&self, max: usize) -> Vec<u8> {
        let without_details = || Self { node: self.node.without_details(), ..self.clone() };
        let counts_only = || {
            let unlisted_clients = self.unlisted_clients + self.endpoints.values().sum::<u64>();
            let more_bridges = self.more_bridges || !self.bridges.is_empty();
            Self { node: self.node.without_details(), unlisted_clients, more_bridges, ..Self::default() }
        };
        // Strings, numbers and times: serialization cannot fail.
        let bytes = |report: &Self| serde_json::to_vec(report).unwrap_or_default();
        let whole = bytes(self);
        if whole.len() <= max {
            return whole;
        }
        let forms = [bytes(&without_details()), bytes(&counts_only())];
        forms.into_iter().find(|bytes| bytes.len() <= max).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::NodeRefusal;

    fn record() -> NodeRecord {
        let refusal = NodeRefusal { endpoint: None, reason: "Invalid".into(), message: "x".repeat(400) };
        let refusals = (0..50).map(|at| (format!("endpoints/e{at}.yaml"), refusal.clone())).collect();
        NodeRecord { name: "n1".into(), refusals, more_refusals: 3, ..NodeRecord::empty() }
    }

    #[test]
    fn a_report_lists_the_endpoints_with_most_clients_and_counts_the_others_together() {
        let endpoints = (0..1000_u64).map(|at| (format!("endpoint-{at:04}"), at));
        let report = MemberReport::new(NodeRecord::empty(), endpoints, std::iter::empty());
        let listed = report.endpoints.len() as u64;
        assert_eq!(listed, NAMES_MAX_BYTES as u64 / (13 + ENTRY_BYTES as u64));
        assert_eq!(report.clients_at_most("endpoint-0999"), 999);
        let rest: u64 = (0..1000 - listed).sum();
        assert_eq!((report.unlisted_clients, report.clients_at_most("endpoint-0001")), (rest, rest));
        let few = MemberReport::new(NodeRecord::empty(), [("a".into(), 3)].into_iter(), std::iter::empty());
        assert_eq!((few.clients_at_most("a"), few.clients_at_most("b")), (3, 0));
    }

    #[test]
    fn a_report_is_read_back_and_loses_details_before_counts_where_it_is_too_long() {
        let bridges = ["out".to_owned()].into_iter();
        let report = MemberReport::new(record(), [("a".into(), 3)].into_iter(), bridges);
        let whole = report.to_bytes(usize::MAX);
        assert_eq!(MemberReport::parse(&whole).unwrap(), report);
        let smaller = MemberReport::parse(&report.to_bytes(whole.len() - 1)).unwrap();
        assert_eq!((smaller.node.refusals.len(), smaller.node.more_refusals), (0, 53));
        assert_eq!((smaller.clients_at_most("a"), &smaller.bridges[..]), (3, &["out".to_owned()][..]));
        let least = report.to_bytes(smaller.to_bytes(usize::MAX).len() - 1);
        let least = MemberReport::parse(&least).unwrap();
        assert_eq!((least.clients_at_most("a"), least.bridges.is_empty(), least.more_bridges), (3, true, true));
        assert!(report.to_bytes(10).is_empty());
    }

    #[test]
    fn the_longest_report_fits_into_a_heartbeat() {
        let names = |prefix: &'static str| (0..400).map(move |at| format!("{prefix}{at:0>240}"));
        let report = MemberReport::new(record(), names("e").map(|name| (name, u64::MAX >> 10)), names("b"));
        let bytes = report.to_bytes(32 << 10);
        assert!(!bytes.is_empty());
        assert!(!MemberReport::parse(&bytes).unwrap().bridges.is_empty());
    }
}
