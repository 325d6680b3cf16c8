//! Data directories that cannot be used, one with a torn end, and the export of one.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::Stdio;

use super::process::DurableBroker;
use super::small_disk::Client;
use crate::support::weir;
use crate::wire::Packet;

/// Runs a second broker on a data directory until it ends; returns its standard error.
pub(super) fn refused(broker: &DurableBroker) -> String {
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
    let mut broker = DurableBroker::start(1, "");
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
    let mut broker = DurableBroker::start(1, "");
    broker.stop();
    fs::remove_dir_all(broker.data()).unwrap();
    fs::write(broker.data(), "a file").unwrap();
    let said = refused(&broker);
    assert!(said.contains("--data-dir") && said.contains("data"), "{said}");
}

#[test]
fn a_torn_end_is_cut_off_and_logged() {
    let mut broker = DurableBroker::start(1, "");
    broker.stop();
    let file = broker.data().join("store/000000000001.log");
    OpenOptions::new().append(true).open(&file).unwrap().write_all(b"wfrm and then the power went").unwrap();
    broker.run_until_ready();
    assert!(broker.log().contains("the last commit was incomplete"), "{}", broker.log());
}

#[test]
fn an_exported_store_can_be_imported() {
    let mut broker = DurableBroker::start(1, ", sessionExpiryMaxS: 4294967295");
    let mut subscriber = Client::connect(&broker, "offline");
    let filters = vec![("t".to_owned(), 1)];
    subscriber.send(&Packet::Subscribe { id: 1, properties: Vec::new(), filters });
    assert!(matches!(subscriber.receive(), Packet::SubAck { .. }));
    drop(subscriber);
    assert_eq!(Client::connect(&broker, "publisher").publish(7), 0);
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
    assert!(seen.contains("\"\" \"offline\" of main: 1 messages wait, never expires"), "{seen}");
    let seen = inspect_for_machines.args(["--sessions", "--format", "json"]).output().unwrap().stdout;
    let seen: serde_json::Value = serde_json::from_slice(&seen).unwrap();
    let offline = serde_json::json!(
        {"namespace": "", "clientId": "offline", "endpoint": "main", "waitingMessages": 1, "expiryS": null}
    );
    assert!(seen["sessions"].as_array().unwrap().contains(&offline), "{seen:#}");
    assert_eq!(seen["records"]["delivery"]["count"], 1, "{seen:#}");
    let exported = export.output().unwrap();
    assert!(exported.status.success());
    fs::remove_dir_all(broker.data()).unwrap();
    let mut importing = import.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    importing.stdin.take().unwrap().write_all(&exported.stdout).unwrap();
    assert!(importing.wait().unwrap().success());
    broker.run_until_ready();
    match Client::connect(&broker, "offline").receive() {
        Packet::Publish(publish) => assert_eq!(publish.payload[..4], 7_u32.to_be_bytes()),
        other => panic!("{other:?}"),
    }
}
