//! Several servers, of which some fail.

use super::broker::Broker;
use super::documents::{Documents, key};
use super::store::Etcd;
use super::{is_there, push, until, words};
use crate::support::client::Client;
use crate::support::ports;
use crate::wire::Version;

fn urls(servers: &[Etcd]) -> String {
    servers.iter().map(Etcd::url).collect::<Vec<_>>().join(",")
}

/// Which of the servers leads; `None` where none does.
fn leader(servers: &[Etcd], urls: &str) -> Option<usize> {
    let output = super::store::ctl(&["--endpoints", urls, "endpoint", "status", "-w", "json"], None);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let leading = answer.as_array()?.iter().find(|each| {
        each["Status"]["leader"] == each["Status"]["header"]["member_id"] && each["Status"]["leader"] != 0
    })?;
    servers.iter().position(|server| leading["Endpoint"] == server.url().as_str())
}

#[test]
fn the_leader_of_three_is_killed() {
    if !is_there() {
        return;
    }
    let mut servers = Etcd::three();
    let urls = urls(&servers);
    let mut documents = Documents::new(&["a", "b"]);
    push(documents.path(), &urls, &[]);
    let brokers = Broker::three(&urls);
    documents.until_everywhere(&brokers);
    let mut bystanders: Vec<Client> = brokers
        .iter()
        .map(|broker| Client::connect((broker.host, documents.port("a")).into(), Version::V5, "bystander"))
        .collect();
    for round in 0..2 {
        let mut killed = None;
        until("there is a leader", || {
            killed = leader(&servers, &urls);
            killed.is_some()
        });
        let killed = killed.unwrap();
        servers[killed].kill();
        documents.set("b", ports::free(), "");
        let other = (killed + 1) % servers.len();
        until("another server leads", || {
            let output = servers[other].try_ctl(&["put", &key("b")], Some(&documents.text("b")));
            output.status.success() || !words(&output).contains("Error")
        });
        documents.until_everywhere(&brokers);
        servers[killed].run();
        bystanders.iter_mut().for_each(Client::ping);
        eprintln!("round {round}: server {killed} led");
    }
    for broker in &brokers {
        until("no broker reports a source error", || broker.source_error().is_none());
    }
}

/// The first server of the list is not there: the next one is asked.
#[test]
fn a_server_that_is_not_there_is_passed_over() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let documents = Documents::new(&["a"]);
    let urls = format!("http://{},{}", ports::free_address(), etcd.url());
    push(documents.path(), &urls, &[]);
    let broker = Broker::start(1, &urls, &[]);
    documents.until_on(&broker);
    until("the error is cleared", || broker.source_error().is_none() && broker.nodes() == ["n1"]);
}
