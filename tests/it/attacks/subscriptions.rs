//! Attacks with topic filters: retained messages read many times, matches that visit many nodes, shared groups.

use std::io::Result;
use std::time::Duration;

use super::client::{Client, publish, subscribe};
use super::run::Attack;
use super::scaled;
use super::target::Target;

/// Retained messages that are read.
const RETAINED: usize = 1000;
/// Filters of a SUBSCRIBE packet: as many as it may have.
const FILTERS: usize = 4096;
/// SUBSCRIBE packets with the same filters.
const PACKETS: usize = 3;
/// How long the attacker reads nothing, and then everything.
const HOLD: Duration = Duration::from_secs(5);

/// Subscriptions of one session: fewer than the default allows.
const PER_SESSION: usize = 8192;
/// Levels of the filters `{a,+}^n`, each of which doubles the nodes that a match visits.
const LEVELS: u32 = 16;
/// Publishes of a burst that match nothing: 41 kB.
const PUBLISHES: usize = 1000;
const BURSTS: usize = 3;

const GROUPS: usize = 65_536;

/// `{a,+}` on each of `levels` levels.
fn doubling_filters(levels: u32) -> Vec<String> {
    let filter = |bits: u32| {
        let level = |n| if bits >> n & 1 == 0 { "a" } else { "+" };
        (0..levels).map(level).collect::<Vec<_>>().join("/")
    };
    (0..1 << levels).map(filter).collect()
}

fn retain(target: &Target, topic: impl Fn(usize) -> String) -> Result<()> {
    let mut publisher = Client::enter(target.address("open"), "publisher")?;
    for n in 0..scaled(RETAINED) {
        publisher.send(&publish(&topic(n), b"sixteen bytes...", true))?;
    }
    publisher.ping()
}

/// Sends the packets at once, reads nothing for a while, then everything.
fn read_retained(target: &Target, filters: &[String]) -> Result<String> {
    let mut subscriber = Client::enter(target.address("open"), "subscriber")?;
    let bytes = subscribe(filters.iter().map(String::as_str)).repeat(PACKETS);
    subscriber.send(&bytes)?;
    std::thread::sleep(HOLD);
    let read = subscriber.discard_for(HOLD)?;
    Ok(format!("{} bytes sent, {read} received", bytes.len()))
}

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn one_filter_repeated_over_retained_messages() {
    Attack::new("3 SUBSCRIBE packets with one filter 4,096 times over 1,000 retained messages").run(|target| {
        retain(target, |n| format!("r/{n}"))?;
        read_retained(target, &vec!["r/#".to_owned(); scaled(FILTERS)])
    });
}

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn distinct_wildcard_filters_over_retained_messages() {
    Attack::new("3 SUBSCRIBE packets with 4,096 distinct filters over 1,000 retained messages").run(|target| {
        retain(target, |n| format!("a/a/a/a/a/a/a/a/a/a/a/a/{n}"))?;
        let mut filters: Vec<String> = doubling_filters(12).iter().map(|filter| format!("{filter}/+")).collect();
        filters.truncate(scaled(FILTERS));
        read_retained(target, &filters)
    });
}

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn publishes_that_match_nothing_under_doubling_filters() {
    Attack::new("2^16 filters {a,+}^16, then 41 kB of publishes that match nothing, three times").run(|target| {
        let mut filters = doubling_filters(LEVELS);
        filters.truncate(scaled(filters.len()));
        let (subscribers, granted) = subscribe_all(target, &filters)?;
        let mut publisher = Client::enter(target.address("open"), "publisher")?;
        for burst in 0..BURSTS {
            let topic = |n: usize| format!("{}/{burst}-{n}", ["a"; LEVELS as usize].join("/"));
            let bytes: Vec<u8> = (0..scaled(PUBLISHES)).flat_map(|n| publish(&topic(n), b"", false)).collect();
            publisher.send(&bytes)?;
            std::thread::sleep(Duration::from_secs(1));
        }
        std::thread::sleep(Duration::from_secs(3));
        drop(publisher);
        drop(subscribers);
        Ok(format!("{granted} filters granted"))
    });
}

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn shared_groups_of_one_filter() {
    Attack::new("65,536 shared groups of one filter, 100 publishes, the disconnect").run(|target| {
        let filters: Vec<String> = (0..scaled(GROUPS)).map(|n| format!("$share/g{n}/shared/topic")).collect();
        let (mut subscribers, granted) = subscribe_all(target, &filters)?;
        let mut publisher = Client::enter(target.address("open"), "publisher")?;
        for _ in 0..100 {
            publisher.send(&publish("shared/topic", b"x", false))?;
        }
        std::thread::sleep(Duration::from_secs(1));
        for subscriber in &mut subscribers {
            subscriber.discard_for(Duration::from_millis(200))?;
        }
        drop(subscribers);
        Ok(format!("{granted} groups granted"))
    });
}

/// As many sessions as the filters need.
fn subscribe_all(target: &Target, filters: &[String]) -> Result<(Vec<Client>, usize)> {
    let (mut subscribers, mut granted) = (Vec::new(), 0);
    for (n, filters) in filters.chunks(PER_SESSION).enumerate() {
        let mut subscriber = Client::enter(target.address("open"), &format!("subscriber-{n}"))?;
        granted += subscriber.subscribe(filters, FILTERS)?;
        subscribers.push(subscriber);
    }
    Ok((subscribers, granted))
}
