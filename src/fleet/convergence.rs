//! Which brokers have the newest documents, and which node names are used twice. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::state::NodeRecord;
use crate::state::Phase;
use weir_declare::reconcile::Timestamp;

/// The record of a broker that was killed and restarted stays until its lease expires: only a longer coexistence means
/// two brokers.
const DUPLICATE_GRACE_MS: u64 = 15_000;

/// How one broker stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConvergence {
    pub converged: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// How each of `nodes` stands to the newest documents that any of them has seen.
pub fn node_convergence(nodes: &[NodeRecord]) -> Vec<NodeConvergence> {
    let revision = |node: &NodeRecord| node.attempted_revision.as_ref().and_then(|text| text.parse::<i64>().ok());
    let newest = nodes.iter().filter(|node| node.attempted_documents.is_some()).max_by_key(|node| revision(node));
    nodes.iter().map(|node| convergence(node, newest)).collect()
}

fn convergence(node: &NodeRecord, newest: Option<&NodeRecord>) -> NodeConvergence {
    let not = |reason: String| NodeConvergence { converged: false, reason: Some(reason) };
    if node.phase == Phase::Draining {
        return not("it is shutting down".to_owned());
    }
    let Some(applied) = &node.applied_revision else {
        return not(node.error.clone().unwrap_or_else(|| "nothing is applied yet".to_owned()));
    };
    if let Some(error) = &node.error {
        return not(format!("its source cannot be read: {error}"));
    }
    let (wanted, at) = match newest {
        Some(newest) => (&newest.attempted_documents, &newest.attempted_revision),
        None => (&node.attempted_documents, &node.attempted_revision),
    };
    let has = match wanted {
        Some(_) => node.applied_documents == *wanted,
        None => node.applied_revision == node.attempted_revision,
    };
    if has {
        return NodeConvergence { converged: true, reason: None };
    }
    not(format!("it has applied revision {applied}, the newest is {}", at.as_deref().unwrap_or("not known")))
}

/// Watches for how long names are taken twice.
#[derive(Debug, Default)]
pub struct DuplicateNames {
    since: BTreeMap<String, Timestamp>,
}

impl DuplicateNames {
    /// The names that several processes have had for longer than the grace time. The second value: when to check again
    /// for names that are within it.
    pub fn observe<'a>(
        &mut self,
        nodes: impl Iterator<Item = &'a NodeRecord>,
        now: Timestamp,
    ) -> (BTreeSet<String>, Option<Timestamp>) {
        let mut instances: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for node in nodes {
            instances.entry(&node.name).or_default().insert(&node.instance);
        }
        instances.retain(|_, instances| instances.len() > 1);
        self.since.retain(|name, _| instances.contains_key(name.as_str()));
        for name in instances.keys() {
            self.since.entry((*name).to_owned()).or_insert(now);
        }
        let is_long = |since: Timestamp| now.since_ms(since) >= DUPLICATE_GRACE_MS;
        let duplicates =
            self.since.iter().filter(|(_, since)| is_long(**since)).map(|(name, _)| name.clone()).collect();
        let next =
            self.since.values().filter(|since| !is_long(**since)).map(|since| since.plus_ms(DUPLICATE_GRACE_MS)).min();
        (duplicates, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, attempted: (&str, &str), applied: (&str, &str)) -> NodeRecord {
        NodeRecord {
            name: name.into(),
            instance: name.into(),
            phase: Phase::Serving,
            attempted_revision: Some(attempted.0.into()),
            attempted_documents: Some(attempted.1.into()),
            applied_revision: Some(applied.0.into()),
            applied_documents: Some(applied.1.into()),
            ..NodeRecord::default()
        }
    }

    fn converged(nodes: &[NodeRecord]) -> Vec<bool> {
        node_convergence(nodes).iter().map(|convergence| convergence.converged).collect()
    }

    #[test]
    fn a_broker_with_the_newest_documents_has_converged() {
        let same = [node("a", ("7", "x"), ("7", "x")), node("b", ("9", "x"), ("9", "x"))];
        assert_eq!(converged(&same), [true, true], "by what they have, not by when they read it");
        let behind = [node("a", ("9", "x"), ("9", "x")), node("b", ("10", "y"), ("10", "y"))];
        assert_eq!(converged(&behind), [false, true], "revisions are numbers");
        assert!(node_convergence(&behind)[0].reason.as_ref().unwrap().contains("revision 9, the newest is 10"));
        let waiting = [node("a", ("10", "y"), ("9", "x"))];
        assert_eq!(converged(&waiting), [false], "seen is not applied");
    }

    #[test]
    fn a_broker_without_a_readable_source_has_not_converged() {
        let mut cut_off = node("a", ("7", "x"), ("7", "x"));
        cut_off.error = Some("no answer".into());
        let starting = NodeRecord { name: "b".into(), ..NodeRecord::default() };
        let leaving = NodeRecord { phase: Phase::Draining, ..node("c", ("7", "x"), ("7", "x")) };
        let reasons: Vec<String> = node_convergence(&[cut_off, starting, leaving])
            .into_iter()
            .filter_map(|convergence| convergence.reason)
            .collect();
        assert_eq!(reasons, ["its source cannot be read: no answer", "nothing is applied yet", "it is shutting down"]);
    }

    #[test]
    fn a_broker_of_a_directory_is_compared_with_itself() {
        let mut files = node("a", ("0badc0ffee00", ""), ("0badc0ffee00", ""));
        (files.attempted_documents, files.applied_documents) = (None, None);
        assert_eq!(converged(std::slice::from_ref(&files)), [true]);
        files.attempted_revision = Some("c0ffee".into());
        assert_eq!(converged(&[files]), [false]);
    }

    #[test]
    fn a_duplicate_name_is_reported_after_the_grace_time() {
        let at = Timestamp::from_unix_ms;
        let one = node("n1", ("1", "x"), ("1", "x"));
        let other = NodeRecord { instance: "other".into(), ..one.clone() };
        let both = [one.clone(), other];
        let mut watch = DuplicateNames::default();
        assert_eq!(watch.observe(both.iter(), at(0)), (BTreeSet::new(), Some(at(15_000))), "a former self");
        assert_eq!(watch.observe(std::iter::once(&one), at(9_000)), (BTreeSet::new(), None), "which is gone");
        watch.observe(both.iter(), at(10_000));
        let (duplicates, next) = watch.observe(both.iter(), at(25_000));
        assert_eq!((duplicates.len(), next), (1, None));
    }
}
