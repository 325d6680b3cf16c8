//! Mutual TLS on the built program, with mosquitto's clients and rustls.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::broker::Broker;
use super::client::Client;
use super::examples::run;
use super::reload::people;
use crate::net::tls::{Authority, Issued, enters, with_certificate};
use crate::programs::{is_there, run as run_program, succeeds};
use crate::support::client::{disconnect, publish};
use crate::support::stream;

const SERVER: &[&str] = &["localhost", "127.0.0.1"];

/// `examples/auth/mtls` with an authority's files; only number 66 is revoked.
fn mtls(ca: &Authority) -> Broker {
    let server = ca.issue("server", SERVER, 1);
    let files = [
        ("server.crt", &*server.chain_pem),
        ("server.key", &*server.key_pem),
        ("clients-ca.crt", &*ca.pem()),
        ("clients.crl", &*ca.revoke(&[66], 2100)),
    ];
    run("auth/mtls", &files)
}

/// Writes a certificate and its key beside the broker's files; their paths.
fn kept(broker: &Broker, name: &str, issued: &Issued) -> [String; 2] {
    let paths = [broker.path(&format!("{name}.crt")), broker.path(&format!("{name}.key"))];
    std::fs::write(&paths[0], &issued.chain_pem).unwrap();
    std::fs::write(&paths[1], &issued.key_pem).unwrap();
    paths.map(|path| path.display().to_string())
}

#[test]
fn mosquitto_with_good_foreign_revoked_and_no_certificates() {
    if !is_there(Path::new("mosquitto_pub")) || !is_there(Path::new("mosquitto_sub")) {
        return;
    }
    let (ca, other_ca) = (Authority::new(), Authority::new());
    let broker = mtls(&ca);
    let good = kept(&broker, "good", &ca.issue("device-1", &[], 10));
    let revoked = kept(&broker, "revoked", &ca.issue("device-1", &[], 66));
    let foreign = kept(&broker, "foreign", &other_ca.issue("device-1", &[], 10));
    let (port, trusted) = (broker.address.port().to_string(), broker.path("clients-ca.crt"));
    let command = |program: &str, certificate: Option<&[String; 2]>, more: &[&str]| {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "--cafile"]).arg(&trusted).args(more);
        if let Some([cert, key]) = certificate {
            command.args(["--cert", cert, "--key", key]);
        }
        command
    };
    for version in ["mqttv311", "mqttv5"] {
        let topic = format!("devices/device-1/{version}");
        let publish = ["-V", version, "-t", &topic, "-m", "25.5", "-r"];
        succeeds(&mut command("mosquitto_pub", Some(&good), &publish));
        let filter = ["-V", version, "-t", "devices/device-1/+", "-C", "1", "-W", "30"];
        assert_eq!(succeeds(&mut command("mosquitto_sub", Some(&good), &filter)), "25.5\n");
        // The common name is the user name, and the rules apply to it.
        let others = ["-V", version, "-t", "devices/device-2/#", "-C", "1", "-W", "30"];
        let denied = run_program(&mut command("mosquitto_sub", Some(&good), &others));
        assert!(String::from_utf8_lossy(&denied.stderr).contains("denied"), "{denied:?}");
        for (which, certificate) in [("revoked", Some(&revoked)), ("foreign", Some(&foreign)), ("none", None)] {
            let refused = run_program(&mut command("mosquitto_pub", certificate, &publish));
            assert!(!refused.status.success(), "{which}: {refused:?}");
        }
    }
}

#[test]
fn a_revoked_certificate_ends_its_open_connections_and_no_others() {
    let ca = Authority::new();
    let broker = mtls(&ca);
    let (bad, good) = (ca.issue("device-1", &[], 10), ca.issue("device-2", &[], 11));
    let connect = |device: &Issued, id: &str| {
        let config = Arc::new(with_certificate(&ca, device));
        Client::over(stream::tls(stream::tcp(broker.address), &config, "localhost"), id).connected()
    };
    let (mut revoked, mut again, mut other) = (connect(&bad, "a"), connect(&bad, "b"), connect(&good, "other"));
    broker.write_until("clients.crl", &ca.revoke(&[66, 10], 2100), "changed endpoint=devices");
    for client in [&mut revoked, &mut again] {
        assert_eq!(client.receive(), disconnect(0x98), "administrative action");
        assert_eq!(client.receive(), None);
    }
    other.ping();
    assert!(!enters(broker.address, with_certificate(&ca, &bad)));
    // A list that cannot be parsed changes nothing.
    for broken in ["", &ca.revoke(&[], 2100)[..100]] {
        broker.write_until("clients.crl", broken, "clients.crl: the CRL file");
        assert!(!enters(broker.address, with_certificate(&ca, &bad)), "{broken:?}");
        assert!(enters(broker.address, with_certificate(&ca, &good)), "{broken:?}");
        other.ping();
    }
    // A list that is out of date admits and confirms no client.
    broker.write_until("clients.crl", &ca.revoke(&[66, 10], 2021), "changed endpoint=devices");
    assert!(!enters(broker.address, with_certificate(&ca, &good)));
    assert_eq!(other.receive(), disconnect(0x98));
    broker.write_until("clients.crl", &ca.revoke(&[66], 2100), "changed endpoint=devices");
    assert!(enters(broker.address, with_certificate(&ca, &bad)), "no longer revoked");
}

#[test]
fn a_removed_authority_disconnects_its_clients() {
    let (ca, next) = (Authority::new(), Authority::new());
    let broker = mtls(&ca);
    let device = ca.issue("device-1", &[], 10);
    let config = Arc::new(with_certificate(&ca, &device));
    let mut open = Client::over(stream::tls(stream::tcp(broker.address), &config, "localhost"), "a").connected();
    std::fs::write(broker.path("new.tmp"), next.revoke(&[], 2100)).unwrap();
    std::fs::rename(broker.path("new.tmp"), broker.path("clients.crl")).unwrap();
    broker.write("clients-ca.crt", &next.pem());
    assert_eq!(open.receive(), disconnect(0x98));
    broker
        .until("clients of the old authority are refused", || !enters(broker.address, with_certificate(&ca, &device)));
}

#[test]
fn a_name_of_the_certificate_becomes_the_user_name() {
    let ca = Authority::new();
    let server = ca.issue("server", SERVER, 1);
    let files = [
        ("server.crt", &*server.chain_pem),
        ("server.key", &*server.key_pem),
        ("clients-ca.crt", &*ca.pem()),
        ("users.passwd", &*people()),
    ];
    let broker = run("auth/mtls-names", &files);
    let open = |config| stream::tls(stream::tcp(broker.address), &Arc::new(config), "localhost");
    let named = ca.issue("ignored", &["dev7.example", "192.0.2.7"], 10);
    let mut device = Client::over(open(with_certificate(&ca, &named)), "d").connected();
    assert_eq!(device.subscribe("devices/dev7.example/#"), 1);
    device.send(&publish("devices/dev7.example/up", b"1", 0, None));
    assert_eq!(device.next_topic(), "devices/dev7.example/up");
    // A certificate without the name is refused, even with a valid password.
    let nameless = ca.issue("dev7.example", &[], 11);
    for (config, login, code) in [
        (with_certificate(&ca, &nameless), true, 0x86),
        (stream::tls_config(&ca.der()), true, 0),
        (stream::tls_config(&ca.der()), false, 0x86),
    ] {
        let client = Client::over(open(config), "n");
        let mut client = if login { client.user("alice", "secret") } else { client };
        assert_eq!(client.connect(), code);
    }
}
