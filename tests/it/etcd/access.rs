//! Users, roles and TLS towards etcd, and etcd's own limits.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::broker::Broker;
use super::documents::{Documents, key};
use super::store::{Etcd, ctl};
use super::{is_there, push, until, weir, words};
use crate::support::ports;

/// Writes an authority, and a certificate that it signed, for a server and for clients.
fn certificates(directory: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    fs::write(directory.join("ca.pem"), authority.pem()).unwrap();
    fs::write(directory.join("cert.pem"), certificate.pem()).unwrap();
    fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
}

#[test]
fn tls_with_a_client_certificate() {
    if !is_there() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    certificates(files.path());
    let file = |name: &str| files.path().join(name).display().to_string();
    let (ca, cert, key_file) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let server = ["--cert-file", &cert, "--key-file", &key_file, "--trusted-ca-file", &ca, "--client-cert-auth"];
    let etcd = Etcd::start_with(&server);
    let url = etcd.url().replace("http://", "https://");
    let ours = ["--etcd-ca", &ca, "--etcd-cert", &cert, "--etcd-key", &key_file];
    let documents = Documents::new(&["a"]);
    push(documents.path(), &url, &ours);
    let broker = Broker::start(1, &url, &ours);
    documents.until_on(&broker);
    until("it is a member", || {
        let tls = ["--endpoints", &url, "--cacert", &ca, "--cert", &cert, "--key", &key_file];
        words(&ctl(&[&tls[..], &["get", "/weir/nodes/n1"]].concat(), None)).contains("n1")
    });
    let without = weir(&["push", &documents.path().display().to_string(), "--etcd", &url, "--etcd-ca", &ca]);
    assert_eq!(without.status.code(), Some(1), "{}", words(&without));
}

/// A token that expires is renewed; who may not read is told so, and has it once it is granted; who may not write is
/// is in no other broker's list, and follows all the same.
#[test]
fn users_have_the_rights_of_their_roles() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start_with(&["--auth-token-ttl", "2"]);
    let mut documents = Documents::new(&["a"]);
    push(documents.path(), &etcd.url(), &[]);
    for args in [
        &["user", "add", "root:rootpw"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "weir:secret"],
        &["role", "add", "reader"],
        &["user", "grant-role", "weir", "reader"],
        &["auth", "enable"],
    ] {
        etcd.ctl(args);
    }
    let root = |args: &[&str], input: Option<&str>| {
        let output = etcd.try_ctl(&[&["--user", "root:rootpw"], args].concat(), input);
        assert!(output.status.success(), "{}", words(&output));
    };
    let files = tempfile::tempdir().unwrap();
    let password = files.path().join("password");
    fs::write(&password, "wrong\n").unwrap();
    let reference = format!("file:{}", password.display());
    let broker = Broker::start(1, &etcd.url(), &["--etcd-user", "weir", "--etcd-password", &reference]);
    until("a wrong password is reported", || broker.source_error().as_deref() == Some("unauthenticated"));
    fs::write(&password, "secret\n").unwrap();
    until("a missing read permission is reported", || broker.source_error().as_deref() == Some("permissionDenied"));
    root(&["role", "grant-permission", "reader", "read", "--prefix=true", "/weir/"], None);
    documents.until_on(&broker);
    until("a missing write permission is reported", || {
        broker.get("/api/cluster/status")["trouble"].as_str().is_some_and(|why| why.contains("permission denied"))
    });
    assert_eq!(broker.source_error(), None, "the source is none of it");
    root(&["role", "grant-permission", "reader", "readwrite", "--prefix=true", "/weir/"], None);
    until("it is a member", || broker.get("/api/cluster/status")["trouble"].is_null());
    // Longer than a token lives.
    std::thread::sleep(std::time::Duration::from_secs(4));
    documents.set("a", ports::free(), "");
    root(&["put", &key("a")], Some(&documents.text("a")));
    documents.until_on(&broker);
    assert!(!broker.log().contains("secret"), "{}", broker.log());
}

/// A store that is full takes no writes; who only reads notices nothing.
#[test]
fn a_full_store_is_followed() {
    if !is_there() {
        return;
    }
    let etcd = Etcd::start_with(&["--quota-backend-bytes", "2000000"]);
    let documents = Documents::new(&["a"]);
    push(documents.path(), &etcd.url(), &[]);
    let filler = "x".repeat(500_000);
    until("it is full", || !etcd.try_ctl(&["put", "/filler"], Some(&filler)).status.success());
    let broker = Broker::start(1, &etcd.url(), &[]);
    documents.until_on(&broker);
    until("the full disk is reported", || {
        broker.get("/api/cluster/status")["trouble"].as_str().is_some_and(|why| why.contains("space exceeded"))
    });
    assert_eq!(broker.source_error(), None);
    let pushed = weir(&["push", &documents.path().display().to_string(), "--etcd", &etcd.url()]);
    assert!(pushed.status.code() == Some(1) && words(&pushed).contains("alarm disarm"), "{}", words(&pushed));
    let revision = etcd.revision().to_string();
    etcd.ctl(&["del", "/filler"]);
    etcd.ctl(&["compact", &revision]);
    etcd.ctl(&["defrag"]);
    etcd.ctl(&["alarm", "disarm"]);
    until("it is a member", || broker.get("/api/cluster/status")["trouble"].is_null());
}
