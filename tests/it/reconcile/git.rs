//! The commits of git work trees, and which of their changes are applied.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use super::broker::{Broker, at, endpoint};
use crate::source::git::git;
use crate::support::ports;
use crate::support::weir;

fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(at(port)).is_ok()
}

fn commit_all(root: &Path, message: &str) -> String {
    git(root, &["add", "-A"]);
    git(root, &["commit", "-qm", message]);
    git(root, &["rev-parse", "HEAD"])
}

fn start_repository(root: &Path) {
    git(root, &["init", "-q"]);
    commit_all(root, "First");
}

/// The newest entry of the history.
fn newest(broker: &Broker) -> Value {
    broker.get("/api/endpoints/history")["entries"][0].clone()
}

/// What was done or refused, as `endpoint action`.
fn actions(entry: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = entry["actions"].as_array().cloned().unwrap_or_default();
    all.iter().map(|action| format!("{} {}", text(&action["endpoint"]), text(&action["action"]))).collect()
}

/// A directory beside the broker's that is a work tree of the same repository, on a branch of its own.
fn other_work_tree(broker: &Broker) -> std::path::PathBuf {
    let other = broker.endpoints().with_extension("other");
    git(&broker.endpoints(), &["worktree", "add", "-q", &other.display().to_string(), "-b", "next"]);
    other
}

#[test]
fn a_pulled_change_is_in_the_history_with_its_commit() {
    let (port, new) = (ports::free(), ports::free());
    let broker = Broker::start_prepared(&[("e.yaml", &endpoint("e", port, ""))], start_repository, &[]);
    broker.until_listening("e");
    let first = git(&broker.endpoints(), &["rev-parse", "HEAD"]);
    assert_eq!(broker.applied(), first[..12]);
    let other = other_work_tree(&broker);
    // The branch moves before the files do: a reader of the files sees the commit.
    let pull = |message: &str, files: &[(&str, &str)], expected: &[&str]| {
        files.iter().for_each(|(name, text)| std::fs::write(other.join(name), text).unwrap());
        let commit = commit_all(&other, message);
        git(&broker.endpoints(), &["update-ref", "HEAD", &commit]);
        git(&broker.endpoints(), &["reset", "-q", "--hard"]);
        // One entry, as a rule; more where the files were read while git wrote them.
        let of_commit = || {
            let entries = broker.get("/api/endpoints/history")["entries"].as_array().cloned().unwrap_or_default();
            entries.into_iter().filter(|entry| entry["commit"]["id"] == commit.as_str()).collect::<Vec<_>>()
        };
        broker.until(message, || {
            let mut done: Vec<String> = of_commit().iter().flat_map(actions).collect();
            done.sort_unstable();
            done == expected
        });
        of_commit()
    };

    let more = endpoint("e", port, ", maxConnectionSize: 7");
    let good = &pull("Seven of them\n\nand why", &[("e.yaml", &more)], &["e update"])[0];
    assert_eq!((&good["outcome"], &good["commit"]["subject"]), (&"applied".into(), &"Seven of them".into()), "{good}");
    assert_eq!(good["commit"]["author"], "Ann <ann@example.com>");
    assert!(good["diff"].as_str().unwrap().contains("+  maxConnectionSize: 7"), "{good}");
    assert!(good["durationUs"].as_u64().is_some() && good["at"].is_string(), "{good}");

    let (wrong, right) = (endpoint("e", port, ", maxConnectionSze: 8"), endpoint("new", new, ""));
    let files = [("e.yaml", &*wrong), ("new.yaml", &*right)];
    let mixed = pull("One wrong, one right", &files, &["e refused", "new add"]);
    assert!(mixed.iter().any(|entry| entry["outcome"] == "appliedWithRefusals"), "{mixed:?}");
    assert!(mixed.iter().any(|entry| entry["actions"].to_string().contains("e.yaml:1:")), "{mixed:?}");

    let files = [("new.yaml", "endpoint: {port: 0}\n"), ("third.yaml", "endpoint: {")];
    for refused in pull("Wrong again", &files, &[" refused", "new refused"]) {
        assert_eq!((&refused["outcome"], &refused["diff"]), (&"refused".into(), &"".into()), "{refused}");
    }
    assert!(listens(port) && listens(new));
    // What is not committed says so.
    let last = git(&broker.endpoints(), &["rev-parse", "HEAD"]);
    broker.write("e.yaml", &endpoint("e", port, ", maxConnectionSize: 9"));
    broker.until("it is dirty", || broker.applied() == format!("{}+dirty", &last[..12]));
}

#[test]
fn with_a_git_ref_only_committed_files_are_applied() {
    let (port, edited, committed) = (ports::free(), ports::free(), ports::free());
    let first = endpoint("e", port, "");
    let broker = Broker::start_prepared(&[("e.yaml", &first)], start_repository, &["--git-ref", "HEAD"]);
    broker.until_listening("e");
    let read_at = || broker.get("/api/source")["lastReadAt"].clone();
    let before = read_at();
    broker.write("e.yaml", &endpoint("e", edited, ", drain: {windowS: 0}"));
    broker.signal(Signal::HUP);
    broker.until("it is read again", || read_at() != before);
    assert!(listens(port) && !listens(edited));
    broker.write("e.yaml", &endpoint("e", committed, ", drain: {windowS: 0}"));
    let commit = commit_all(&broker.endpoints(), "Elsewhere");
    broker.until("the commit is live", || broker.applied() == commit[..12]);
    broker.until_listening("e");
    assert!(listens(committed) && !listens(port));
}

#[test]
fn an_atomic_broker_applies_a_whole_snapshot_or_nothing() {
    let (from, to) = (ports::free(), ports::free());
    let broker = Broker::start_with(&[("e.yaml", &endpoint("e", from, ""))], &["--atomic"]);
    broker.until_listening("e");
    broker.write("wrong.yaml", "endpoint: {prt: 1}\n");
    broker.until("it is refused", || newest(&broker)["outcome"] == "refused");
    let refused = newest(&broker)["sequence"].clone();
    broker.write("e.yaml", &endpoint("e", to, ""));
    broker.until("it is refused, too", || {
        newest(&broker)["sequence"] != refused && newest(&broker)["outcome"] == "refused"
    });
    assert!(listens(from) && !listens(to));
    assert!(newest(&broker)["summary"].as_str().unwrap().contains("--atomic"));
    broker.remove("wrong.yaml");
    broker.until("all of it is correct", || listens(to));
}

/// A commit whose short id has digits only; there is one in a few hundred.
fn commit_of_digits(root: &Path) -> String {
    let tree = git(root, &["rev-parse", "HEAD^{tree}"]);
    for number in 0..20_000 {
        let commit = git(root, &["commit-tree", "-m", &format!("Attempt {number}"), &tree]);
        if commit[..12].bytes().all(|byte| byte.is_ascii_digit()) {
            return commit;
        }
    }
    panic!("no commit of digits only");
}

#[test]
fn a_commit_id_of_digits_is_not_taken_for_a_revision_number() {
    let port = ports::free();
    let digits = std::cell::RefCell::default();
    let prepare = |root: &Path| {
        start_repository(root);
        let commit = commit_of_digits(root);
        git(root, &["update-ref", "HEAD", &commit]);
        digits.replace(commit);
    };
    let broker = Broker::start_prepared(&[("e.yaml", &endpoint("e", port, ""))], prepare, &[]);
    broker.until_listening("e");
    let commit = digits.into_inner();
    assert_eq!(broker.applied(), commit[..12]);
    let wait = |revision: &str| {
        let output = weir::command()
            .args(["wait", "--status", &format!("http://{}", broker.status()), "--timeout-s", "1"])
            .args(["--revision", revision])
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for revision in [&commit[..], &commit[..12], &commit[..7]] {
        assert_eq!(wait(revision).0, Some(0), "{revision}: {}", wait(revision).1);
    }
    for number in ["5", "0"] {
        let (code, said) = wait(number);
        assert_eq!(code, Some(1), "{number}");
        assert!(said.contains("is not a commit") && said.contains("at least 7"), "{said}");
    }
    // As long as a commit may be written, less than the one that is applied as a number, and not its beginning.
    let (code, said) = wait("0000001");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("it has applied revision"), "{said}");
}
