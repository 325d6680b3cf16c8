//! Random faults of the store and of the brokers: afterwards all brokers have the documents of the prefix, and none lost a listener.

use std::time::Duration;

use rustix::process::Signal;

use super::broker::Broker;
use super::documents::{Documents, key};
use super::store::Etcd;
use super::{is_there, push, until, words};
use crate::seeded_random::{SeededRandom, seed};
use crate::support::client::Client;
use crate::support::ports;
use crate::wire::Version;

/// Endpoints that are never deleted nor moved: on each broker, a client stays on the first while it lives.
const ANCHORS: [&str; 3] = ["anchor/1", "anchor/2", "anchor/3"];
/// Endpoints that come, move and go.
const OTHERS: [&str; 4] = ["w", "x", "y", "z"];

struct Chaos {
    random: SeededRandom,
    etcd: Etcd,
    documents: Documents,
    brokers: Vec<Broker>,
    bystanders: Vec<Client>,
    story: String,
}

fn bystander(broker: &Broker, documents: &Documents) -> Client {
    Client::connect((broker.host, documents.port(ANCHORS[0])).into(), Version::V5, "bystander")
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let etcd = Etcd::start();
        let documents = Documents::new(&ANCHORS);
        push(documents.path(), &etcd.url(), &[]);
        let brokers = Broker::three(&etcd.url());
        documents.until_everywhere(&brokers);
        for broker in &brokers {
            until("what is served is kept", || broker.has_kept(ANCHORS[0]));
        }
        let bystanders = brokers.iter().map(|broker| bystander(broker, &documents)).collect();
        Self { random: SeededRandom::new(seed), etcd, documents, brokers, bystanders, story: String::new() }
    }

    /// What is put or deleted by hand while the store can be written.
    fn change(&mut self) {
        for _ in 0..=self.random.below(3) {
            let name = *self.random.pick(&OTHERS).unwrap();
            let gone = self.documents.endpoints.contains_key(name) && self.random.one_in(3);
            if gone {
                self.documents.remove(name);
                self.etcd.delete(&key(name));
            } else {
                self.documents.set(
                    name,
                    ports::free(),
                    if self.random.one_in(2) { ", maxConnectionSize: 9" } else { "" },
                );
                self.etcd.put(&key(name), &self.documents.text(name));
            }
        }
    }

    /// Listeners whose documents were not deleted stay, whatever happens.
    fn anchors_hold(&self) {
        for broker in &self.brokers {
            for name in ANCHORS {
                assert!(broker.listens(self.documents.port(name)), "{} lost {name}: {}", broker.name, self.story);
            }
        }
    }

    fn restart(&mut self, at: usize) {
        self.brokers[at].kill();
        self.brokers[at].run();
        for name in ANCHORS {
            let port = self.documents.port(name);
            until(&format!("{} serves what it served: {}", self.brokers[at].name, self.story), || {
                self.brokers[at].listens(port)
            });
        }
        self.bystanders[at] = bystander(&self.brokers[at], &self.documents);
    }

    /// Everything is deleted at once, and waits. It was not meant: it is put back, one by one, and no endpoint is lost on
    /// the way, by no broker, not even by one that restarts.
    fn delete_all_and_put_back(&mut self, at: usize) {
        // A broker that has not read the store since it was restored takes the deletions for what the restore lost: each
        // reads it as it is now.
        self.documents.set(OTHERS[0], ports::free(), "");
        self.etcd.put(&key(OTHERS[0]), &self.documents.text(OTHERS[0]));
        self.settle();
        let mut names: Vec<String> = self.documents.endpoints.keys().cloned().collect();
        self.etcd.ctl(&["del", "--prefix", "/weir/endpoints/"]);
        for broker in &self.brokers {
            for name in &names {
                let what = format!("{} holds {name}: {}", broker.name, self.story);
                until(&what, || broker.condition(name, "Accepted").1 == "DeletionHeld");
            }
        }
        let restarts_at = self.random.below(names.len() as u64) as usize;
        while !names.is_empty() {
            if names.len() == restarts_at {
                until("what is held is kept", || self.brokers[at].has_kept_held());
                self.restart(at);
            }
            let name = names.swap_remove(self.random.below(names.len() as u64) as usize);
            self.etcd.put(&key(&name), &self.documents.text(&name));
            for broker in &self.brokers {
                let what = format!("{} has {name} back: {}", broker.name, self.story);
                until(&what, || broker.condition(&name, "Accepted").0 == "True");
                for (name, (port, _)) in &self.documents.endpoints {
                    assert!(broker.listens(*port), "{} lost {name}: {}", broker.name, self.story);
                }
            }
            self.bystanders.iter_mut().for_each(Client::ping);
        }
        // A broker that is killed before it has saved the release would hold the next deletion of the same document.
        for broker in &self.brokers {
            until("the release of the holds is saved", || !broker.has_kept_held());
        }
    }

    fn doze(&mut self, up_to_ms: u64) {
        let ms = self.random.below(up_to_ms);
        std::thread::sleep(Duration::from_millis(ms));
    }

    fn round(&mut self, number: usize, event: u64) {
        let before = std::time::Instant::now();
        self.story = format!("round {number}, event {event}");
        let at = self.random.below(3) as usize;
        match event {
            0 => self.change(),
            1 => {
                self.etcd.kill();
                self.doze(1500);
                self.anchors_hold();
                self.etcd.run();
                self.change();
            }
            2 => {
                self.etcd.freeze();
                // Sometimes for longer than a silent store is taken for a living one.
                let ms = if self.random.one_in(4) { 13_000 } else { 1500 };
                self.doze(ms);
                self.anchors_hold();
                self.etcd.thaw();
                self.change();
            }
            3 => {
                self.brokers[at].signal(Signal::STOP);
                self.change();
                let revision = self.etcd.revision().to_string();
                // Nothing may have happened since the last time.
                let compacted = self.etcd.try_ctl(&["compact", &revision], None);
                assert!(compacted.status.success() || words(&compacted).contains("compacted"), "{}", words(&compacted));
                self.brokers[at].signal(Signal::CONT);
            }
            4 => {
                self.etcd.wipe();
                self.doze(1000);
                self.anchors_hold();
                push(self.documents.path(), &self.etcd.url(), &["--prune"]);
            }
            5 => self.restore_backup(),
            6 => {
                self.etcd.ctl(&["defrag"]);
                self.change();
            }
            7 => {
                self.change();
                self.restart(at);
            }
            8 => {
                self.etcd.kill();
                self.restart(at);
                self.etcd.run();
                self.change();
            }
            9 => self.delete_all_and_put_back(at),
            _ => {
                self.change();
                push(self.documents.path(), &self.etcd.url(), &["--prune"]);
            }
        }
        self.settle();
        eprintln!("{}: {:?}", self.story, before.elapsed());
    }

    /// Restores a backup that is older than the last change.
    fn restore_backup(&mut self) {
        let backup = tempfile::tempdir().unwrap();
        let backup = backup.path().join("backup");
        self.etcd.save(&backup);
        self.change();
        self.doze(500);
        self.etcd.restore(&backup);
        self.doze(1000);
        self.anchors_hold();
        push(self.documents.path(), &self.etcd.url(), &["--prune"]);
    }

    /// All brokers have what is declared, none reports a source error, and every client is still connected.
    fn settle(&mut self) {
        let digest = self.documents.digest();
        for broker in &self.brokers {
            until(&format!("{} has what is declared after {}", broker.name, self.story), || broker.digest() == digest);
        }
        self.documents.until_everywhere(&self.brokers);
        self.anchors_hold();
        self.bystanders.iter_mut().for_each(Client::ping);
    }
}

/// `rounds` rounds, each event about equally often.
fn run(rounds: usize, seed: u64) {
    if !is_there() {
        return;
    }
    println!("WEIR_SIM_SEED={seed}");
    let mut chaos = Chaos::new(seed);
    let mut events: Vec<u64> = Vec::new();
    for number in 0..rounds {
        if events.is_empty() {
            events = (0..11).collect();
        }
        let event = events.remove(chaos.random.below(events.len() as u64) as usize);
        chaos.round(number, event);
    }
    // Every watch lives: a document that is put now arrives without another listing.
    chaos.documents.set("last", ports::free(), "");
    let (name, text) = (key("last"), chaos.documents.text("last"));
    chaos.etcd.put(&name, &text);
    chaos.settle();
    for broker in &chaos.brokers {
        until("no broker reports a source error", || broker.source_error().is_none());
        until("every broker lists every broker", || {
            broker.nodes().len() == 3 && broker.get("/api/cluster/status")["converged"] == true
        });
        // Endpoints come and go by the dozen in each round; nothing of them stays.
        let (files, threads, bytes) = (broker.open_files(), broker.threads(), broker.resident_bytes());
        eprintln!("{}: {files} files, {threads} threads, {} KiB", broker.name, bytes >> 10);
        assert!(files < 150, "{} has {files} files open", broker.name);
        assert!(threads < 30, "{} has {threads} threads", broker.name);
        assert!(bytes < 200 << 20, "{} holds {bytes} bytes", broker.name);
    }
}

/// Rounds in which everything is deleted and put back, one by one, with changes in between.
#[test]
fn documents_are_put_back_one_by_one() {
    if !is_there() {
        return;
    }
    let seed = seed();
    println!("WEIR_SIM_SEED={seed}");
    let mut chaos = Chaos::new(seed);
    for number in 0..6 {
        chaos.round(number, if number % 2 == 0 { 9 } else { 0 });
    }
}

#[test]
fn a_few_rounds_of_chaos() {
    run(11, seed());
}

#[test]
#[ignore = "ten minutes and more; tests/run --all runs it"]
fn a_hundred_rounds_of_chaos() {
    run(100, seed());
}
