//! The status server of the built broker with real clients.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Stdio;

use super::client::get;
use crate::support::GUARD;
use crate::support::weir::{self, Weir};

/// A broker whose endpoint is a Unix socket.
pub(super) struct Broker(Weir);

impl Broker {
    pub(super) fn start(more: &[&str]) -> Self {
        let mut broker = Self(Weir::new().with_status().with_shards(2).with_arguments(more));
        broker.declare("");
        broker.0.run();
        broker.0.until_running("the broker is ready", |weir| weir.http("/readyz").starts_with("HTTP/1.1 200 "));
        broker
    }

    fn socket(&self) -> PathBuf {
        self.directory().join("mqtt.sock")
    }

    fn declare(&self, fields: &str) {
        let socket = self.socket();
        let document =
            format!("endpoint: {{host: \"unix:{}\", enableAuth: false, enableAcl: false{fields}}}\n", socket.display());
        self.write("local.yaml", &document);
    }
}

impl Deref for Broker {
    type Target = Weir;

    fn deref(&self) -> &Weir {
        &self.0
    }
}

/// Sends bytes that are no CONNECT, and reads until the broker closes.
fn disturb(broker: &Broker) {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(broker.socket()).unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoints_log_level_follows_its_declaration() {
    let broker = Broker::start(&[]);
    disturb(&broker);
    assert!(!broker.log().contains("connection refused: invalid CONNECT"), "{}", broker.log());
    broker.declare(", logLevel: debug");
    broker.until("the refusal is logged", || {
        disturb(&broker);
        broker.log().contains("connection refused: invalid CONNECT")
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_one_object_per_line_and_a_rejection_is_logged_once() {
    let broker = Broker::start(&["--log-format", "json", "--resync-s", "1"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let document = format!("endpoint: {{name: busy, host: 127.0.0.1, port: {port}, logLevel: debug}}\n");
    broker.write("more.yaml", &format!("{document}---\nendpoint: {{prot: 1}}\n"));
    let passes = || broker.get("/api/source")["reads"].as_u64().unwrap();
    let wanted = passes() + 4;
    broker.until("four more passes", || passes() >= wanted);
    // The address is free at last: a client that speaks no MQTT connects.
    drop(taken);
    broker.until("the refusal is logged", || {
        if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) {
            let _refused = std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n");
            stream.set_read_timeout(Some(GUARD)).unwrap();
            let _end = std::io::Read::read_to_end(&mut stream, &mut Vec::new());
        }
        broker.log().contains("connection refused: invalid CONNECT")
    });
    let log = broker.log();
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines: Vec<serde_json::Value> = whole.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for line in &lines {
        assert!(["timestamp", "level", "message"].iter().all(|field| line[field].is_string()), "{line}");
    }
    let with = |text: &str| {
        let found = lines.iter().filter(|line| line["message"].as_str().unwrap().contains(text));
        found.collect::<Vec<_>>()
    };
    let rejections = with("unknown field `prot`; did you mean `port`?");
    assert_eq!(rejections.len(), 1, "{log}");
    let message = rejections[0]["message"].as_str().unwrap();
    assert!(message.contains("more.yaml:3:12: endpoint.prot: "), "{message}");
    assert_eq!((&rejections[0]["level"], with("in use").len()), (&"ERROR".into(), 1), "{log}");
    assert!(with("to add").iter().all(|line| line["revision"].is_string()), "{log}");
    assert!(with("listener bound").iter().any(|line| line["endpoint"] == "busy"), "{log}");
    let peer = with("connection refused: invalid CONNECT")[0]["peer"].as_str().unwrap();
    assert!(peer.parse::<SocketAddr>().is_ok(), "{peer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verbs_use_the_token_and_a_report_contains_no_secret() {
    let secrets = tempfile::tempdir().unwrap();
    let token = secrets.path().join("token");
    std::fs::write(&token, "correct-horse-battery\n").unwrap();
    let reference = format!("file:{}", token.display());
    let broker = Broker::start(&["--status-bearer-token", &reference]);
    let url = format!("http://{}", broker.status());
    let weir = |arguments: &[&str], reference: Option<&str>| {
        let mut command = weir::command();
        command.args(arguments).args(["--status", &url]).env_remove("WEIR_STATUS_TOKEN");
        if let Some(reference) = reference {
            command.env("WEIR_STATUS_TOKEN", reference);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = weir(&["status"], None);
    assert_eq!(code, Some(1));
    assert!(said.contains("bearer token"), "{said}");
    assert_eq!(weir(&["status", "--probe", "live"], None), (Some(0), "ok\n".to_owned()));
    let (code, said) = weir(&["status"], Some(&reference));
    assert_eq!(code, Some(0), "{said}");

    let log = broker.log_path();
    let archive = secrets.path().join("report.tar");
    let paths = [log.to_str().unwrap(), archive.to_str().unwrap()];
    let (code, said) = weir(&["report", "--log", paths[0], "--output", paths[1]], Some(&reference));
    assert!(matches!(code, Some(0 | 2)), "{said}");
    let bytes = std::fs::read(&archive).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("weir_endpoint_up") && text.contains("\"conditions\"") && text.contains("weir starting"));
    assert!(!text.contains("correct-horse-battery"));

    let second = secrets.path().join("second.tar");
    let arguments = ["report", "--log", paths[0], "--output", second.to_str().unwrap(), "--format", "json"];
    let (code, said) = weir(&arguments, Some(&reference));
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let complete = said["missing"].as_array().unwrap().is_empty();
    assert_eq!(code, Some(if complete { 0 } else { 2 }), "{said}");
    assert_eq!(said["archive"], second.to_str().unwrap());
    assert!(said["files"].as_array().unwrap().contains(&"metrics.txt".into()), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_shows_packets_and_no_payload() {
    use std::io::{BufRead, BufReader, Read, Write};
    let broker = Broker::start(&[]);
    let mut client = std::os::unix::net::UnixStream::connect(broker.socket()).unwrap();
    client.set_read_timeout(Some(GUARD)).unwrap();
    client.write_all(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02c1").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    let trace = |more: &[&str]| {
        let mut command = weir::command();
        command.args(["trace", "--client-id", "c1", "--limit", "1"]).args(more);
        command.args(["--status", &format!("http://{}", broker.status())]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut trace = command.spawn().unwrap();
        let lines = BufReader::new(trace.stdout.take().unwrap()).lines();
        (trace, lines)
    };
    let (mut json, mut lines) = trace(&["--format", "json"]);
    let mut next = || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["event"], "connected");
    client.write_all(b"\x30\x09\x00\x03t/1hush").unwrap();
    let packet = next();
    assert_eq!((&packet["packet"], &packet["topic"]), (&"PUBLISH".into(), &"t/1".into()));
    assert!(!packet.to_string().contains("hush"), "{packet}");
    let known = get(broker.status(), "/api/clients?clientId=c1").await.json()["data"]["clients"][0]["detail"].clone();
    assert_eq!((&known["messagesReceived"], &known["messagesSent"]), (&1.into(), &0.into()), "{known}");
    assert!(known["messagesReceivedPerS"].as_f64().unwrap() > 0.0, "{known}");
    assert_eq!(next()["event"], "end");
    assert!(json.wait().unwrap().success());

    let (mut text, mut lines) = trace(&["--payloads"]);
    lines.next().unwrap().unwrap();
    client.write_all(b"\x30\x09\x00\x03t/1hush").unwrap();
    let packet = lines.next().unwrap().unwrap();
    assert!(packet.contains("hush"), "{packet}");
    assert!(text.wait().unwrap().success());
}

/// `weir import` and `weir validate` take what a broker exports, in both formats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brokers_export_is_imported_and_valid() {
    let broker = Broker::start(&[]);
    broker.write(
        "more.yaml",
        "acl: {rules: [{permission: allow, topics: [\"t/#\"]}]}\n---\ndefaults: {endpoint: {maxInflight: 7}}\n",
    );
    broker.until("the documents are applied", || broker.http("/api/endpoints/export").contains("maxInflight"));
    let directory = tempfile::tempdir().unwrap();
    for format in ["json", "yaml"] {
        let answer = broker.http(&format!("/api/endpoints/export?format={format}"));
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let exported = directory.path().join(format!("export.{format}"));
        let imported = directory.path().join(format!("imported-{format}.yaml"));
        std::fs::write(&exported, body).unwrap();
        let run = |verb: &str, path: &std::path::Path| {
            let output = std::process::Command::new(weir::PROGRAM).arg(verb).arg(path).output().unwrap();
            let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
            assert!(output.status.success(), "{verb} {format}: {stdout}{stderr}");
            stdout
        };
        std::fs::write(&imported, run("import", &exported)).unwrap();
        let digests = [&exported, &imported].map(|path| {
            let said = run("validate", path);
            said.lines().find(|line| line.starts_with("digest ")).unwrap().to_owned()
        });
        assert_eq!(digests[0], digests[1], "{format}");
    }
}
