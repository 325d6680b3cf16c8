//! How long a change takes to reach all brokers, and a start with many documents. Printed, without a limit.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use etcd_client::Client;

use super::broker::Broker;
use super::documents::{Documents, document, key};
use super::store::Etcd;
use super::{is_there, push};
use crate::support::ports;

const CHANGES: usize = 200;

/// From before the put to the last of three brokers accepting, in milliseconds.
#[tokio::test]
#[ignore = "a measurement; cargo test --release --test it etcd::speed -- --ignored --nocapture"]
async fn a_put_is_everywhere_after() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let documents = Documents::new(&["first", "second", "third", "fourth"]);
    push(documents.path(), &etcd.url(), &[]);
    let brokers = Broker::three(&etcd.url());
    documents.until_everywhere(&brokers);
    let cpu: Vec<f64> = brokers.iter().map(cpu_s).collect();
    tokio::time::sleep(Duration::from_secs(20)).await;
    for (broker, before) in brokers.iter().zip(cpu) {
        println!("{}: {:.2} ms of CPU per second at rest", broker.name, (cpu_s(broker) - before) * 1000.0 / 20.0);
    }
    let mut client = Client::connect([etcd.url()], None).await.unwrap();
    let mut took: Vec<f64> = Vec::new();
    for number in 0..CHANGES {
        let port = ports::free();
        let begun = Instant::now();
        client.put(key("moving"), document(port, ""), None).await.unwrap();
        for broker in &brokers {
            while TcpStream::connect((broker.host, port)).is_err() {
                std::thread::sleep(Duration::from_micros(200));
                assert!(begun.elapsed() < crate::support::GUARD, "change {number} does not come");
            }
        }
        took.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    took.sort_by(f64::total_cmp);
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    println!(
        "put to accepting on three brokers, {CHANGES} changes: median {:.1} ms, p99 {:.1} ms, most {:.1} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// From the start of the process to the last of 1,000 endpoints accepting.
#[test]
#[ignore = "a measurement; cargo test --release --test it etcd::speed -- --ignored --nocapture"]
fn a_thousand_endpoints_at_the_start() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start();
    let mut documents = Documents::new(&[]);
    for number in 0..1000 {
        documents.set(&format!("e{number}"), ports::free(), "");
    }
    push(documents.path(), &etcd.url(), &[]);
    for _ in 0..3 {
        let begun = Instant::now();
        let broker = Broker::start(1, &etcd.url(), &[]);
        for (port, _) in documents.endpoints.values() {
            while !broker.listens(*port) {
                std::thread::sleep(Duration::from_millis(1));
                assert!(begun.elapsed() < crate::support::GUARD);
            }
        }
        println!("1,000 endpoints from etcd, start to accepting: {:.2} s", begun.elapsed().as_secs_f64());
    }
}

fn cpu_s(broker: &Broker) -> f64 {
    broker.get("/api/system/resources")["cpu"]["usedS"].as_f64().unwrap()
}
