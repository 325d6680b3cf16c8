//! Brokers follow the documents in etcd through faults of etcd.

use std::fs;

use super::broker::Broker;
use super::documents::{Documents, document, key};
use super::store::Etcd;
use super::{is_there, push, until, weir, words};
use crate::support::client::Client;
use crate::support::ports;
use crate::wire::Version;
use rustix::process::Signal;

#[test]
fn three_brokers_apply_a_put_without_disconnecting_a_client() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let mut documents = Documents::new(&["a", "eu/b"]);
    etcd.put(&key("a"), &documents.text("a"));
    etcd.put(&key("eu/b.yaml"), &documents.text("eu/b"));
    let brokers = Broker::three(&etcd.url());
    documents.until_everywhere(&brokers);
    let mut bystanders: Vec<Client> = brokers
        .iter()
        .map(|broker| Client::connect((broker.host, documents.port("a")).into(), Version::V5, "bystander"))
        .collect();

    documents.set("c", ports::free(), "");
    etcd.put(
        &key("c.json"),
        &format!(
            "{{\"endpoint\": {{\"port\": {}, \"enableAuth\": false, \"enableAcl\": false}}}}",
            documents.port("c")
        ),
    );
    documents.until_everywhere(&brokers);
    documents.set("eu/b", ports::free(), "");
    etcd.put(&key("eu/b.yaml"), &documents.text("eu/b"));
    documents.until_everywhere(&brokers);
    documents.remove("c");
    etcd.delete(&key("c.json"));
    documents.until_everywhere(&brokers);
    bystanders.iter_mut().for_each(Client::ping);
}

/// The same documents in a directory and in etcd are the same declaration, and there is nothing to plan between them.
#[test]
fn a_directory_and_its_push_to_etcd_declare_the_same() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let mut documents = Documents::new(&["a", "eu/b", "v1.2"]);
    documents.set("c", ports::free(), ", maxConnectionSize: 7, labels: {tenant: x}");
    let path = documents.path().to_owned();
    let policy = "acl: {name: default, noMatch: deny, rules: [{permission: allow, action: all, topics: [\"#\"]}]}\n---\n\
                  auth: {name: devices, chain: [{anonymous: {}}]}\n---\nban: {name: x, entries: [{clientId: \"bad-*\"}]}\n";
    fs::write(path.join("policy.yaml"), policy).unwrap();
    fs::write(path.join("defaults.yaml"), "defaults: {endpoint: {messageMaxSize: 65536}}\n").unwrap();
    push(&path, &etcd.url(), &[]);
    let broker = Broker::start(1, &etcd.url(), &[]);
    documents.until_on(&broker);
    let directory = path.display().to_string();
    let plan = weir(&["plan", &directory, "--against", &broker.status_url(), "--detailed-exitcode"]);
    assert_eq!(plan.status.code(), Some(0), "{}", words(&plan));
    let validated = weir(&["validate", &directory, "--format", "json"]);
    assert!(words(&validated).contains(&broker.digest()), "{}", words(&validated));
    let diff = weir(&["diff", &directory, &broker.status_url()]);
    assert_eq!((diff.status.code(), words(&diff).as_str()), (Some(0), ""));
}

/// One set of documents for a fleet of different machines: the declaration is the same, what is live is not.
#[test]
fn selectors_choose_brokers_by_their_labels() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let mut documents = Documents::new(&["everywhere"]);
    documents.set("eu", ports::free(), ", nodes: {zone: eu}");
    push(documents.path(), &etcd.url(), &[]);
    let eu = Broker::start(1, &etcd.url(), &["--node-label", "zone=eu"]);
    let us = Broker::start(2, &etcd.url(), &["--node-label", "zone=us"]);
    documents.until_on(&eu);
    let digest = documents.digest();
    until("the other has it too", || us.digest() == digest && us.listens(documents.port("everywhere")));
    assert!(!us.listens(documents.port("eu")));
    assert_eq!(us.condition("eu", "Programmed").1, "NotSelected");
    until("both have converged", || eu.get("/api/cluster/status")["converged"] == true && eu.nodes().len() == 2);
}

#[test]
fn an_invalid_key_affects_no_other_document() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let documents = Documents::new(&["good", "held"]);
    push(documents.path(), &etcd.url(), &[]);
    // Without the slash at the end, and by the documents' own prefix: the root is meant.
    let broker = Broker::start(1, &etcd.url(), &["--etcd-prefix", "/weir/endpoints"]);
    documents.until_on(&broker);
    etcd.put("/weird/endpoints/neighbour", &document(ports::free(), ""));
    etcd.put("/weir/other", "not ours");
    etcd.put("/weir/endpoints/.hidden", "x");
    // etcdctl takes what is given; a value of 1.5 MB is the most that etcd takes.
    etcd.put(&key("large"), &format!("{}\n", "# a comment\n".repeat(100_000)));
    etcd.put(&key("blank"), " \n");
    etcd.put(&key("held"), "endpoint: {port: \u{1}\u{2}binary");
    until("the last of it is seen", || broker.condition("held", "Accepted").0 == "False");
    let log = broker.log();
    for words in ["/weir/endpoints/large", "/weir/endpoints/blank", "/weir/endpoints/held:1"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert!(!log.contains("neighbour"));
    assert!(broker.listens(documents.port("good")) && broker.listens(documents.port("held")), "what was good stays");
    let ignored = broker.get("/api/source")["ignored"].clone();
    assert_eq!(ignored, serde_json::json!(["/weir/endpoints/.hidden"]));
    assert_eq!(broker.source_error(), None, "invalid documents are no error of the source");
}

/// A transaction that moves one endpoint to another's port is applied as one, however often.
#[test]
fn a_transaction_is_one_snapshot() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let mut documents = Documents::new(&["a", "b"]);
    push(documents.path(), &etcd.url(), &[]);
    let broker = Broker::start(1, &etcd.url(), &[]);
    documents.until_on(&broker);
    for _ in 0..10 {
        let (a, b) = (documents.port("a"), documents.port("b"));
        documents.set("a", b, "");
        documents.set("b", a, "");
        let put =
            |name: &str| format!("put {} \"{}\"\n", key(name), documents.text(name).trim_start_matches("---\n").trim());
        let transaction = format!("\n{}{}\n\n", put("a"), put("b"));
        let output = etcd.try_ctl(&["txn"], Some(&transaction));
        assert!(words(&output).contains("SUCCESS"), "{}", words(&output));
        documents.until_on(&broker);
    }
    let history = broker.get("/api/endpoints/history?limit=500");
    let refused = history["entries"].as_array().unwrap().iter().filter(|entry| entry["outcome"] != "applied").count();
    assert_eq!(refused, 0, "half a swap would have clashed: {history:#}");
    assert!(!broker.log().contains("already taken"), "{}", broker.log());
}

/// Killed and started again, frozen, compacted: told by kind, ended by itself, and no listener is touched.
#[test]
fn a_failing_store_costs_no_listener() {
    if !is_there() {
        return;
    }
    let mut etcd = Etcd::start();
    let mut documents = Documents::new(&["a", "b"]);
    push(documents.path(), &etcd.url(), &[]);
    let broker = Broker::start(1, &etcd.url(), &[]);
    documents.until_on(&broker);
    let mut bystander = Client::connect((broker.host, documents.port("a")).into(), Version::V5, "bystander");

    etcd.kill();
    until("it is reported", || broker.source_error().as_deref() == Some("unreachable"));
    let metrics = broker.get("/metrics");
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("weir_source_up 0") && metrics.contains("weir_source_trouble{kind=\"unreachable\"} 1"));
    etcd.run();
    until("it has ended", || broker.source_error().is_none());

    etcd.freeze();
    until("a silent store is reported", || broker.source_error().as_deref() == Some("timedOut"));
    etcd.thaw();
    until("it has ended", || broker.source_error().is_none());

    // A document that is put while no broker watches, and compacted before one does, is applied all the same.
    broker.signal(Signal::STOP);
    for _ in 0..5 {
        documents.set("b", ports::free(), "");
        etcd.put(&key("b"), &documents.text("b"));
    }
    etcd.kill();
    etcd.run();
    let revision = etcd.revision().to_string();
    etcd.ctl(&["compact", &revision]);
    etcd.ctl(&["defrag"]);
    broker.signal(Signal::CONT);
    documents.until_on(&broker);
    bystander.ping();
}

/// A store that was wiped or restored proves no deletion of documents; a push decides.
#[test]
fn a_store_that_went_back_deletes_nothing() {
    if !is_there() {
        return;
    }
    let mut etcd = Etcd::start();
    let backup = tempfile::tempdir().unwrap();
    let backup = backup.path().join("backup");
    let mut documents = Documents::new(&["a", "b", "c", "d"]);
    push(documents.path(), &etcd.url(), &[]);
    let mut broker = Broker::start(1, &etcd.url(), &[]);
    documents.until_on(&broker);
    etcd.save(&backup);
    documents.set("later", ports::free(), "");
    for _ in 0..3 {
        etcd.put(&key("later"), &documents.text("later"));
    }
    documents.until_on(&broker);

    etcd.restore(&backup);
    until("it is reported", || broker.incidents("wentBack") > 0);
    until("and of the document", || broker.condition("later", "Accepted").2.contains("wiped or restored"));
    assert!(documents.endpoints.values().all(|(port, _)| broker.listens(*port)));

    // A broker that was away meanwhile knows it by what it kept.
    until("it was kept", || broker.has_kept("later"));
    broker.kill();
    broker.run();
    until("it is reported again", || broker.condition("later", "Accepted").2.contains("wiped or restored"));
    assert!(broker.listens(documents.port("later")));

    etcd.wipe();
    until("it is reported", || broker.incidents("wentBack") > 0 && broker.condition("a", "Accepted").0 == "False");
    assert!(documents.endpoints.values().all(|(port, _)| broker.listens(*port)));
    // Put again by hand: this one is the store's. The others are not forgotten.
    etcd.put(&key("a"), &documents.text("a"));
    until("it is accepted", || broker.condition("a", "Accepted").0 == "True");
    assert!(documents.endpoints.values().all(|(port, _)| broker.listens(*port)));
    let later = documents.port("later");
    documents.remove("later");
    push(documents.path(), &etcd.url(), &["--prune"]);
    documents.until_on(&broker);
    until("a push without it deletes it", || !broker.listens(later));
}

/// A deletion of everything that is held is held by every broker while documents are put back, and after a restart: the
/// store of which a broker then knows more documents than it has is no store that went back.
#[test]
fn a_held_deletion_is_held_by_all_brokers_and_after_a_restart() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let documents = Documents::new(&names);
    push(documents.path(), &etcd.url(), &[]);
    let mut brokers = Broker::three(&etcd.url());
    documents.until_everywhere(&brokers);
    let connect = |broker: &Broker| -> Vec<Client> {
        let client = |name| Client::connect((broker.host, documents.port(name)).into(), Version::V5, name);
        names.map(client).into()
    };
    let mut residents: Vec<Vec<Client>> = brokers.iter().map(connect).collect();
    etcd.ctl(&["del", "--prefix", "/weir/endpoints/"]);
    let held = |broker: &Broker, name| broker.condition(name, "Accepted").1 == "DeletionHeld";
    for broker in &brokers {
        for name in names {
            until(&format!("{} holds {name}", broker.name), || held(broker, name));
        }
    }
    for (at, name) in names.iter().enumerate() {
        if at == 2 {
            until("what is held is kept", || brokers[0].has_kept_held());
            brokers[0].stop();
            brokers[0].run();
            for name in names {
                until(&format!("it serves {name}"), || brokers[0].listens(documents.port(name)));
            }
            residents[0] = connect(&brokers[0]);
        }
        etcd.put(&key(name), &documents.text(name));
        for broker in &brokers {
            until(&format!("{} has {name} back", broker.name), || broker.condition(name, "Accepted").0 == "True");
            for later in &names[at + 1..] {
                assert!(held(broker, later), "{}: {later}: {:?}", broker.name, broker.condition(later, "Accepted"));
            }
        }
        residents.iter_mut().flatten().for_each(Client::ping);
    }
    documents.until_everywhere(&brokers);
    assert_eq!(brokers[0].incidents("wentBack"), 0, "{}", brokers[0].log());
}

/// A broker that starts while there is no etcd serves what it served.
#[test]
fn without_a_store_a_start_serves_the_last_known_good() {
    if !is_there() {
        return;
    }
    let mut etcd = Etcd::start();
    let mut documents = Documents::new(&["a", "b"]);
    push(documents.path(), &etcd.url(), &[]);
    let mut broker = Broker::start(1, &etcd.url(), &[]);
    documents.until_on(&broker);
    broker.stop();
    etcd.kill();
    broker.run();
    until("it listens", || documents.endpoints.values().all(|(port, _)| broker.listens(*port)));
    until("it says why", || broker.source_error().as_deref() == Some("unreachable"));
    let source = broker.get("/api/source");
    assert!(source["lastKnownGood"]["revision"].is_string(), "{source}");
    etcd.run();
    documents.set("b", ports::free(), "");
    etcd.put(&key("b"), &documents.text("b"));
    documents.until_on(&broker);
}

/// What is kept though it was deleted is not taken for what a wiped store has lost, also after a restart.
#[test]
fn a_held_deletion_outlives_a_restart_and_can_be_confirmed() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let mut documents = Documents::new(&["a", "b", "c", "d"]);
    push(documents.path(), &etcd.url(), &[]);
    let mut broker = Broker::start(1, &etcd.url(), &[]);
    documents.until_on(&broker);
    let gone: Vec<u16> = ["a", "b", "c"].map(|name| documents.port(name)).to_vec();
    // In one transaction.
    documents.remove("a");
    documents.remove("b");
    documents.remove("c");
    push(documents.path(), &etcd.url(), &["--prune"]);
    until("it is held", || broker.condition("a", "Accepted").1 == "DeletionHeld");
    // The last known good is saved at a revision that does not have them.
    etcd.put(&key("new"), &document(ports::free(), ""));
    until("it is saved", || broker.has_kept("new"));
    broker.kill();
    broker.run();
    until("it is held still", || broker.condition("a", "Accepted").1 == "DeletionHeld");
    assert_eq!(broker.incidents("wentBack"), 0);
    assert!(gone.iter().all(|port| broker.listens(*port)));
    etcd.put(&key("reconcile"), "reconcile: {prune: {confirm: [a, b, c]}}\n");
    until("it is confirmed", || gone.iter().all(|port| !broker.listens(*port)));
}
