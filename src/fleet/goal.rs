//! The goal of `weir wait`, and whether the brokers have reached it. Pure.

use crate::state::Phase;
use crate::state::{NodeRecord, NodeRefusal};

/// A commit's beginning that is shorter than this may be another's.
const COMMIT_CHARS_MIN: usize = 7;

/// Until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// A revision of the store or later; a commit, or its beginning.
    Revision(String),
    /// A declaration digest, as `weir validate` prints it.
    Digest(String),
    /// The content of the source at the time of the request: this number of readings has begun and ended since.
    Reads(u64),
}

/// Which refusals count; without a field set, all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefusalFilter {
    pub endpoint: Option<String>,
    /// A key below `endpoints/`, or a whole one.
    pub key: Option<String>,
}

/// What the queried broker has read of the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceProgress {
    /// Whether its revisions are an etcd's, numbers that grow. Others are commits or digests, whatever digits they
    /// have.
    pub is_numbered: bool,
    pub reads: u64,
    /// Of a store: the revision up to which it is read, and the digest of its documents there.
    pub read_revision: Option<i64>,
    pub documents: Option<String>,
    /// The applied revision that has the wanted commit among its ancestors, where the broker knows that.
    pub containing: Option<String>,
    /// The applied revision that has the wanted commit among its ancestors, and earlier contents of all files that it changed.
    pub rolled_back_in: Option<String>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GoalStatus {
    /// The brokers that have not reached the goal, with the reason.
    Waiting(Vec<(String, String)>),
    /// All brokers have reached it; the refusals, by broker.
    Applied(Vec<(String, String)>),
}

/// Why a source can never reach a revision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GoalError {
    #[error("the broker follows an etcd, whose revisions are numbers: {wanted:?} is not a number")]
    NotANumber { wanted: String },
    #[error(
        "{wanted:?} is not a commit: the broker follows no etcd, so a revision is a commit (or the digest that `weir \
         status` shows), or at least {COMMIT_CHARS_MIN} digits of its beginning"
    )]
    NotACommit { wanted: String },
    #[error(
        "{wanted} was rolled back: the applied revision {applied} is later, but every file that {wanted} changed has an \
         earlier content again. Wait for {applied} instead"
    )]
    RolledBack { wanted: String, applied: String },
}

/// Whether a source with such revisions can reach `goal`.
///
/// # Errors
/// See [`GoalError`].
pub fn check_goal(goal: &Goal, progress: &SourceProgress) -> Result<(), GoalError> {
    let Goal::Revision(wanted) = goal else { return Ok(()) };
    if progress.is_numbered {
        let is_number = wanted.parse::<i64>().is_ok();
        return if is_number { Ok(()) } else { Err(GoalError::NotANumber { wanted: wanted.clone() }) };
    }
    let wanted = wanted.clone();
    match &progress.rolled_back_in {
        _ if !is_commit_id(&wanted) => Err(GoalError::NotACommit { wanted }),
        Some(applied) => Err(GoalError::RolledBack { wanted, applied: applied.clone() }),
        None => Ok(()),
    }
}

/// Whether a text may be the id of a commit, or its beginning.
pub fn is_commit_id(text: &str) -> bool {
    (COMMIT_CHARS_MIN..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Judges `nodes` by `goal`.
pub fn check_nodes(nodes: &[NodeRecord], progress: &SourceProgress, goal: &Goal, filter: &RefusalFilter) -> GoalStatus {
    let waiting: Vec<(String, String)> =
        nodes.iter().filter_map(|node| Some((node.name.clone(), unmet(node, progress, goal)?))).collect();
    if nodes.is_empty() {
        return GoalStatus::Waiting(vec![("-".to_owned(), "no broker is known".to_owned())]);
    }
    if !waiting.is_empty() {
        return GoalStatus::Waiting(waiting);
    }
    let refusals = nodes.iter().flat_map(|node| {
        let wanted = node.refusals.iter().filter(|(key, refused)| concerns(key, refused, filter));
        wanted.map(|(key, refused)| {
            let at = if refused.message.contains(key.as_str()) { String::new() } else { format!("{key}: ") };
            (node.name.clone(), format!("{at}{}: {}", refused.reason, refused.message))
        })
    });
    let mut refusals: Vec<(String, String)> = refusals.collect();
    let is_unfiltered = *filter == RefusalFilter::default();
    for node in nodes.iter().filter(|node| is_unfiltered && node.more_refusals > 0) {
        refusals.push((node.name.clone(), format!("and {} more documents", node.more_refusals)));
    }
    GoalStatus::Applied(refusals)
}

/// Why a broker has not reached the goal; `None`: it has.
fn unmet(node: &NodeRecord, progress: &SourceProgress, goal: &Goal) -> Option<String> {
    if node.phase == Phase::Draining {
        return Some("it is shutting down".to_owned());
    }
    let Some(applied) = &node.applied_revision else {
        return Some(with_source_error(node, "nothing is applied yet"));
    };
    let same_documents = progress.documents.is_some() && node.applied_documents == progress.documents;
    match goal {
        Goal::Digest(digest) if node.declaration_digest == *digest => None,
        Goal::Digest(_) => Some(with_source_error(node, &format!("its digest is {}", node.declaration_digest))),
        Goal::Revision(wanted) => {
            let reached = if progress.is_numbered {
                let wanted = wanted.parse::<i64>().ok();
                let is_read = wanted.is_some_and(|wanted| progress.read_revision.is_some_and(|read| read >= wanted));
                let is_later = wanted.is_some_and(|wanted| applied.parse().is_ok_and(|applied: i64| applied >= wanted));
                is_later || (is_read && same_documents)
            } else {
                is_commit(applied, wanted) || progress.containing.as_ref() == Some(applied)
            };
            if reached {
                return None;
            }
            Some(with_source_error(node, &format!("it has applied revision {applied}")))
        }
        Goal::Reads(reads) if progress.reads < *reads => Some(with_source_error(node, "the source is being read")),
        Goal::Reads(_) => {
            let settled = if progress.documents.is_some() {
                same_documents
            } else {
                node.applied_revision == node.attempted_revision
            };
            (!settled).then(|| {
                with_source_error(node, &format!("it has applied revision {applied}, which is not the newest"))
            })
        }
    }
}

/// Whether two commit ids, short or long, name one commit. Uncommitted content has no id.
fn is_commit(applied: &str, wanted: &str) -> bool {
    let common = applied.len().min(wanted.len());
    let (Some(applied_part), Some(wanted)) = (applied.get(..common), wanted.get(..common)) else { return false };
    common >= COMMIT_CHARS_MIN && !applied.contains('+') && applied_part.eq_ignore_ascii_case(wanted)
}

fn with_source_error(node: &NodeRecord, what: &str) -> String {
    match &node.error {
        Some(error) => format!("{what} ({error})"),
        None => what.to_owned(),
    }
}

fn concerns(key: &str, refused: &NodeRefusal, filter: &RefusalFilter) -> bool {
    let by_name = filter.endpoint.as_ref().is_none_or(|name| refused.endpoint.as_ref() == Some(name));
    let by_key = filter.key.as_ref().is_none_or(|wanted| is_key(key, wanted));
    by_name && by_key
}

/// Whether `wanted` means the key: whole, or below `endpoints/`, with or without extension.
fn is_key(key: &str, wanted: &str) -> bool {
    let stem = |path: &str| {
        let found = [".yaml", ".yml", ".json"].iter().find_map(|extension| path.strip_suffix(extension));
        found.unwrap_or(path).to_owned()
    };
    let (key, wanted) = (stem(key), stem(wanted));
    match key.split_once("/endpoints/") {
        _ if key == wanted => true,
        Some((_, below)) => below == wanted,
        // A file's path begins with the directory as it was given.
        None => key.strip_suffix(wanted.as_str()).is_some_and(|before| before.ends_with('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, applied: &str, documents: &str) -> NodeRecord {
        NodeRecord {
            name: name.into(),
            phase: Phase::Serving,
            attempted_revision: Some(applied.into()),
            applied_revision: Some(applied.into()),
            applied_documents: Some(documents.into()),
            declaration_digest: format!("v1-{documents}"),
            ..NodeRecord::default()
        }
    }

    fn refusing(mut node: NodeRecord, key: &str, endpoint: Option<&str>) -> NodeRecord {
        let refused =
            NodeRefusal { endpoint: endpoint.map(Into::into), reason: "Invalid".into(), message: "no port".into() };
        node.refusals.insert(key.into(), refused);
        node
    }

    fn progress(read_revision: i64, documents: &str) -> SourceProgress {
        SourceProgress {
            is_numbered: true,
            reads: 3,
            read_revision: Some(read_revision),
            documents: Some(documents.into()),
            ..SourceProgress::default()
        }
    }

    fn names(status: GoalStatus) -> Vec<String> {
        match status {
            GoalStatus::Waiting(waiting) => waiting.into_iter().map(|(name, _)| name).collect(),
            GoalStatus::Applied(refusals) => panic!("applied, {refusals:?}"),
        }
    }

    const ALL: RefusalFilter = RefusalFilter { endpoint: None, key: None };

    #[test]
    fn a_revision_is_reached_by_number_by_documents_or_by_commit() {
        let revision = |text: &str| Goal::Revision(text.into());
        let nodes = [node("a", "12", "x"), node("b", "9", "y")];
        assert_eq!(names(check_nodes(&nodes, &progress(12, "x"), &revision("12"), &ALL)), ["b"]);
        assert_eq!(names(check_nodes(&nodes, &progress(12, "x"), &revision("100"), &ALL)), ["a", "b"]);
        let same = [node("a", "12", "x"), node("b", "9", "x")];
        let status = check_nodes(&same, &progress(50, "x"), &revision("40"), &ALL);
        assert_eq!(status, GoalStatus::Applied(vec![]), "nothing of ours changed up to 50, and both have it");
        let commit = [node("a", "0badc0ffee00", "")];
        for (wanted, reached) in
            [("0badc0ffee0012345678", true), ("0badc0f", true), ("0bad", false), ("c0ffee0", false)]
        {
            let status = check_nodes(&commit, &SourceProgress::default(), &revision(wanted), &ALL);
            assert_eq!(matches!(status, GoalStatus::Applied(_)), reached, "{wanted}");
        }
        let ancestor = SourceProgress { containing: Some("0badc0ffee00".into()), ..SourceProgress::default() };
        let status = check_nodes(&commit, &ancestor, &revision("1234567"), &ALL);
        assert_eq!(status, GoalStatus::Applied(vec![]), "an ancestor of the applied commit is applied");
        let undone = SourceProgress { rolled_back_in: Some("0badc0ffee00".into()), ..SourceProgress::default() };
        assert_eq!(
            names(check_nodes(&commit, &undone, &revision("1234567"), &ALL)),
            ["a"],
            "its content is not applied"
        );
        assert!(matches!(check_goal(&revision("1234567"), &undone), Err(GoalError::RolledBack { .. })));
        let moved = SourceProgress { containing: Some("c0ffee000000".into()), ..SourceProgress::default() };
        assert_eq!(names(check_nodes(&commit, &moved, &revision("1234567"), &ALL)), ["a"]);
        let dirty = [node("a", "0badc0ffee00+dirty", "")];
        assert_eq!(names(check_nodes(&dirty, &SourceProgress::default(), &revision("0badc0ffee00"), &ALL)), ["a"]);
    }

    #[test]
    fn a_revision_is_a_number_where_the_source_is_an_etcd_and_nowhere_else() {
        let commit = SourceProgress::default();
        let number = progress(1_234_567, "y");
        for (source, applied, wanted, sense, reached) in [
            (&commit, "123456789012", "5", false, false),
            (&commit, "123456789012", "0000005", true, false),
            (&commit, "123456789012", "1234567", true, true),
            (&commit, "123456789012", "1234568", true, false),
            (&commit, "123456789012", "main", false, false),
            (&commit, "0badc0ffee00", "0BADC0F", true, true),
            (&commit, "0badc0ffee00", "", false, false),
            (&number, "1234567", "5", true, true),
            (&number, "1234567", "1234567", true, true),
            (&number, "1234567", "1234568", true, false),
            (&number, "1234567", "12345678901234567890123456789012345678ab", false, false),
            (&number, "1234567", "0badc0ffee00", false, false),
        ] {
            let goal = Goal::Revision(wanted.into());
            assert_eq!(check_goal(&goal, source).is_ok(), sense, "{wanted:?}");
            let status = check_nodes(&[node("a", applied, "x")], source, &goal, &ALL);
            assert_eq!(matches!(status, GoalStatus::Applied(_)), reached, "{applied} {wanted:?}");
        }
    }

    #[test]
    fn the_content_at_the_time_of_the_request_is_waited_for() {
        let nodes = [node("a", "12", "x"), node("b", "9", "y")];
        assert_eq!(names(check_nodes(&nodes, &progress(12, "x"), &Goal::Reads(5), &ALL)), ["a", "b"], "not read since");
        assert_eq!(names(check_nodes(&nodes, &progress(12, "x"), &Goal::Reads(3), &ALL)), ["b"]);
        assert_eq!(check_nodes(&nodes[..1], &progress(12, "x"), &Goal::Reads(3), &ALL), GoalStatus::Applied(vec![]));
    }

    #[test]
    fn a_digest_is_reached_when_every_broker_has_it() {
        let nodes = [node("a", "12", "x"), node("b", "9", "y")];
        assert_eq!(names(check_nodes(&nodes, &progress(12, "x"), &Goal::Digest("v1-x".into()), &ALL)), ["b"]);
    }

    #[test]
    fn a_broker_that_starts_or_drains_has_not_reached_the_goal() {
        let starting = NodeRecord { name: "s".into(), ..NodeRecord::default() };
        let leaving = NodeRecord { phase: Phase::Draining, ..node("l", "12", "x") };
        let goal = Goal::Revision("1".into());
        assert_eq!(names(check_nodes(&[starting, leaving], &progress(12, "x"), &goal, &ALL)), ["s", "l"]);
        assert_eq!(names(check_nodes(&[], &progress(12, "x"), &goal, &ALL)), ["-"]);
    }

    #[test]
    fn only_refusals_that_match_the_filter_count() {
        let nodes = [
            refusing(node("a", "12", "x"), "/weir/endpoints/eu/bad.yaml", Some("eu/bad")),
            refusing(node("b", "12", "x"), "/weir/endpoints/acl", None),
        ];
        let goal = Goal::Revision("12".into());
        let count = |filter: RefusalFilter| match check_nodes(&nodes, &progress(12, "x"), &goal, &filter) {
            GoalStatus::Applied(refusals) => refusals.len(),
            GoalStatus::Waiting(waiting) => panic!("{waiting:?}"),
        };
        let endpoint = |name: &str| RefusalFilter { endpoint: Some(name.into()), key: None };
        let key = |key: &str| RefusalFilter { endpoint: None, key: Some(key.into()) };
        assert_eq!(count(ALL), 2);
        assert_eq!((count(endpoint("eu/bad")), count(endpoint("good"))), (1, 0));
        for (text, found) in [("eu/bad", 1), ("/weir/endpoints/eu/bad", 1), ("bad", 0), ("good", 0), ("acl", 1)] {
            assert_eq!(count(key(text)), found, "{text}");
        }
    }
}
