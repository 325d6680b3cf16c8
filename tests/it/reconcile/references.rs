//! A reference to another document is planned and applied as a changed document.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use super::broker::{Broker, at};
use crate::support::client::{Client, clean_connect};
use crate::support::ports;
use crate::support::weir;
use crate::wire::{Connect, Packet, Properties, Version};

const ONE: &str = "[{passwordFile: {file: one}}, {anonymous: {}}]";
const TWO: &str = "[{passwordFile: {file: two}}]";

fn password(file: &Path, user: &str) {
    let mut child = weir::command()
        .arg("passwd")
        .args([file, Path::new(user)])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    assert!(child.wait().unwrap().success());
}

fn enter(port: u16, id: &str, user: Option<&str>) -> Client {
    let mut client = Client::open(at(port), Version::V5);
    let plain = clean_connect(Version::V5, id, Properties::new());
    let credentials = user.map(|user| (user.to_owned(), b"secret".to_vec()));
    let (username, password) = credentials.unzip();
    client.send(&Packet::Connect(Connect { username, password, ..plain }));
    assert!(matches!(client.receive(), Some(Packet::ConnAck { code: 0, .. })), "{id} is let in");
    client
}

fn endpoint(port: u16, auth: &str) -> String {
    format!(
        "endpoint: {{name: e, host: 127.0.0.1, port: {port}, enableAcl: false, auth: {auth}, drain: {{windowS: 1}}}}\n"
    )
}

fn auth(name: &str, chain: &str) -> String {
    format!("auth: {{name: {name}, chain: {chain}}}\n")
}

/// The action on the one endpoint of a change of one file.
fn planned(broker: &Broker, file: &str, text: &str) -> Value {
    let proposed = tempfile::tempdir().unwrap();
    for known in ["e.yaml", "one.yaml", "two.yaml"] {
        fs::copy(broker.endpoints().join(known), proposed.path().join(known)).unwrap();
    }
    fs::write(proposed.path().join(file), text).unwrap();
    let output = weir::command()
        .args(["plan", "--format", "json", "--against", &format!("http://{}", broker.status())])
        .arg(proposed.path())
        .output()
        .unwrap();
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    plan["actions"][0].clone()
}

#[test]
fn a_reference_to_another_auth_document_applies_as_changed_content_does() {
    for (file, text, path) in [
        ("e.yaml", endpoint as fn(u16, &str) -> String, "auth"),
        ("one.yaml", |_, _| auth("one", TWO), "auth one: chain"),
    ] {
        let port = ports::free();
        let prepare = |root: &Path| {
            password(&root.join("one"), "alice");
            fs::copy(root.join("one"), root.join("two")).unwrap();
            password(&root.join("one"), "carl");
        };
        let documents =
            [("e.yaml", endpoint(port, "one")), ("one.yaml", auth("one", ONE)), ("two.yaml", auth("two", TWO))];
        let documents = documents.each_ref().map(|(name, text)| (*name, text.as_str()));
        let broker = Broker::start_prepared(&documents, prepare, &[]);
        broker.until_listening("e");
        let mut alice = enter(port, "alice", Some("alice"));
        let mut gone = [enter(port, "carl", Some("carl")), enter(port, "anonymous", None)];
        broker.until("the three are counted", || broker.connected("e") == 3);

        let wanted = text(port, "two");
        let action = planned(&broker, file, &wanted);
        assert_eq!(action["action"], "update", "{action:#}");
        let changes: Vec<(&Value, &Value)> =
            action["changes"].as_array().unwrap().iter().map(|change| (&change["path"], &change["class"])).collect();
        assert_eq!(changes, [(&json!(path), &json!("drain"))], "{action:#}");
        assert_eq!(action["disconnects"], json!({"clients": 3, "bound": "atMost"}));

        broker.apply(file, &wanted);
        for client in &mut gone {
            assert!(matches!(client.receive(), Some(Packet::Disconnect { code: 0x98, .. })));
            assert_eq!(client.receive(), None);
        }
        alice.ping();
        broker.until("one is counted", || broker.connected("e") == 1);
        let entry = broker.get("/api/endpoints/history")["entries"][0].clone();
        assert_eq!(entry["actions"][0]["action"], "update", "{entry:#}");
    }
}
