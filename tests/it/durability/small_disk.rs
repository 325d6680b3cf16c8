//! A real broker on a small disk that fills, and a client that waits for each answer.

use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::process::DurableBroker;
use crate::support::{client, stream};
use crate::wire::{Ack, Connect, Packet, Properties, PropertyValue, Version};

/// A client of MQTT 5.0 with a session that never expires; it waits for each answer.
pub(super) struct Client {
    client: client::Client,
    socket: TcpStream,
}

impl Client {
    pub(super) fn connect(broker: &DurableBroker, id: &str) -> Self {
        Self::connect_with(broker, id, vec![(0x11, PropertyValue::Number(u32::MAX))])
    }

    pub(super) fn connect_with(broker: &DurableBroker, id: &str, properties: Properties) -> Self {
        let socket = stream::tcp(broker.address);
        let client = client::Client::over(socket.try_clone().unwrap(), Version::V5);
        let mut client = Self { client, socket };
        let connect = client::clean_connect(Version::V5, id, properties);
        client.send(&Packet::Connect(Connect { clean: false, ..connect }));
        assert!(matches!(client.receive(), Packet::ConnAck { code: 0, .. }));
        client
    }

    pub(super) fn send(&mut self, packet: &Packet) {
        self.client.send(packet);
    }

    pub(super) fn receive(&mut self) -> Packet {
        self.client.receive().expect("the connection stays open")
    }

    /// Whether a publish is refused for want of room.
    fn is_refused(broker: &DurableBroker) -> bool {
        let mut client = Self::connect_with(broker, "asks", Vec::new());
        client.send_publish(0);
        client.socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut answer = [0; 5];
        client.socket.read(&mut answer).is_ok_and(|count| answer[..count].contains(&0x97))
    }

    /// Publishes 4 KiB with QoS 1 that begin with a number; answers with the reason of PUBACK.
    pub(super) fn publish(&mut self, number: u32) -> u8 {
        self.send_publish(number);
        match self.receive() {
            Packet::Ack(ack) => ack.code,
            other => panic!("{other:?}"),
        }
    }

    fn send_publish(&mut self, number: u32) {
        let payload = [&number.to_be_bytes()[..], &[0; 4096]].concat();
        self.send(&client::publish("t", &payload, 1, Some(1)));
    }
}

/// Ends a mount.
pub(super) struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _status = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

pub(super) fn mount(arguments: &[&str], at: &std::path::Path) -> bool {
    let status = Command::new("mount").args(arguments).arg(at).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A broker whose data is on a small disk of its own; `None`: this process may not mount one.
pub(super) fn on_small_disk(size: &str, shards: u16) -> Option<(DurableBroker, Mounted)> {
    let mut broker = DurableBroker::start(shards, "");
    broker.stop();
    fs::remove_dir_all(broker.data()).unwrap();
    fs::create_dir(broker.data()).unwrap();
    if !mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"], &broker.data()) {
        println!("skipped: this process may not mount a small disk");
        return None;
    }
    let mounted = Mounted(broker.data());
    Some((broker, mounted))
}

#[test]
fn a_publish_to_a_full_disk_is_refused_and_nothing_acknowledged_is_lost() {
    let Some((mut broker, mounted)) = on_small_disk("512k", 1) else { return };
    broker.run_until_ready();
    let mut subscriber = Client::connect(&broker, "offline");
    let filters = vec![("t".to_owned(), 1)];
    subscriber.send(&Packet::Subscribe { id: 1, properties: Vec::new(), filters });
    assert!(matches!(subscriber.receive(), Packet::SubAck { .. }));
    drop(subscriber);
    // The publish that finds the disk full is refused, and so is one of a client that connects meanwhile.
    let mut first = Client::connect(&broker, "first");
    let address = broker.address;
    let waits = std::thread::spawn(move || {
        let mut acknowledged = Vec::new();
        for number in 0..200 {
            match first.publish(number) {
                0 => acknowledged.push(number),
                0x97 => break,
                other => panic!("{other:#x} from {address}"),
            }
        }
        acknowledged
    });
    broker.until("the disk is full", || broker.log().contains("store disk full"));
    broker.until("a publish is refused", || Client::is_refused(&broker));
    assert!(mount(&["-o", "remount,size=16m"], &broker.data()));
    let acknowledged = waits.join().unwrap();
    assert!(acknowledged.len() > 50, "{acknowledged:?}");
    broker.until("the broker uses the new room", || Client::connect(&broker, "after").publish(1_000) == 0);
    broker.kill();
    broker.run_until_ready();
    let mut subscriber = Client::connect(&broker, "offline");
    let mut owed: VecDeque<u32> = acknowledged.into_iter().chain([1_000]).collect();
    while let Some(wanted) = owed.front() {
        match subscriber.receive() {
            Packet::Publish(publish) => {
                // What was not acknowledged may be there, too.
                if publish.payload[..4] == wanted.to_be_bytes() {
                    owed.pop_front();
                }
                let ack = Ack { packet_type: 4, id: publish.id.unwrap(), code: 0, properties: Vec::new() };
                subscriber.send(&Packet::Ack(ack));
            }
            other => panic!("{other:?}"),
        }
    }
    broker.kill();
    drop(mounted);
}

#[test]
fn sigterm_on_a_full_disk_ends_with_0_and_says_what_is_not_saved() {
    let Some((mut broker, mounted)) = on_small_disk("512k", 1) else { return };
    broker.run_until_ready();
    let known = broker.data().join("last-known-good.json");
    broker.until("the last known good is saved", || known.exists());
    let document = broker.endpoints().join("main.yaml");
    let describe = |text: &str| {
        let declared = fs::read_to_string(&document).unwrap();
        let start = declared.split(", description").next().unwrap().trim_end().trim_end_matches('}').to_owned();
        fs::write(broker.directory().join("new"), format!("{start}, description: {text}}}\n")).unwrap();
        fs::rename(broker.directory().join("new"), &document).unwrap();
    };
    let mut client = Client::connect(&broker, "fills");
    let filters = vec![("t".to_owned(), 1)];
    client.send(&Packet::Subscribe { id: 1, properties: Vec::new(), filters });
    assert!(matches!(client.receive(), Packet::SubAck { .. }));
    for number in 0..200 {
        client.send_publish(number);
    }
    broker.until("the disk is full", || broker.log().contains("store disk full"));
    // The last pages, too.
    let _full = fs::write(broker.data().join("filler"), vec![0; 512 << 10]);
    // More than a page: some of it may be written.
    describe(&format!("first {}", "温".repeat(3_000)));
    broker.until("the failed write is logged", || broker.log().contains("last-known-good.json: No space left"));
    // What was written of the history's entry is cut off again, inside of a character or not.
    let history = broker.data().join("history.jsonl");
    let is_whole = |bytes: &[u8]| {
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        lines.all(|line| line.ends_with(b"\n") && serde_json::from_slice::<serde_json::Value>(line).is_ok())
    };
    assert!(is_whole(&fs::read(&history).unwrap()), "{}", broker.log());
    broker.stop();
    let log = broker.log();
    for line in ["shutdown with a full store disk", "shutdown: last known good not saved"] {
        assert!(log.contains(line), "{line} is not logged\n{log}");
    }
    assert!(!broker.data().join("last-known-good.new").exists(), "what could not be written takes no room");
    let logged = log.matches("last-known-good.json: No space left").count();
    // It starts on the full disk; when there is room, what was not saved is saved by itself.
    broker.run_until_ready();
    broker.until("the failed write is logged again", || {
        broker.log().matches("last-known-good.json: No space left").count() > logged
    });
    assert!(!fs::read_to_string(&known).unwrap().contains("first"), "there was no room for it");
    assert!(mount(&["-o", "remount,size=16m"], &broker.data()));
    broker.until("it is saved when there is room", || fs::read_to_string(&known).unwrap().contains("first"));
    assert!(is_whole(&fs::read(&history).unwrap()), "{}", broker.log());
    broker.kill();
    drop(mounted);
}
