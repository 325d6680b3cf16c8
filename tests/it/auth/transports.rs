//! `examples/transports` on the built program, with openssl, curl, mosquitto and MQTT.js.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::broker::Broker;
use super::client::Client;
use super::examples::{example, run};
use super::reload::people;
use crate::net::tls::{Authority, enters, with_certificate};
use crate::programs::{is_there, run as run_program, succeeds, tools};
use crate::support::client::{connect, disconnect, publish};
use crate::support::ports;
use crate::support::stream;
use crate::support::weir::Weir;
use crate::wire::{Packet, Properties, Version};

fn secure(ca: &Authority) -> Broker {
    let server = ca.issue("server", &["localhost", "127.0.0.1"], 1);
    let eu = ca.issue("eu", &["eu.example", "x.eu.example"], 2);
    let files = [
        ("server.crt", &*server.chain_pem),
        ("server.key", &*server.key_pem),
        ("eu.crt", &*eu.chain_pem),
        ("eu.key", &*eu.key_pem),
        ("users.passwd", &*people()),
    ];
    let broker = run("transports/tls", &files);
    std::fs::write(broker.path("ca.crt"), ca.pem()).unwrap();
    broker
}

#[test]
fn openssl_negotiates_the_declared_versions_names_and_alpn() {
    if !is_there(Path::new("openssl")) {
        return;
    }
    let broker = secure(&Authority::new());
    let address = broker.address.to_string();
    let s_client = |more: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &address, "-verify_return_error", "-CAfile"]).arg(broker.path("ca.crt"));
        let output = run_program(command.args(more));
        let text = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    };
    let cases: [(&[&str], bool, &[&str]); 8] = [
        (&["-tls1_3"], true, &["Verification: OK", "CN = server", "No ALPN negotiated"]),
        (&["-tls1_2"], true, &["Verification: OK"]),
        (&["-alpn", "mqtt"], true, &["ALPN protocol: mqtt"]),
        (&["-alpn", "h2"], false, &["no application protocol"]),
        (&["-servername", "eu.example"], true, &["CN = eu"]),
        (&["-servername", "x.eu.example"], true, &["CN = eu"]),
        (&["-servername", "other.example"], true, &["CN = server"]),
        (&["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], false, &[]),
    ];
    for (arguments, connects, expected) in cases {
        let (connected, text) = s_client(arguments);
        assert_eq!(connected, connects, "{arguments:?}\n{text}");
        for words in expected {
            assert!(text.contains(words), "{arguments:?}: {words}\n{text}");
        }
    }
    let (_, text) = s_client(&["-tls1_2", "-reconnect"]);
    assert!(text.contains("Reused, TLSv1.2"), "sessions resume\n{text}");
}

#[test]
fn mosquitto_publishes_and_subscribes_over_tls() {
    if !is_there(Path::new("mosquitto_sub")) || !is_there(Path::new("curl")) {
        return;
    }
    let broker = secure(&Authority::new());
    let (port, ca) = (broker.address.port().to_string(), broker.path("ca.crt"));
    let login = ["-h", "127.0.0.1", "-p", &port, "-u", "alice", "-P", "secret", "-q", "1"];
    let topic = "devices/alice/temp";
    succeeds(Command::new("mosquitto_pub").args(login).arg("--cafile").arg(&ca).args(["-t", topic, "-m", "21", "-r"]));
    let mut subscriber = Command::new("mosquitto_sub");
    subscriber.args(login).arg("--cafile").arg(&ca).args(["-t", topic, "-C", "1", "-W", "30"]);
    assert_eq!(succeeds(&mut subscriber), "21\n");
    // The client refuses a server of an authority that it does not trust.
    let foreign = broker.path("foreign.crt");
    std::fs::write(&foreign, Authority::new().pem()).unwrap();
    let refused = run_program(
        Command::new("mosquitto_pub").args(login).arg("--cafile").arg(&foreign).args(["-t", topic, "-m", "1"]),
    );
    assert!(!refused.status.success(), "{refused:?}");
}

#[test]
fn curl_publishes_with_a_password() {
    if !is_there(Path::new("curl")) {
        return;
    }
    let broker = run("auth/password-file", &[("users.passwd", &people())]);
    let mut alice = broker.client("a").user("alice", "secret").connected();
    assert_eq!(alice.subscribe("devices/alice/#"), 1);
    let url = format!("mqtt://{}/devices/alice/temp", broker.address);
    let curl = |login: &str| run_program(Command::new("curl").args(["-sS", "-m", "30", "-u", login, "-d", "21", &url]));
    assert!(!curl("alice:wrong").status.success());
    assert!(curl("alice:secret").status.success());
    broker.until("curl's message", || alice.received() == ["devices/alice/temp"]);
}

fn browsers(ca: &Authority) -> Broker {
    let server = ca.issue("server", &["localhost", "127.0.0.1"], 1);
    let broker = run("transports/wss", &[("server.crt", &server.chain_pem), ("server.key", &server.key_pem)]);
    std::fs::write(broker.path("ca.crt"), ca.pem()).unwrap();
    broker
}

#[test]
fn a_websocket_upgrade_over_tls_is_checked() {
    if !is_there(Path::new("curl")) {
        return;
    }
    let broker = browsers(&Authority::new());
    let asked = |path: &str, headers: &[&str]| {
        let mut command = Command::new("curl");
        // The connection stays open after 101; only the status is awaited.
        command.args(["-s", "--http1.1", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"]);
        command.arg(broker.path("ca.crt")).arg(format!("https://{}{path}", broker.address));
        for header in headers {
            command.args(["-H", header]);
        }
        String::from_utf8(run_program(&mut command).stdout).unwrap()
    };
    let upgrade = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol: mqtt",
    ];
    let with = |more: &'static str| upgrade.iter().copied().chain([more]).collect::<Vec<_>>();
    assert_eq!(asked("/mqtt", &[]), "426");
    assert_eq!(asked("/other", &upgrade), "404");
    assert_eq!(asked("/mqtt", &with("Origin: https://evil.example")), "403");
    assert_eq!(asked("/mqtt", &with("Origin: https://app.example")), "101");
}

#[test]
fn mqtt_js_works_over_wss() {
    let root = tools().join("node");
    if !is_there(Path::new("node")) || !is_there(&root.join("node_modules/mqtt")) {
        return;
    }
    let broker = browsers(&Authority::new());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/mqttjs_client.mjs");
    let url = format!("wss://{}/mqtt", broker.address);
    for version in ["3", "4", "5"] {
        let mut command = Command::new("node");
        command.env("MQTTJS_ROOT", &root).env("MQTTJS_CA", broker.path("ca.crt"));
        succeeds(command.arg(&script).args([&url, version]));
    }
}

#[test]
fn a_unix_socket_has_the_declared_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let weir = Weir::new();
    let path = weir.directory().join("mqtt.sock");
    let text = example("transports/unix").replace("/run/weir/mqtt.sock", &path.display().to_string());
    let mut weir = weir.with_file("endpoint.yaml", &text);
    weir.run();
    weir.until_running("it listens", |_| std::os::unix::net::UnixStream::connect(&path).is_ok());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let mut local = Client::over(stream::unix(&path), "local").connected();
    local.subscribe("a");
    local.send(&publish("a", b"1", 0, None));
    assert_eq!(local.next_topic(), "a");
}

#[test]
fn rules_apply_to_the_address_in_the_proxy_header() {
    let broker = run("transports/proxy", &[]);
    let behind = |header: &str| {
        let mut stream = stream::tcp(broker.address);
        stream.write_all(header.as_bytes()).unwrap();
        Client::over(stream, "c").connected()
    };
    assert_eq!(behind("PROXY TCP4 198.51.100.7 127.0.0.1 4000 1883\r\n").subscribe("a"), 1);
    assert_eq!(behind("PROXY TCP4 192.0.2.7 127.0.0.1 4000 1883\r\n").subscribe("a"), 0x87);
    let mut without: TcpStream = stream::tcp(broker.address);
    without.write_all(&connect_bytes()).unwrap();
    let mut rest = Vec::new();
    let _ = without.read_to_end(&mut rest);
    assert_eq!(rest, b"", "no header, no answer");
}

/// An anonymous endpoint with additional `fields`.
fn anonymous_endpoint(address: SocketAddr, fields: &str) -> String {
    format!(
        "auth: {{name: default, chain: [{{anonymous: {{}}}}]}}\n---\nendpoint: {{name: main, host: 127.0.0.1, port: {}, \
         enableAcl: false, drain: {{windowS: 0}}{fields}}}\n",
        address.port()
    )
}

/// DISCONNECT: administrative action.
fn administrative_action() -> Option<Packet> {
    disconnect(0x98)
}

fn connect_bytes() -> Vec<u8> {
    connect(Version::V5, "c", Properties::new()).encode(Version::V5)
}

#[test]
fn stricter_tls_applies_to_open_and_new_connections() {
    let (ca, address) = (Authority::new(), ports::free_address());
    let server = ca.issue("server", &["localhost"], 1);
    let declared = |more: &str| {
        anonymous_endpoint(address, &format!(", sslConfig: {{certFile: server.crt, keyFile: server.key{more}}}"))
    };
    let files = [("server.crt", &*server.chain_pem), ("server.key", &*server.key_pem), ("ca.crt", &*ca.pem())];
    let broker = Broker::serve(address, &declared(""), &files);
    let config = |version| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    let (tls12, tls13) = (|| config(&rustls::version::TLS12), || config(&rustls::version::TLS13));
    let connect =
        |config| Client::over(stream::tls(stream::tcp(address), &Arc::new(config), "localhost"), "open").connected();
    let mut old = connect(tls12());
    broker.write_until("documents.yaml", &declared(", minVersion: '1.3'"), "changed endpoint=main");
    assert_eq!(old.receive(), administrative_action());
    assert!(!enters(address, tls12()) && enters(address, tls13()));

    let mut nameless = connect(tls13());
    let required = declared(", minVersion: '1.3', caFile: ca.crt, clientAuth: required");
    broker.write_until("documents.yaml", &required, "changed endpoint=main");
    assert_eq!(nameless.receive(), administrative_action());
    assert!(!enters(address, tls13()) && enters(address, with_certificate(&ca, &ca.issue("device", &[], 2))));
}

#[test]
fn a_removed_proxy_source_disconnects_its_clients() {
    let address = ports::free_address();
    let declared =
        |source: &str| anonymous_endpoint(address, &format!(", proxyProtocol: {{trustedSources: [{source}]}}"));
    let broker = Broker::serve(address, &declared("127.0.0.1/32"), &[]);
    let header = b"PROXY TCP4 198.51.100.7 127.0.0.1 4000 1883\r\n";
    let mut stream = stream::tcp(address);
    stream.write_all(header).unwrap();
    let mut open = Client::over(stream, "c").connected();
    broker.write_until("documents.yaml", &declared("192.0.2.0/24"), "changed endpoint=main");
    assert_eq!(open.receive(), administrative_action());
    let mut stream = stream::tcp(address);
    // The broker may close the connection before all is sent.
    let _ = stream.write_all(&[&header[..], &connect_bytes()].concat());
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(rest, b"");
}

#[test]
fn a_websockets_origins_and_path_change_while_it_serves() {
    let address = ports::free_address();
    let declared = |fields: &str| anonymous_endpoint(address, &format!(", useWebsocket: true{fields}"));
    let broker = Broker::serve(address, &declared(""), &[]);
    let status = |path: &str, origin: &str| {
        let mut stream = stream::tcp(address);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nOrigin: {origin}\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: mqttv3.1\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut line = [0; 12];
        stream.read_exact(&mut line).unwrap();
        String::from_utf8(line[9..].to_vec()).unwrap()
    };
    assert_eq!([status("/mqtt", "https://evil.example"), status("/mqtt", "https://h:3000")], ["403", "101"]);
    let mut open = Client::over(stream::websocket(stream::tcp(address), "/mqtt"), "w").connected();
    let listed = ", websocket: {origins: ['https://app.example']}";
    broker.write_until("documents.yaml", &declared(listed), "changed endpoint=main");
    // The origins of open connections are unknown: all are disconnected.
    assert_eq!(open.receive(), administrative_action());
    assert_eq!([status("/mqtt", "https://evil.example"), status("/mqtt", "https://app.example")], ["403", "101"]);
    let mut open = Client::over(stream::websocket(stream::tcp(address), "/mqtt"), "w").connected();
    broker.write_until("documents.yaml", &declared(&format!("{listed}, path: /other")), "changed endpoint=main");
    assert_eq!([status("/mqtt", "https://app.example"), status("/other", "https://app.example")], ["404", "101"]);
    open.ping();
}

/// A client over IPv4 on a socket of both families has its IPv4 address in rules.
#[test]
fn rules_match_ipv4_clients_of_a_dual_stack_socket() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("SKIPPED: this machine has no IPv6");
        return;
    }
    let four = ports::free_address();
    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, four.port()));
    let documents = format!(
        "auth: {{name: default, chain: [{{anonymous: {{}}}}]}}\n---\nendpoint: {{name: main, host: '::', port: {}}}\n---\n\
         acl: {{name: default, rules: [{{permission: allow, ipaddr: 127.0.0.1/32, topics: [four]}}, \
         {{permission: allow, ipaddr: '::1/128', topics: [six]}}]}}\n",
        four.port()
    );
    let _broker = Broker::serve(four, &documents, &[]);
    for (address, granted) in [(four, [1, 0x87]), (six, [0x87, 1])] {
        let mut client = Client::new(address, "c").connected();
        assert_eq!(["four", "six"].map(|filter| client.subscribe(filter)), granted, "{address}");
    }
}
