//! A bridge follows its declaration: rules, address, credentials and its end change while it runs.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair};
use weir_mqtt::{QoS, ReasonCode};

use super::peers::{CONTENT_TYPE, Listener, Peer, Weir, until};
use crate::support::ports::free;
use crate::support::weir;
use crate::wire::PropertyValue;

const QOS: QoS = QoS::AtLeastOnce;
const NAMES_IT: &str = ", enableBridge: true, bridges: [cloud]";

/// The bridge `cloud` with these fields, and quick attempts.
fn cloud(fields: &str) -> String {
    format!("bridge: {{name: cloud, reconnect: {{minMs: 20, maxMs: 200}}, {fields}}}\n")
}

fn connected(weir: &Weir) -> String {
    let conditions = weir.bridge("cloud")["conditions"].clone();
    let of = conditions.as_array().into_iter().flatten().find(|condition| condition["type"] == "Connected");
    of.map_or_else(String::new, |condition| {
        format!("{} {}", condition["status"].as_str().unwrap(), condition["reason"].as_str().unwrap())
    })
}

#[test]
fn a_bridge_follows_its_declaration() {
    let there = Weir::start("there", "", "");
    let unused_port = free();
    let address = format!("address: [\"mqtt://127.0.0.1:{unused_port}\", \"mqtt://127.0.0.1:{}\"]", there.port);
    let out = |filter: &str| format!("out: [{{filter: \"{filter}\", addPrefix: site1/}}]");
    let first = format!("{address}, notificationTopic: state/cloud, {}", out("sensor/#"));
    let here = Weir::start("here", NAMES_IT, &cloud(&first));
    let archive = Listener::new(there.port, "archive", "#");
    let states = Listener::new(here.port, "states", "state/#");
    let system = Listener::new(here.port, "system", "$SYS/broker/bridges/cloud/state");
    until("the second address is connected to", || here.is_connected("cloud"));
    assert_eq!(connected(&here), "True AsDeclared");
    assert_eq!(states.wait_for(b"1").topic, "state/cloud");
    system.wait_for(b"1");

    // Properties and the retain flag are forwarded, and the loop guard names the broker that the message passed.
    let mut publisher = Peer::connect(here.port, "publisher");
    let properties = vec![(CONTENT_TYPE, PropertyValue::String("text/plain".to_owned()))];
    publisher.publish_all([b"first".to_vec()], "sensor/a", QOS, true, &properties);
    let got = archive.wait_for(b"first");
    assert_eq!((got.topic.as_str(), got.retain, got.qos), ("site1/sensor/a", true, 1));
    assert_eq!(got.content_type.as_deref(), Some("text/plain"));
    let [(name, value)] = &got.user[..] else { panic!("{:?}", got.user) };
    assert!(name == "weir-bridge" && value.starts_with("here ") && value.len() == "here ".len() + 16, "{value}");

    // A client cannot keep a message from being forwarded: it does not know the rest of the value.
    let forged = vec![(0x26, PropertyValue::Pair("weir-bridge".to_owned(), "here".to_owned()))];
    publisher.publish_all([b"forged".to_vec()], "sensor/a", QOS, false, &forged);
    archive.wait_for(b"forged");

    // A rule changes on the open link.
    here.write("more.yaml", &cloud(&format!("{address}, notificationTopic: state/cloud, {}", out("other/#"))));
    until("the new rule holds", || {
        publisher.publish("other/a", b"second", QOS, false);
        archive.got().iter().any(|got| got.topic == "site1/other/a")
    });
    assert_eq!(here.bridge("cloud")["link"]["connects"], 1, "the link stayed");

    // Switched off, messages wait; switched on, they come, in order.
    let off = format!("{address}, enabled: false, {}", out("other/#"));
    here.write("more.yaml", &cloud(&off));
    until("it is off", || connected(&here) == "False Disabled");
    for number in 0..10_u8 {
        publisher.publish("other/b", &[number], QOS, false);
    }
    until("they wait", || here.bridge("cloud")["link"]["queuedMessages"] == 10);
    here.write("more.yaml", &cloud(&format!("{address}, {}", out("other/#"))));
    archive.wait_for(&[9]);
    let waited = archive.got().into_iter().filter(|got| got.topic == "site1/other/b").map(|got| got.payload[0]);
    assert!(waited.eq(0..10));
    until("nothing waits", || here.bridge("cloud")["link"]["queuedMessages"] == 0);

    // Another address: drained here, connected there.
    let elsewhere = Weir::start("elsewhere", "", "");
    let moved = Listener::new(elsewhere.port, "moved", "#");
    let address = format!("address: [\"mqtt://127.0.0.1:{}\"]", elsewhere.port);
    here.write("more.yaml", &cloud(&format!("{address}, {}", out("other/#"))));
    let wanted = format!("mqtt://127.0.0.1:{}", elsewhere.port);
    until("it moved", || here.is_connected("cloud") && here.bridge("cloud")["link"]["address"] == wanted);
    publisher.publish("other/c", b"moved", QOS, false);
    assert_eq!(moved.wait_for(b"moved").topic, "site1/other/c");

    // The plan, and the metrics.
    let wanted = here.directory().join("wanted");
    fs::create_dir(&wanted).unwrap();
    fs::copy(here.path("mqtt.yaml"), wanted.join("mqtt.yaml")).unwrap();
    fs::write(wanted.join("more.yaml"), cloud(&format!("{address}, {}", out("third/#")))).unwrap();
    let plan = weir(&["plan", wanted.to_str().unwrap(), "--against", here.path("").to_str().unwrap()]);
    assert!(plan.contains("  ~ bridge cloud: update\n      out: ") && plan.contains("1 bridge to change"), "{plan}");
    assert!(here.http("/metrics").contains("weir_bridge_connected{bridge=\"cloud\"} 1.0"));

    // Removed: nothing is left of it here.
    here.endpoint("");
    fs::remove_file(here.path("more.yaml")).unwrap();
    until("it is gone", || here.bridge("cloud").is_null() && here.log().contains("removed"));
    publisher.publish("other/d", b"late", QOS, false);
    assert!(moved.got().iter().all(|got| got.payload != b"late"));
}

/// Runs the built program.
fn weir(args: &[&str]) -> String {
    let output = weir::command().args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A certificate authority, and certificates for `localhost` and for a client, as files.
fn certificates(at: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(at.join("ca.pem"), authority.pem()).unwrap();
    for name in ["localhost", "site1"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let issuer: &Issuer<'_, KeyPair> = &authority;
        fs::write(at.join(format!("{name}.pem")), params.signed_by(&key, issuer).unwrap().pem()).unwrap();
        fs::write(at.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[test]
fn credentials_and_certificates_are_sent_and_verified() {
    let files = tempfile::tempdir().unwrap();
    certificates(files.path());
    // An authority that did not sign the other broker's certificate.
    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    let directories = format!("{},{}", files.path().display(), other.path().display());
    let allowed = ["--allow-files", directories.as_str()];
    let at = |name: &str| files.path().join(name).display().to_string();
    fs::write(at("users"), format!("site1:{}\n", weirmq::auth::PasswordHash::create(b"secret").unwrap())).unwrap();
    let tls = format!(
        ", enableAuth: true, sslConfig: {{certFile: {}, keyFile: {}, caFile: {}, clientAuth: required}}",
        at("localhost.pem"),
        at("localhost.key"),
        at("ca.pem")
    );
    let users = format!("auth: {{name: default, chain: [{{passwordFile: {{file: {}}}}}]}}\n", at("users"));
    let there = Weir::start_with("there", &tls, &users, &allowed);
    fs::write(at("cloud.secret"), "wrong\n").unwrap();
    let trust =
        format!("tls: {{caFile: {}, certFile: {}, keyFile: {}}}", at("ca.pem"), at("site1.pem"), at("site1.key"));
    let rest = format!("username: site1, password: \"file:{}\", out: [{{filter: a}}]", at("cloud.secret"));
    let address = format!("address: [\"mqtts://localhost:{}\"]", there.port);
    let documents = cloud(&format!("{address}, {trust}, {rest}"));
    let here = Weir::start_with("here", NAMES_IT, &documents, &allowed);
    until("the password is refused", || connected(&here) == "False Refused");
    let judged = weir::command()
        .args(["validate", "--environment", "--status-addr", "none"])
        .args(allowed)
        .arg(here.path(""))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&judged.stdout).into_owned() + &String::from_utf8_lossy(&judged.stderr);
    assert!(said.contains(ReasonCode::BadUserNameOrPassword.name()), "{said}");
    // The file's new content is seen without a change of the declaration.
    fs::write(at("cloud.secret"), "secret\n").unwrap();
    until("it is connected", || here.is_connected("cloud"));

    let trust = trust.replace(&at("ca.pem"), &other.path().join("ca.pem").display().to_string());
    here.write("more.yaml", &cloud(&format!("{address}, {trust}, {rest}")));
    until("it is not trusted", || connected(&here) == "False Unreachable");
    let said = here.bridge("cloud")["link"]["lastError"].as_str().unwrap().to_owned();
    assert!(said.contains("TLS handshake failed: invalid peer certificate"), "{said}");
    here.write("more.yaml", &documents);
    until("it is connected again", || here.is_connected("cloud"));
    // An invalid certificate file changes nothing, and is reported.
    fs::write(at("ca.pem"), "junk").unwrap();
    until("the file is told", || here.bridge("cloud")["conditions"].to_string().contains("it contains no certificate"));
    assert!(here.is_connected("cloud"), "it goes on by what was last good");
}

/// `examples/bridge` and the commands of `docs/bridges.md`, as written but for the ports.
#[test]
fn the_bridge_example_runs_unchanged() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bridge");
    let judged = weir(&["validate", "--strict", root.join("site").to_str().unwrap(), "--status-addr", "none"]);
    assert!(judged.contains("valid"), "{judged}");
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let cloud = Weir::start("cloud", "", "");
    cloud.write("mqtt.yaml", &read("cloud/mqtt.yaml").replace("1887", &cloud.port.to_string()));
    let site = Weir::start("site", "", "");
    site.write("more.yaml", &read("site/cloud.yaml").replace("1887", &cloud.port.to_string()));
    site.write("mqtt.yaml", &read("site/mqtt.yaml").replace("1886", &site.port.to_string()));
    until("the site is connected", || site.is_connected("cloud"));
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bridges.md")).unwrap();
    for line in
        ["examples/bridge/cloud", "examples/bridge/site", "-p 1887 -t 'site1/#'", "-p 1886 -t sensor/room1/temp"]
    {
        assert!(page.contains(line), "docs/bridges.md has no {line}");
    }
    let archive = Listener::new(cloud.port, "archive", "site1/#");
    Peer::connect(site.port, "sensor").publish("sensor/room1/temp", b"25.5", QOS, false);
    assert_eq!(archive.wait_for(b"25.5").topic, "site1/sensor/room1/temp");
    let actuator = Listener::new(site.port, "actuator", "cmd/#");
    Peer::connect(cloud.port, "operator").publish("cmd/site1/fan", b"on", QOS, false);
    assert_eq!(actuator.wait_for(b"on").topic, "cmd/fan");
}
