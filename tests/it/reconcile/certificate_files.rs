//! Certificates, keys and revocation lists take effect when their files change.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use rustix::process::Signal;

use super::broker::{Broker, at, endpoint};
use crate::net::tls::{Authority, Issued, with_certificate};
use crate::support::client::{Client, disconnect};
use crate::support::ports;
use crate::support::stream;
use crate::wire::Version;

fn put(directory: &Path, issued: &Issued) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("server.pem"), &issued.chain_pem).unwrap();
    fs::write(directory.join("server.key"), &issued.key_pem).unwrap();
}

/// The certificate that the port shows.
fn shown(port: u16, ca: &Authority) -> Vec<u8> {
    let config = Arc::new(stream::tls_config(&ca.der()));
    let mut stream = stream::tls(stream::tcp(at(port)), &config, "localhost");
    stream.conn.complete_io(&mut stream.sock).unwrap();
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn a_new_certificate_and_key_apply_together_and_open_connections_stay() {
    let ca = Authority::new();
    let (first, second) = (ca.issue("first", &["localhost"], 1), ca.issue("second", &["localhost"], 2));
    let port = ports::free();
    // As the kubelet lays out a secret: through a link that is swapped, outside of the declarations.
    let elsewhere = tempfile::tempdir().unwrap();
    put(&elsewhere.path().join("..1"), &first);
    put(&elsewhere.path().join("..2"), &second);
    symlink("..1", elsewhere.path().join("..data")).unwrap();
    let file = |name: &str| elsewhere.path().join("..data").join(name).display().to_string();
    let tls = format!(", sslConfig: {{certFile: '{}', keyFile: '{}'}}", file("server.pem"), file("server.key"));
    let elsewhere_shown = elsewhere.path().display().to_string();
    // Nothing but the signal has it look there.
    let broker = Broker::start_with(
        &[("e.yaml", &endpoint("e", port, &tls))],
        &["--resync-s", "3600", "--allow-files", &elsewhere_shown],
    );
    broker.until_listening("e");
    let config = Arc::new(stream::tls_config(&ca.der()));
    let mut open = Client::enter(stream::tls(stream::tcp(at(port)), &config, "localhost"), Version::V5, "open");
    assert_eq!(shown(port, &ca), first.der.to_vec());
    // Half of a pair, for a moment.
    fs::write(elsewhere.path().join("..1/server.key"), &second.key_pem).unwrap();
    broker.signal(Signal::HUP);
    let told = broker.until_condition("e", "ResolvedRefs", false, "BadFile");
    assert!(told.message.contains("do not match"), "{told:?}");
    assert_eq!(shown(port, &ca), first.der.to_vec(), "what was good is still shown");
    symlink("..2", elsewhere.path().join("..next")).unwrap();
    fs::rename(elsewhere.path().join("..next"), elsewhere.path().join("..data")).unwrap();
    broker.signal(Signal::HUP);
    broker.until("the new one is shown", || shown(port, &ca) == second.der.to_vec());
    broker.until_condition("e", "ResolvedRefs", true, "AsDeclared");
    open.ping();
}

#[test]
fn only_revoked_clients_are_disconnected() {
    let ca = Authority::new();
    let server = ca.issue("server", &["localhost"], 1);
    let (good, bad) = (ca.issue("good", &[], 2), ca.issue("bad", &[], 3));
    let port = ports::free();
    let tls = ", drain: {windowS: 0}, sslConfig: {certFile: server.pem, keyFile: server.key, caFile: ca.pem, \
               crlFile: crl.pem, clientAuth: required}";
    let broker = Broker::start(&[
        ("ca.pem", &ca.pem()),
        ("crl.pem", &ca.revoke(&[], 2100)),
        ("server.pem", &server.chain_pem),
        ("server.key", &server.key_pem),
        ("e.yaml", &endpoint("e", port, tls)),
    ]);
    broker.until_listening("e");
    let enter = |issued: &Issued, id: &str| {
        let config = Arc::new(with_certificate(&ca, issued));
        Client::enter(stream::tls(stream::tcp(at(port)), &config, "localhost"), Version::V5, id)
    };
    let (mut stays, mut goes) = (enter(&good, "good"), enter(&bad, "bad"));
    broker.write("crl.pem", &ca.revoke(&[3], 2100));
    assert_eq!(goes.receive(), disconnect(0x98));
    stays.ping();
    enter(&good, "again").ping();
}
