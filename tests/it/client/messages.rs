//! Messages between `weir pub` and `weir sub`.

use std::io::Write;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Dev, Sub, ended, good, weir};
use crate::net::tls::Authority;
use crate::programs::run;
use crate::support::child::ChildGuard;
use crate::support::ports;
use crate::support::weir::Weir;

#[test]
fn every_transport_carries_messages_of_every_version() {
    let ca = Authority::new();
    let certificate = ca.issue("server", &["localhost"], 1);
    let tls = "sslConfig: {certFile: server.crt, keyFile: server.key}";
    let websocket = "useWebsocket: true, path: /mqtt";
    let fields = [("tcp", ""), ("tls", tls), ("ws", websocket), ("wss", &format!("{tls}, {websocket}"))];
    let fields = fields.map(|(name, fields)| (name, format!("enableAuth: false, {fields}")));
    let fields = fields.each_ref().map(|(name, fields)| (*name, fields.as_str()));
    let (documents, addresses) = ports::endpoint_documents(&fields);
    let mut broker = Weir::new().with_files(&[
        ("server.crt", &*certificate.chain_pem),
        ("server.key", &*certificate.key_pem),
        ("mqtt.yaml", &*documents),
    ]);
    let socket = broker.directory().join("mqtt.sock").display().to_string();
    broker.write("unix.yaml", &format!("endpoint: {{host: 'unix:{socket}', enableAuth: false, enableAcl: false}}\n"));
    let ca_file = broker.directory().join("ca.crt").display().to_string();
    std::fs::write(&ca_file, ca.pem()).unwrap();
    broker.run_until_accepting(&addresses.values().copied().collect::<Vec<_>>());
    broker.until_running("the Unix socket is there", |_| std::path::Path::new(&socket).exists());
    let port = |name: &str| addresses[name].port();
    let targets = [
        format!("-h 127.0.0.1 -p {}", port("tcp")),
        format!("--url mqtts://localhost:{} --cafile {ca_file}", port("tls")),
        format!("-h 127.0.0.1 -p {} --cafile {ca_file}", port("tls")),
        format!("--url ws://127.0.0.1:{}/mqtt", port("ws")),
        format!("--url wss://localhost:{} --cafile {ca_file}", port("wss")),
        format!("--url wss://127.0.0.1:{} --insecure", port("wss")),
        format!("--url unix:{socket}"),
    ];
    let large = broker.directory().join("large");
    std::fs::write(&large, vec![b'x'; 300_000]).unwrap();
    for (n, target) in targets.iter().enumerate() {
        // A certificate for localhost is not one for 127.0.0.1.
        if n == 2 {
            let output = run(&mut weir(&format!("pub {target} -t a -m b")));
            assert_eq!(output.status.code(), Some(1));
            assert!(String::from_utf8_lossy(&output.stderr).contains("TLS handshake failed"));
            continue;
        }
        for (version, qos) in [("3.1", 0), ("3.1.1", 1), ("5", 2)] {
            let topic = format!("t{n}/{version}");
            good(&format!("pub {target} -V {version} -q {qos} -t {topic} -r -m {topic}"));
            let seen = good(&format!("sub {target} -V {version} -q {qos} -t {topic} -C 1 -W 100 -F %t|%p|%q|%r"));
            assert_eq!(seen, format!("{topic}|{topic}|{qos}|1\n"));
        }
        good(&format!("pub {target} -q 1 -t large{n} -r -f {}", large.display()));
        assert_eq!(good(&format!("sub {target} -q 1 -t large{n} -C 1 -W 100 -F %l")), "300000\n");
    }
}

#[test]
fn a_json_line_has_payload_flags_and_properties() {
    let dev = Dev::start();
    let url = &dev.url;
    good(&format!(
        "pub --url {url} -q 1 -t ask -m hi -r --utf8 --content-type text/plain --response-topic answer/1 \
         --correlation-data 7 --user-property from=ann --user-property from=bob"
    ));
    let line: Value = serde_json::from_str(&good(&format!("sub --url {url} -q 2 -t ask -C 1 --format json"))).unwrap();
    let properties = json!({
        "payloadFormatIndicator": 1, "contentType": "text/plain", "responseTopic": "answer/1", "correlationData": "7",
        "userProperties": [["from", "ann"], ["from", "bob"]],
    });
    let expected = json!({"topic": "ask", "payload": "hi", "qos": 1, "retain": true, "properties": properties});
    assert_eq!(line, expected);
    let template = "%C,%R,%D,%P,%F";
    let filled = good(&format!("sub --url {url} -t ask -C 1 -F {template}"));
    assert_eq!(filled, "text/plain,answer/1,7,from:ann from:bob,1\n");

    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("payload");
    std::fs::write(&file, [0xFF, 0x00, 0x0A]).unwrap();
    good(&format!("pub --url {url} -t raw -r -q 1 -f {} --message-expiry 1000", file.display()));
    let line: Value = serde_json::from_str(&good(&format!("sub --url {url} -t raw -C 1 --format json"))).unwrap();
    assert_eq!((&line["payload"], &line["base64"]), (&json!("/wAK"), &json!(true)));
    assert!(line["properties"]["messageExpiryInterval"].as_u64().unwrap() <= 1000);
    assert_eq!(good(&format!("sub --url {url} -t raw -C 1 --format hex")), "ff000a\n");
    let output = run(&mut weir(&format!("sub --url {url} -t raw -C 1 -N")));
    assert_eq!(output.stdout, [0xFF, 0x00, 0x0A], "a pipe gets the bytes as they are");
}

#[test]
fn payloads_come_from_arguments_lines_files_and_standard_input() {
    let dev = Dev::start();
    let url = &dev.url;
    let mut sub = Sub::start(url, "-t in/# -q 2 -F %t=%p");
    let feed = |words: &str, input: &str| {
        let mut command = weir(&format!("pub --url {url} {words}"));
        let mut child = ChildGuard::spawn(command.stdin(Stdio::piped()));
        child.take_stdin().write_all(input.as_bytes()).unwrap();
        assert_eq!(ended(&mut child).code(), Some(0), "{words}");
    };
    feed("-t in/lines -l -q 2", "one\n\nthree");
    feed("-t in/whole -s -q 1", "a\nb");
    feed("-t in/repeat -m x -q 1 --repeat 3 --topic-alias 1", "");
    feed("-t in/null -n -q 0", "");
    let expected = ["in/lines=one", "in/lines=", "in/lines=three", "in/whole=a", "b"];
    for line in expected.into_iter().chain(["in/repeat=x"; 3]).chain(["in/null="]) {
        assert_eq!(sub.line(), line);
    }
    assert_eq!(sub.end(Signal::INT).code(), Some(0));
}

#[test]
fn retained_messages_can_be_left_out_and_an_empty_one_deletes() {
    let dev = Dev::start();
    let url = &dev.url;
    good(&format!("pub --url {url} -t kept -m old -r -q 1"));
    for version in ["3.1.1", "5"] {
        let mut sub = Sub::start(url, &format!("-V {version} -t live/# -F %p"));
        // Sub's own marker is retained, so it cannot be used with -R: a subscriber of its own.
        let output = good(&format!("sub --url {url} -V {version} -t kept -R -W 0.3"));
        assert_eq!(output, "", "{version}");
        good(&format!("pub --url {url} -V {version} -t live/1 -m new -r -q 1"));
        assert_eq!(sub.line(), "new");
    }
    good(&format!("pub --url {url} -t kept -n -r -q 1"));
    assert_eq!(good(&format!("sub --url {url} -t kept -W 0.3")), "");
}

#[test]
fn subscription_options_reach_the_broker() {
    let dev = Dev::start();
    let url = &dev.url;
    let mut as_published = Sub::start(url, "-t opt/# --retain-as-published -q 1 -F %p%r");
    let mut plain = Sub::start(url, "-t opt/# -q 1 -F %p%r");
    let mut shared = Sub::start(url, "-t $share/g/opt/# -q 1 -F %p%r");
    good(&format!("pub --url {url} -t opt/1 -m x -r -q 1"));
    assert_eq!([as_published.line(), plain.line(), shared.line()], ["x1", "x0", "x0"]);
}
