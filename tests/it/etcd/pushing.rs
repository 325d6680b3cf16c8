//! `weir push`: all or nothing, guarded, with a plan before it.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::broker::Broker;
use super::documents::{Documents, document, key};
use super::store::Etcd;
use super::{is_there, push, until, weir, words};
use crate::support::ports;

fn git(directory: &Path, args: &[&str]) -> String {
    let identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "init.defaultBranch=main"];
    let output = Command::new("git").args(identity).args(args).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", words(&output));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn revision_of(pushed: &str) -> i64 {
    pushed.trim_end().rsplit_once("revision ").unwrap().1.parse().unwrap()
}

#[test]
fn the_plan_is_printed_the_commit_is_named_and_the_rest_stays_without_prune() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let documents = Documents::new(&["a", "b"]);
    let (path, url) = (documents.path(), etcd.url());
    git(path, &["init", "-q"]);
    git(path, &["add", "-A"]);
    git(path, &["commit", "-qm", "two endpoints"]);
    let commit = git(path, &["rev-parse", "HEAD"]);
    let extra = ports::free();
    etcd.put(&key("extra"), &document(extra, ""));
    let before = etcd.revision();

    let planned = push(path, &url, &["--dry-run", "--prune"]);
    for line in ["+ key a\n", "- key extra\n", "+ endpoint a: add", "- endpoint extra: remove"] {
        assert!(planned.contains(line), "{line}: {planned}");
    }
    assert_eq!(etcd.revision(), before, "a dry run writes nothing");

    let pushed = push(path, &url, &[]);
    assert!(pushed.contains("key extra is not in the directory and stays"), "{pushed}");
    assert_eq!(revision_of(&pushed), before + 1, "one transaction");
    let broker = Broker::start(1, &url, &[]);
    until("all three listen", || [documents.port("a"), documents.port("b"), extra].iter().all(|p| broker.listens(*p)));
    until("the status names the commit", || broker.get("/api/source")["commit"]["id"] == commit.as_str());
    let record = || etcd.ctl(&["get", "/weir/nodes/n1", "--print-value-only"]);
    until("so does its record", || record().contains(&commit));

    push(path, &url, &["--prune"]);
    documents.until_on(&broker);
    let again = push(path, &url, &["--prune"]);
    assert!(again.contains("0 keys to write, 0 to delete, 2 unchanged") && again.contains("nothing to do"), "{again}");
    etcd.put(&key("a"), &document(ports::free(), ""));
    until("the documents are no longer the commit's", || broker.get("/api/source")["commit"].is_null());
}

/// What brokers will hold is printed before it is pushed, and locked-out endpoints by name.
#[test]
fn held_changes_are_printed() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let mut documents = Documents::new(&["a", "b", "c", "d"]);
    let guarded = format!("endpoint: {{port: {}, enableAcl: false}}\n", ports::free());
    fs::write(documents.path().join("guarded.yaml"), guarded).unwrap();
    fs::write(documents.path().join("auth.yaml"), "auth: {name: default, chain: [{anonymous: {}}]}\n").unwrap();
    push(documents.path(), &etcd.url(), &[]);
    fs::remove_file(documents.path().join("auth.yaml")).unwrap();
    let planned = push(documents.path(), &etcd.url(), &["--prune", "--dry-run"]);
    assert!(planned.contains("\nlock-out: every CONNECT to endpoint guarded will be refused\n"), "{planned}");
    assert!(planned.contains("\nPlan: 1 waiting, 1 lock-out\n"), "{planned}");
    let json = push(documents.path(), &etcd.url(), &["--prune", "--dry-run", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["plan"]["lockOuts"][0]["endpoint"], "guarded", "{json:#}");
    ["a", "b", "c"].iter().for_each(|name| documents.remove(name));
    let planned = push(documents.path(), &etcd.url(), &["--prune", "--dry-run"]);
    assert!(planned.contains("waits: 3 of 5 endpoints were deleted at once"), "{planned}");
    assert!(planned.contains("\nPlan: 4 waiting, 1 lock-out\n"), "{planned}");
}

#[test]
fn an_invalid_directory_is_not_pushed() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let documents = Documents::new(&["a"]);
    fs::write(documents.path().join("bad.yaml"), "endpoint: {prot: 1}\n").unwrap();
    let before = etcd.revision();
    let output = weir(&["push", &documents.path().display().to_string(), "--etcd", &etcd.url()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output).contains("bad.yaml:1:12") && words(&output).contains("did you mean `port`"));
    assert_eq!(etcd.revision(), before);

    fs::remove_file(documents.path().join("bad.yaml")).unwrap();
    for (dry, revision) in [(&["--dry-run"][..], false), (&[], true)] {
        let said = push(documents.path(), &etcd.url(), &[&["--format", "json"], dry].concat());
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["put"], serde_json::json!([{"key": "a", "new": true}]));
        assert_eq!(said["plan"]["actions"][0]["endpoint"], "a", "{said:#}");
        assert_eq!(said["revision"].is_i64(), revision, "{said:#}");
    }
}

/// Brokers with other labels hold other endpoints: what is planned is what each of them does.
#[test]
fn the_plan_is_for_the_present_brokers() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let mut documents = Documents::new(&["everywhere"]);
    documents.set("moves", ports::free(), ", nodes: {zone: eu}");
    push(documents.path(), &etcd.url(), &[]);
    let brokers = [(1, "zone=eu"), (2, "zone=us"), (3, "zone=eu")]
        .map(|(number, label)| Broker::start(number, &etcd.url(), &["--node-label", label]));
    until("the three are there", || brokers[0].nodes().len() == 3 && brokers[0].listens(documents.port("moves")));

    documents.set("moves", documents.port("moves"), ", nodes: {zone: us}");
    documents.set("eu-only", ports::free(), ", nodes: {zone: eu}");
    let planned = push(documents.path(), &etcd.url(), &["--dry-run"]);
    let parts: Vec<&str> = planned.split("\nbroker").collect();
    let [_, eu, us] = parts[..] else { panic!("{planned}") };
    assert!(eu.starts_with("s n1 (zone=eu), n3 (zone=eu):\n"), "{planned}");
    assert!(eu.contains("+ endpoint eu-only: add") && eu.contains("- endpoint moves: drain"), "{planned}");
    assert!(us.starts_with(" n2 (zone=us):\n  + endpoint moves: add"), "{planned}");
    assert!(!us.contains("endpoint eu-only:"), "{planned}");
    assert_eq!(planned.matches("+++ b/endpoint/moves").count(), 1, "one diff for all: {planned}");

    let said = push(documents.path(), &etcd.url(), &["--dry-run", "--format", "json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["brokers"][0]["names"], serde_json::json!(["n1", "n3"]), "{said:#}");
    assert_eq!(said["brokers"][1]["plan"]["summary"], "1 to add", "{said:#}");

    // Of a broker that is not there yet.
    let offline = push(documents.path(), &etcd.url(), &["--dry-run", "--node-label", "zone=asia"]);
    assert!(offline.contains("nothing to do") && !offline.contains("broker"), "{offline}");
    push(documents.path(), &etcd.url(), &[]);
    until("it is done", || {
        let moved = brokers[1].listens(documents.port("moves")) && !brokers[0].listens(documents.port("moves"));
        moved && brokers[2].listens(documents.port("eu-only")) && !brokers[1].listens(documents.port("eu-only"))
    });
}

/// Two hundred documents are more than one transaction: brokers have the old set or the new one.
#[test]
fn more_than_a_transaction_holds_is_still_all_or_nothing() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let mut documents = Documents::new(&["a"]);
    push(documents.path(), &etcd.url(), &[]);
    let broker = Broker::start(1, &etcd.url(), &[]);
    documents.until_on(&broker);
    let first = documents.digest();
    for number in 0..200 {
        documents.set(&format!("many/e{number}"), ports::free(), ", enabled: false");
    }
    let pushed = push(documents.path(), &etcd.url(), &[]);
    documents.until_on(&broker);
    let history = broker.get("/api/endpoints/history?limit=500");
    assert_eq!(history["total"], 2, "the set changed once: {history:#}");
    assert_eq!(history["entries"][0]["actions"], serde_json::json!([]), "what is disabled does nothing: {history:#}");

    // A push that died halfway: its first transactions are there, its last ones never come.
    let marker = etcd.ctl(&["get", "/weir/endpoints/.push", "--print-value-only"]);
    let digest_at = marker.find("\"digest\":\"d1-").unwrap() + 13;
    let mut begun = marker.trim_end().replace("\"complete\"", "\"begun\"");
    begun.replace_range(digest_at - 3..digest_at + 5, "deadbeef");
    let base = revision_of(&pushed);
    begun = begun.replace(&format!("\"base\":{}", base_of(&marker)), &format!("\"base\":{base}"));
    etcd.put("/weir/endpoints/.push", &begun);
    let later = ports::free();
    etcd.put(&key("a"), &document(later, ""));
    until("the broker reports it", || broker.source_error().as_deref() == Some("halfPushed"));
    assert!(broker.listens(documents.port("a")) && !broker.listens(later), "nothing of it is applied");
    // A broker that comes now knows nothing but the store: it has what held before that push.
    let newcomer = Broker::start(2, &etcd.url(), &[]);
    documents.until_on(&newcomer);
    assert!(!newcomer.listens(later));

    documents.set("a", later, "");
    let healed = push(documents.path(), &etcd.url(), &[]);
    assert!(healed.contains("an earlier push is incomplete"), "{healed}");
    documents.until_everywhere(&[broker, newcomer]);
    assert_ne!(documents.digest(), first);
}

fn base_of(marker: &str) -> i64 {
    let marker: serde_json::Value = serde_json::from_str(marker).unwrap();
    marker["base"].as_i64().unwrap()
}

/// The plan was made against documents that another writer has changed since: nothing is pushed.
#[tokio::test]
async fn a_concurrent_change_fails_a_push_cleanly() {
    use weirmq::source::etcd::{EtcdAccess, EtcdRoot, Marker, PushState, plan_push, read_target};
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let access = EtcdAccess { urls: vec![etcd.url()], ..EtcdAccess::default() };
    let root = EtcdRoot::parse("/weir/").unwrap();
    for count in [1_u16, 200] {
        etcd.put(&key("mine"), "1");
        etcd.put(&key("theirs"), "1");
        let wanted = (0..count).map(|n| (format!("k{n}"), b"x".as_slice().into())).collect();
        for change in ["put", "new", "del"] {
            let there = read_target(&access, &root).await.unwrap();
            let plan = plan_push(&wanted, &there.documents(), false);
            match change {
                "put" => etcd.put(&key("theirs"), "2"),
                "new" => etcd.put(&key("another"), "2"),
                _ => etcd.delete(&key("theirs")),
            };
            let before = etcd.ctl(&["get", "--prefix", "/weir/endpoints/"]);
            let now = weirmq::state::wall_clock();
            let marker = Marker::new(PushState::Complete, plan.digest.clone(), plan.documents, there.revision(), now);
            let error = weirmq::source::etcd::push(&there, &plan, &marker).await.unwrap_err().to_string();
            assert!(error.contains("another writer changed") && error.contains("nothing was pushed"), "{error}");
            let names = if change == "new" { "another" } else { "theirs" };
            assert!(error.contains(names), "{change} with {count}: {error}");
            assert_eq!(etcd.ctl(&["get", "--prefix", "/weir/endpoints/"]), before, "{change} with {count}");
        }
        etcd.ctl(&["del", "--prefix", "/weir/"]);
    }
}
