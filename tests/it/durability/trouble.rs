//! A data directory that cannot be used, a declaration that needs one, and a torn end.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::process::Durable;
use crate::support::{client, stream, weir};
use crate::wire::{Ack, Connect, Packet, Properties, PropertyValue, Version};

/// Runs a second broker on a data directory until it ends; answers with what it says.
pub(super) fn refused(broker: &Durable) -> String {
    let output = weir::command()
        .args(["run", "--status-addr", "none", "--endpoints"])
        .arg(broker.endpoints())
        .arg("--data-dir")
        .arg(broker.data())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_directory_in_use_or_of_a_newer_version_is_refused() {
    let mut broker = Durable::start(1, "");
    let said = refused(&broker);
    assert!(said.contains("data/store: another weir process uses it"), "{said}");
    broker.stop();
    let file = broker.data().join("store/000000000001.log");
    let mut bytes = fs::read(&file).unwrap();
    bytes[8] = 200;
    fs::write(&file, &bytes).unwrap();
    let said = refused(&broker);
    assert!(
        said.contains("file 1 was written by a newer weir (format 200, this one supports 2): start the newer version"),
        "{said}"
    );
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    let mut broker = Durable::start(1, "");
    broker.stop();
    fs::remove_dir_all(broker.data()).unwrap();
    fs::write(broker.data(), "a file").unwrap();
    let said = refused(&broker);
    assert!(said.contains("--data-dir") && said.contains("data"), "{said}");
}

#[test]
fn a_torn_end_is_cut_off_and_said() {
    let mut broker = Durable::start(1, "");
    broker.stop();
    let file = broker.data().join("store/000000000001.log");
    OpenOptions::new().append(true).open(&file).unwrap().write_all(b"wfrm and then the power went").unwrap();
    broker.begin();
    assert!(broker.log().contains("the last commit was incomplete"), "{}", broker.log());
}

/// A client of MQTT 5.0 with a session that stays, which waits for each answer.
pub(super) struct Client {
    client: client::Client,
    socket: TcpStream,
}

impl Client {
    pub(super) fn enter(broker: &Durable, id: &str) -> Self {
        Self::enter_with(broker, id, vec![(0x11, PropertyValue::Number(u32::MAX))])
    }

    pub(super) fn enter_with(broker: &Durable, id: &str, properties: Properties) -> Self {
        let socket = stream::tcp(broker.address);
        let client = client::Client::over(socket.try_clone().unwrap(), Version::V5);
        let mut client = Self { client, socket };
        let connect = client::clean_connect(Version::V5, id, properties);
        client.send(&Packet::Connect(Connect { clean: false, ..connect }));
        assert!(matches!(client.hear(), Packet::ConnAck { code: 0, .. }));
        client
    }

    pub(super) fn send(&mut self, packet: &Packet) {
        self.client.send(packet);
    }

    pub(super) fn hear(&mut self) -> Packet {
        self.client.receive().expect("the connection stays open")
    }

    /// Whether a publish is refused for want of room.
    fn is_refused(broker: &Durable) -> bool {
        let mut client = Self::enter_with(broker, "asks", Vec::new());
        client.send_publish(0);
        client.socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut answer = [0; 5];
        client.socket.read(&mut answer).is_ok_and(|count| answer[..count].contains(&0x97))
    }

    /// Publishes 4 KiB with QoS 1 that begin with a number; answers with the reason of PUBACK.
    pub(super) fn publish(&mut self, number: u32) -> u8 {
        self.send_publish(number);
        match self.hear() {
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
pub(super) struct Mounted(pub(super) std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _status = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

pub(super) fn mount(arguments: &[&str], at: &std::path::Path) -> bool {
    let status = Command::new("mount").args(arguments).arg(at).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[test]
fn a_full_disk_is_told_and_nothing_acknowledged_is_lost() {
    let mut broker = Durable::start(1, "");
    broker.stop();
    fs::remove_dir_all(broker.data()).unwrap();
    fs::create_dir(broker.data()).unwrap();
    if !mount(&["-t", "tmpfs", "-o", "size=512k", "tmpfs"], &broker.data()) {
        println!("skipped: this process may not mount a small disk");
        return;
    }
    let mounted = Mounted(broker.data());
    broker.begin();
    let mut subscriber = Client::enter(&broker, "away");
    let filters = vec![("t".to_owned(), 1)];
    subscriber.send(&Packet::Subscribe { id: 1, properties: Vec::new(), filters });
    assert!(matches!(subscriber.hear(), Packet::SubAck { .. }));
    drop(subscriber);
    // The first one that finds the disk full is told, and so is whoever comes meanwhile.
    let mut first = Client::enter(&broker, "first");
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
    broker.until("the broker uses the new room", || Client::enter(&broker, "after").publish(1_000) == 0);
    broker.kill();
    broker.begin();
    let mut subscriber = Client::enter(&broker, "away");
    let mut owed: VecDeque<u32> = acknowledged.into_iter().chain([1_000]).collect();
    while let Some(wanted) = owed.front() {
        match subscriber.hear() {
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
    let mut broker = Durable::start(1, "");
    broker.stop();
    fs::remove_dir_all(broker.data()).unwrap();
    fs::create_dir(broker.data()).unwrap();
    if !mount(&["-t", "tmpfs", "-o", "size=512k", "tmpfs"], &broker.data()) {
        println!("skipped: this process may not mount a small disk");
        return;
    }
    let mounted = Mounted(broker.data());
    broker.begin();
    let known = broker.data().join("last-known-good.json");
    broker.until("the last known good is saved", || known.exists());
    let document = broker.endpoints().join("main.yaml");
    let describe = |text: &str| {
        let declared = fs::read_to_string(&document).unwrap();
        let start = declared.split(", description").next().unwrap().trim_end().trim_end_matches('}').to_owned();
        fs::write(broker.directory().join("new"), format!("{start}, description: {text}}}\n")).unwrap();
        fs::rename(broker.directory().join("new"), &document).unwrap();
    };
    let mut client = Client::enter(&broker, "fills");
    let filters = vec![("t".to_owned(), 1)];
    client.send(&Packet::Subscribe { id: 1, properties: Vec::new(), filters });
    assert!(matches!(client.hear(), Packet::SubAck { .. }));
    for number in 0..200 {
        client.send_publish(number);
    }
    broker.until("the disk is full", || broker.log().contains("store disk full"));
    // The last pages, too.
    let _full = fs::write(broker.data().join("filler"), vec![0; 512 << 10]);
    // More than a page: some of it may be written.
    describe(&format!("first {}", "温".repeat(3_000)));
    broker.until("that is told", || broker.log().contains("last-known-good.json: No space left"));
    // What was written of the history's entry is cut off again, inside of a character or not.
    let history = broker.data().join("history.jsonl");
    let is_whole = |bytes: &[u8]| {
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        lines.all(|line| line.ends_with(b"\n") && serde_json::from_slice::<serde_json::Value>(line).is_ok())
    };
    assert!(is_whole(&fs::read(&history).unwrap()), "{}", broker.log());
    broker.stop();
    let log = broker.log();
    for told in ["shutdown with a full store disk", "shutdown: last known good not saved"] {
        assert!(log.contains(told), "{told} is not told\n{log}");
    }
    assert!(!broker.data().join("last-known-good.new").exists(), "what could not be written takes no room");
    let told = log.matches("last-known-good.json: No space left").count();
    // It starts on the full disk; when there is room, what was not saved is saved by itself.
    broker.begin();
    broker.until("that is told again", || broker.log().matches("last-known-good.json: No space left").count() > told);
    assert!(!fs::read_to_string(&known).unwrap().contains("first"), "there was no room for it");
    assert!(mount(&["-o", "remount,size=16m"], &broker.data()));
    broker.until("it is saved when there is room", || fs::read_to_string(&known).unwrap().contains("first"));
    assert!(is_whole(&fs::read(&history).unwrap()), "{}", broker.log());
    broker.kill();
    drop(mounted);
}

#[test]
fn an_export_brings_a_store_back() {
    let mut broker = Durable::start(1, "");
    let mut subscriber = Client::enter(&broker, "away");
    let filters = vec![("t".to_owned(), 1)];
    subscriber.send(&Packet::Subscribe { id: 1, properties: Vec::new(), filters });
    assert!(matches!(subscriber.hear(), Packet::SubAck { .. }));
    drop(subscriber);
    assert_eq!(Client::enter(&broker, "publisher").publish(7), 0);
    let store = |verb: &str| {
        let mut command = weir::command();
        command.args(["store", verb]).arg(broker.data());
        command
    };
    let busy = store("export").output().unwrap();
    assert_eq!(busy.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&busy.stderr).contains("another weir process uses it"));
    let (mut inspect, mut export, mut import) = (store("inspect"), store("export"), store("import"));
    let mut inspect_for_machines = store("inspect");
    broker.stop();
    let seen = String::from_utf8(inspect.arg("--sessions").output().unwrap().stdout).unwrap();
    assert!(seen.contains("\"\" \"away\" of main: 1 messages wait, never expires"), "{seen}");
    let seen = inspect_for_machines.args(["--sessions", "--format", "json"]).output().unwrap().stdout;
    let seen: serde_json::Value = serde_json::from_slice(&seen).unwrap();
    let away = serde_json::json!(
        {"namespace": "", "clientId": "away", "endpoint": "main", "waitingMessages": 1, "expiryS": null}
    );
    assert!(seen["sessions"].as_array().unwrap().contains(&away), "{seen:#}");
    assert_eq!(seen["records"]["delivery"]["count"], 1, "{seen:#}");
    let exported = export.output().unwrap();
    assert!(exported.status.success());
    fs::remove_dir_all(broker.data()).unwrap();
    let mut importing = import.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    importing.stdin.take().unwrap().write_all(&exported.stdout).unwrap();
    assert!(importing.wait().unwrap().success());
    broker.begin();
    match Client::enter(&broker, "away").hear() {
        Packet::Publish(publish) => assert_eq!(publish.payload[..4], 7_u32.to_be_bytes()),
        other => panic!("{other:?}"),
    }
}
