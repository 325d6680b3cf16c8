//! The list of brokers, their convergence and refusals; and `weir wait`.

use rustix::process::Signal;
use serde_json::Value;

use super::broker::Broker;
use super::documents::{Documents, document, key};
use super::store::Etcd;
use super::{is_there, push, until, weir, words};
use crate::support::ports;

/// `weir wait` with arguments: its exit code and what it says.
fn wait(broker: &Broker, args: &[&str]) -> (Option<i32>, String) {
    let output = weir(&[&["wait", "--status", &broker.status_url()], args].concat());
    (output.status.code(), words(&output))
}

#[test]
fn every_broker_lists_all_brokers_with_their_refusals() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let documents = Documents::new(&["good"]);
    push(documents.path(), &etcd.url(), &[]);
    let mut brokers = Broker::three(&etcd.url());
    documents.until_everywhere(&brokers);
    for broker in &brokers {
        let all_see_all = || {
            let status = broker.get("/api/cluster/status");
            status["nodes"] == 3 && status["converged"] == true && broker.nodes()[0] == broker.name
        };
        until("every broker lists every broker", all_see_all);
    }

    let revision = etcd.put(&key("bad"), "endpoint: {prot: 1883}").to_string();
    let everywhere = ["--cluster", "--revision", &revision];
    let (code, said) = wait(&brokers[0], &everywhere);
    assert_eq!(code, Some(2), "{said}");
    for name in ["n1", "n2", "n3"] {
        assert!(said.contains(&format!("{name}: refused: Invalid: /weir/endpoints/bad:1:")), "{said}");
    }
    assert_eq!(
        wait(&brokers[1], &[&everywhere[..], &["--endpoint", "good"]].concat()).0,
        Some(0),
        "another's is no matter"
    );
    assert_eq!(wait(&brokers[1], &["--cluster", "--key", "good"]).0, Some(0));
    let (code, said) = wait(&brokers[1], &[&everywhere[..], &["--format", "json"]].concat());
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["applied"], &said["waiting"]), (Some(2), &true.into(), &serde_json::json!([])));
    let names =
        |list: &Value| -> Vec<Value> { list.as_array().unwrap().iter().map(|each| each["node"].clone()).collect() };
    assert_eq!((names(&said["nodes"]).len(), names(&said["refusals"]).len()), (3, 3), "{said}");
    assert_eq!(wait(&brokers[1], &["--cluster", "--key", "bad"]).0, Some(2));
    assert_eq!(wait(&brokers[1], &["--cluster", "--key", "/weir/endpoints/bad"]).0, Some(2));
    let (code, said) = wait(&brokers[1], &["--revision", &revision, "--endpoint", "goood"]);
    assert!(code == Some(1) && said.contains("no endpoint is named"), "{said}");
    let record = etcd.ctl(&["get", "/weir/nodes/n2", "--print-value-only"]);
    let record: Value = serde_json::from_str(record.trim()).unwrap();
    assert_eq!(record["refusals"]["/weir/endpoints/bad"]["endpoint"], "bad", "{record:#}");
    etcd.delete(&key("bad"));
    let (code, said) = wait(&brokers[2], &["--cluster", "--key", "bad"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(wait(&brokers[0], &["--cluster", "--digest", &documents.digest()]).0, Some(0));

    // A revision in which nothing of ours changed is reached all the same.
    etcd.put("/elsewhere", "x");
    let beyond = etcd.revision().to_string();
    assert_eq!(wait(&brokers[0], &["--cluster", "--revision", &beyond]).0, Some(0));

    // One that does not get on is named; one that dies is gone with its lease, one that leaves at once.
    brokers[2].signal(Signal::STOP);
    let revision = etcd.put(&key("good"), &document(ports::free(), "")).to_string();
    let (code, said) = wait(&brokers[0], &["--cluster", "--revision", &revision, "--timeout-s", "2"]);
    assert!(code == Some(1) && said.contains("n3: it has applied revision"), "{said}");
    assert!(!said.contains("n2: it has"), "{said}");
    brokers[2].signal(Signal::CONT);
    let (code, said) = wait(&brokers[0], &["--cluster", "--revision", &revision]);
    assert_eq!(code, Some(0), "{said}");
    brokers[2].kill();
    until("the dead one is gone", || brokers[0].nodes() == ["n1", "n2"]);
    brokers[1].stop();
    assert!(!etcd.ctl(&["get", "--prefix", "/weir/nodes/", "--keys-only"]).contains("n2"), "it left at once");
}

#[test]
fn wait_without_a_broker_times_out_and_wrong_usage_exits_with_64() {
    let free = format!("http://{}", ports::free_address());
    let output = weir(&["wait", "--status", &free, "--revision", "1", "--timeout-s", "0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output).contains("not applied within 0 s"), "{}", words(&output));
    let output = weir(&["wait", "--status", &free, "--revision", "1", "--timeout-s", "0", "--format", "json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &said["applied"]), (Some(1), &false.into()), "{said}");
    for wrong in [&["wait"][..], &["wait", "--revision", "1", "--digest", "x"], &["push", "."], &["run"]] {
        let output = weir(wrong);
        // `push` without --etcd is told by its own words.
        let expected = if wrong[0] == "push" { [Some(64), Some(1)] } else { [Some(64); 2] };
        assert!(expected.contains(&output.status.code()), "{wrong:?}: {}", words(&output));
    }
    let both = weir(&["run", "--endpoints", ".", "--etcd", "http://127.0.0.1:2379"]);
    assert_eq!(both.status.code(), Some(64), "{}", words(&both));
}

/// Two brokers with one name have a record each, and both are told. One that starts again is not two.
#[test]
fn two_brokers_with_one_name_are_reported() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let documents = Documents::new(&["a"]);
    push(documents.path(), &etcd.url(), &[]);
    let mut first = Broker::start(1, &etcd.url(), &[]);
    documents.until_on(&first);
    let name_is_its = || {
        let record = etcd.ctl(&["get", "/weir/nodes/n1", "--print-value-only"]);
        record.contains(&first.status().to_string())
    };
    until("it has its name", name_is_its);
    first.kill();
    first.run();
    until("it has its name again, when its former self is gone", || {
        etcd.ctl(&["get", "--prefix", "/weir/nodes/", "--keys-only"]).trim() == "/weir/nodes/n1"
    });
    assert!(!first.log().contains("duplicate node name"), "{}", first.log());

    let second = Broker::start(2, &etcd.url(), &["--node-name", "n1"]);
    for broker in [&first, &second] {
        until("both say so", || broker.log().contains("duplicate node name"));
        assert_eq!(broker.get("/api/cluster/status")["duplicateNames"], serde_json::json!(["n1"]));
        let nodes = broker.get("/api/cluster/nodes");
        assert_eq!(nodes["total"], 2, "{nodes:#}");
        assert!(nodes["nodes"].as_array().unwrap().iter().all(|node| node["duplicateName"] == true));
    }
}
