//! What `weir wait` waits for, and whether it is there. Pure.

use crate::state::Phase;
use crate::state::{NodeRecord, Refused};

/// A commit's beginning that is shorter than this may be another's.
const COMMIT_CHARS_MIN: usize = 7;

/// Until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// A revision of the store or later; a commit, or its beginning.
    Revision(String),
    /// A declaration digest, as `weir validate` prints it.
    Digest(String),
    /// What was there when it was asked: so many readings of the source have begun and ended since.
    Reads(u64),
}

/// Whose refusals count. Neither: everybody's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    pub endpoint: Option<String>,
    /// A key below `endpoints/`, or a whole one.
    pub key: Option<String>,
}

/// What the broker that is asked knows of the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Whether its revisions are an etcd's, numbers that grow. Others are commits or digests, whatever digits they have.
    pub is_numbered: bool,
    pub reads: u64,
    /// Of a store: up to which revision it is known, and the documents' digest there.
    pub read_revision: Option<i64>,
    pub documents: Option<String>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Who has not, and why.
    Waiting(Vec<(String, String)>),
    /// All have; what is refused of it, by broker.
    Applied(Vec<(String, String)>),
}

/// Whether a source with such revisions can ever reach `goal`.
///
/// # Errors
/// Why not, as a sentence.
pub fn check_goal(goal: &Goal, known: &Known) -> Result<(), String> {
    let Goal::Revision(wanted) = goal else { return Ok(()) };
    if known.is_numbered {
        let is_number = wanted.parse::<i64>().is_ok();
        return if is_number {
            Ok(())
        } else {
            Err(format!("the broker follows an etcd, whose revisions are numbers: {wanted:?} is none"))
        };
    }
    if wanted.len() >= COMMIT_CHARS_MIN && wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    Err(format!(
        "{wanted:?} is no commit: the broker follows no etcd, so a revision is a commit (or the digest that `weir status` \
         shows), or at least {COMMIT_CHARS_MIN} digits of its beginning"
    ))
}

/// Judges `nodes` by `goal`.
pub fn judge(nodes: &[NodeRecord], known: &Known, goal: &Goal, interest: &Interest) -> Verdict {
    let waiting: Vec<(String, String)> =
        nodes.iter().filter_map(|node| Some((node.name.clone(), unmet(node, known, goal)?))).collect();
    if nodes.is_empty() {
        return Verdict::Waiting(vec![("-".to_owned(), "no broker is known".to_owned())]);
    }
    if !waiting.is_empty() {
        return Verdict::Waiting(waiting);
    }
    let refusals = nodes.iter().flat_map(|node| {
        let of_interest = node.refusals.iter().filter(|(key, refused)| concerns(key, refused, interest));
        of_interest.map(|(key, refused)| {
            let at = if refused.message.contains(key.as_str()) { String::new() } else { format!("{key}: ") };
            (node.name.clone(), format!("{at}{}: {}", refused.reason, refused.message))
        })
    });
    let mut refusals: Vec<(String, String)> = refusals.collect();
    let everybody = *interest == Interest::default();
    for node in nodes.iter().filter(|node| everybody && node.more_refusals > 0) {
        refusals.push((node.name.clone(), format!("and {} more documents", node.more_refusals)));
    }
    Verdict::Applied(refusals)
}

/// Why a broker has not reached the goal; `None`: it has.
fn unmet(node: &NodeRecord, known: &Known, goal: &Goal) -> Option<String> {
    if node.phase == Phase::Draining {
        return Some("it is shutting down".to_owned());
    }
    let Some(applied) = &node.applied_revision else {
        return Some(with_trouble(node, "nothing is applied yet"));
    };
    let same_documents = known.documents.is_some() && node.applied_documents == known.documents;
    match goal {
        Goal::Digest(digest) if node.declaration_digest == *digest => None,
        Goal::Digest(_) => Some(with_trouble(node, &format!("its digest is {}", node.declaration_digest))),
        Goal::Revision(wanted) => {
            let reached = if known.is_numbered {
                let wanted = wanted.parse::<i64>().ok();
                let is_read = wanted.is_some_and(|wanted| known.read_revision.is_some_and(|read| read >= wanted));
                let is_later = wanted.is_some_and(|wanted| applied.parse().is_ok_and(|applied: i64| applied >= wanted));
                is_later || (is_read && same_documents)
            } else {
                is_commit(applied, wanted)
            };
            if reached {
                return None;
            }
            Some(with_trouble(node, &format!("it has applied revision {applied}")))
        }
        Goal::Reads(reads) if known.reads < *reads => Some(with_trouble(node, "the source is being read")),
        Goal::Reads(_) => {
            let settled = if known.documents.is_some() {
                same_documents
            } else {
                node.applied_revision == node.attempted_revision
            };
            (!settled)
                .then(|| with_trouble(node, &format!("it has applied revision {applied}, which is not the newest")))
        }
    }
}

/// Whether two names of commits, short or long, mean one; what is not committed is another.
fn is_commit(applied: &str, wanted: &str) -> bool {
    let common = applied.len().min(wanted.len());
    let (Some(applied_part), Some(wanted)) = (applied.get(..common), wanted.get(..common)) else { return false };
    common >= COMMIT_CHARS_MIN && !applied.contains('+') && applied_part.eq_ignore_ascii_case(wanted)
}

fn with_trouble(node: &NodeRecord, what: &str) -> String {
    match &node.trouble {
        Some(trouble) => format!("{what} ({trouble})"),
        None => what.to_owned(),
    }
}

fn concerns(key: &str, refused: &Refused, interest: &Interest) -> bool {
    let by_name = interest.endpoint.as_ref().is_none_or(|name| refused.endpoint.as_ref() == Some(name));
    let by_key = interest.key.as_ref().is_none_or(|wanted| is_key(key, wanted));
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
            Refused { endpoint: endpoint.map(Into::into), reason: "Invalid".into(), message: "no port".into() };
        node.refusals.insert(key.into(), refused);
        node
    }

    fn known(read_revision: i64, documents: &str) -> Known {
        Known { is_numbered: true, reads: 3, read_revision: Some(read_revision), documents: Some(documents.into()) }
    }

    fn names(verdict: Verdict) -> Vec<String> {
        match verdict {
            Verdict::Waiting(waiting) => waiting.into_iter().map(|(name, _)| name).collect(),
            Verdict::Applied(refusals) => panic!("applied, {refusals:?}"),
        }
    }

    const ALL: Interest = Interest { endpoint: None, key: None };

    #[test]
    fn a_revision_is_reached_by_number_by_documents_or_by_commit() {
        let revision = |text: &str| Goal::Revision(text.into());
        let nodes = [node("a", "12", "x"), node("b", "9", "y")];
        assert_eq!(names(judge(&nodes, &known(12, "x"), &revision("12"), &ALL)), ["b"]);
        assert_eq!(names(judge(&nodes, &known(12, "x"), &revision("100"), &ALL)), ["a", "b"]);
        let same = [node("a", "12", "x"), node("b", "9", "x")];
        let verdict = judge(&same, &known(50, "x"), &revision("40"), &ALL);
        assert_eq!(verdict, Verdict::Applied(vec![]), "nothing of ours changed up to 50, and both have it");
        let commit = [node("a", "0badc0ffee00", "")];
        for (wanted, reached) in
            [("0badc0ffee0012345678", true), ("0badc0f", true), ("0bad", false), ("c0ffee0", false)]
        {
            let verdict = judge(&commit, &Known::default(), &revision(wanted), &ALL);
            assert_eq!(matches!(verdict, Verdict::Applied(_)), reached, "{wanted}");
        }
        let dirty = [node("a", "0badc0ffee00+dirty", "")];
        assert_eq!(names(judge(&dirty, &Known::default(), &revision("0badc0ffee00"), &ALL)), ["a"]);
    }

    #[test]
    fn a_revision_is_a_number_where_the_source_is_an_etcd_and_nowhere_else() {
        let commit = Known::default();
        let number = known(1_234_567, "y");
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
            let verdict = judge(&[node("a", applied, "x")], source, &goal, &ALL);
            assert_eq!(matches!(verdict, Verdict::Applied(_)), reached, "{applied} {wanted:?}");
        }
    }

    #[test]
    fn what_was_there_when_it_was_asked_is_waited_for() {
        let nodes = [node("a", "12", "x"), node("b", "9", "y")];
        assert_eq!(names(judge(&nodes, &known(12, "x"), &Goal::Reads(5), &ALL)), ["a", "b"], "not read since");
        assert_eq!(names(judge(&nodes, &known(12, "x"), &Goal::Reads(3), &ALL)), ["b"]);
        assert_eq!(judge(&nodes[..1], &known(12, "x"), &Goal::Reads(3), &ALL), Verdict::Applied(vec![]));
    }

    #[test]
    fn a_digest_is_reached_when_it_is_there() {
        let nodes = [node("a", "12", "x"), node("b", "9", "y")];
        assert_eq!(names(judge(&nodes, &known(12, "x"), &Goal::Digest("v1-x".into()), &ALL)), ["b"]);
    }

    #[test]
    fn who_is_not_there_yet_or_leaves_has_not() {
        let starting = NodeRecord { name: "s".into(), ..NodeRecord::default() };
        let leaving = NodeRecord { phase: Phase::Draining, ..node("l", "12", "x") };
        let goal = Goal::Revision("1".into());
        assert_eq!(names(judge(&[starting, leaving], &known(12, "x"), &goal, &ALL)), ["s", "l"]);
        assert_eq!(names(judge(&[], &known(12, "x"), &goal, &ALL)), ["-"]);
    }

    #[test]
    fn only_the_refusals_of_interest_count() {
        let nodes = [
            refusing(node("a", "12", "x"), "/weir/endpoints/eu/bad.yaml", Some("eu/bad")),
            refusing(node("b", "12", "x"), "/weir/endpoints/acl", None),
        ];
        let goal = Goal::Revision("12".into());
        let count = |interest: Interest| match judge(&nodes, &known(12, "x"), &goal, &interest) {
            Verdict::Applied(refusals) => refusals.len(),
            Verdict::Waiting(waiting) => panic!("{waiting:?}"),
        };
        let endpoint = |name: &str| Interest { endpoint: Some(name.into()), key: None };
        let key = |key: &str| Interest { endpoint: None, key: Some(key.into()) };
        assert_eq!(count(ALL), 2);
        assert_eq!((count(endpoint("eu/bad")), count(endpoint("good"))), (1, 0));
        for (text, found) in [("eu/bad", 1), ("/weir/endpoints/eu/bad", 1), ("bad", 0), ("good", 0), ("acl", 1)] {
            assert_eq!(count(key(text)), found, "{text}");
        }
    }
}
