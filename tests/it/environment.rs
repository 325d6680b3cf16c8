//! `weir validate --environment` reports missing files and taken ports at their place in the documents.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::Value;

use crate::net::floods::rsa_identity;
use crate::support::ports;
use crate::support::weir;

/// A certificate for `localhost` that holds between two years, and its key.
fn certificate(directory: &Path, name: &str, from: i32, to: i32) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    fs::write(directory.join(format!("{name}.crt")), certificate.pem()).unwrap();
    fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// The diagnostics of one file.
fn diagnostics(directory: &Path, text: &str) -> Vec<Value> {
    fs::write(directory.join("a.yaml"), text).unwrap();
    let output = weir::command()
        .args(["validate", "--environment", "--status-addr", "none", "--format", "json", "a.yaml"])
        .env_remove("WEIR_SECRET_NOT_SET_IN_TESTS")
        .current_dir(directory)
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(i32::from(report["valid"] == false)));
    report["diagnostics"].as_array().unwrap().clone()
}

/// The findings about one file: `path: message` each.
fn findings(directory: &Path, text: &str) -> Vec<String> {
    let found = diagnostics(directory, text);
    found.iter().map(|d| format!("{}: {}", d["path"].as_str().unwrap(), d["message"].as_str().unwrap())).collect()
}

/// An endpoint with further fields, open to all, on a port that is free, and what follows it.
fn endpoint(fields: &str) -> String {
    let free = ports::free();
    format!("endpoint: {{host: 127.0.0.1, port: {free}, enableAuth: false, enableAcl: false{fields}}}\n")
}

#[test]
fn existing_files_and_free_ports_are_no_problem() {
    let place = tempfile::tempdir().unwrap();
    certificate(place.path(), "good", 2020, 2090);
    let tls = ", sslConfig: {certFile: good.crt, keyFile: good.key, caFile: good.crt, clientAuth: optional}";
    assert_eq!(findings(place.path(), &endpoint(tls)), [""; 0]);
}

#[test]
fn certificates_are_loaded() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path();
    certificate(at, "good", 2020, 2090);
    certificate(at, "other", 2020, 2090);
    certificate(at, "old", 2020, 2021);
    certificate(at, "early", 2089, 2090);
    fs::write(at.join("junk"), "junk").unwrap();
    let cases = [
        ("nowhere.crt", "good.key", "endpoint.sslConfig.certFile: nowhere.crt: no such file"),
        ("old.crt", "old.key", "endpoint.sslConfig.certFile: a certificate in it expired on 2021-01-01"),
        ("early.crt", "early.key", "endpoint.sslConfig.certFile: a certificate in it is not valid before 2089-01-01"),
        ("good.crt", "other.key", "endpoint.sslConfig: good.crt and other.key do not match"),
        ("junk", "good.key", "endpoint.sslConfig: junk: it contains no certificate"),
        ("good.crt", "junk", "endpoint.sslConfig: junk: it contains no private key in PEM"),
    ];
    for (cert, key, expected) in cases {
        let found = findings(at, &endpoint(&format!(", sslConfig: {{certFile: {cert}, keyFile: {key}}}")));
        assert!(found.len() == 1 && found.iter().all(|line| line.starts_with(expected)), "{expected}: {found:?}");
    }
    if let Some((certificate, key)) = rsa_identity(3072) {
        fs::write(at.join("rsa.crt"), certificate).unwrap();
        fs::write(at.join("rsa.key"), key).unwrap();
        let found = findings(at, &endpoint(", sslConfig: {certFile: rsa.crt, keyFile: rsa.key}"));
        let expected = "endpoint.sslConfig.certFile: its RSA key has 3072 bits";
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }
    let sni = ", sslConfig: {certFile: good.crt, keyFile: good.key, sni: [{serverNames: [a], certFile: x, keyFile: good.key}]}";
    assert_eq!(findings(at, &endpoint(sni)), ["endpoint.sslConfig.sni[0].certFile: x: no such file"]);
}

#[test]
fn help_about_a_file_says_to_create_it_only_where_it_is_missing() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("directory")).unwrap();
    fs::write(place.path().join("users"), "alice\n").unwrap();
    let outside = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let cases = [
        ("nowhere", "no such file", Some("create it, readable by the user that the broker runs as")),
        ("directory", "not a file", Some("name a file")),
        (outside, "start the broker with --allow-files DIR", None),
        ("users", "users:1: ", None),
    ];
    for (file, message, help) in cases {
        let auth = format!("auth: {{name: default, chain: [{{passwordFile: {{file: {file}}}}}]}}");
        let with_auth = endpoint("").replace("enableAuth: false, ", "");
        let found = diagnostics(place.path(), &format!("{with_auth}---\n{auth}"));
        assert_eq!((found.len(), found[0]["help"].as_str()), (1, help), "{file}: {found:?}");
        assert!(found[0]["message"].as_str().unwrap().contains(message), "{file}: {found:?}");
        // A certificate is read the same way.
        if file != "users" {
            let tls = format!(", sslConfig: {{certFile: {file}, keyFile: {file}}}");
            let found = diagnostics(place.path(), &endpoint(&tls));
            assert!(found.iter().all(|found| found["help"].as_str() == help), "{file}: {found:?}");
        }
    }
}

#[test]
fn addresses_are_tried() {
    let place = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let open = "enableAuth: false, enableAcl: false";
    let found = findings(place.path(), &format!("endpoint: {{port: {port}, {open}}}"));
    let expected = format!("endpoint.port: 0.0.0.0:{port} is in use by process {} (", std::process::id());
    assert!(found.len() == 1 && found.iter().all(|line| line.starts_with(&expected)), "{expected}: {found:?}");
    let elsewhere = findings(place.path(), &format!("endpoint: {{port: {port}, host: 192.0.2.1, {open}}}"));
    assert_eq!(elsewhere, ["endpoint.host: this machine has no address 192.0.2.1"]);
    // Disabled, or for other nodes: it needs nothing here.
    assert_eq!(findings(place.path(), &format!("endpoint: {{port: {port}, enabled: false, {open}}}")), [""; 0]);
    assert_eq!(findings(place.path(), &format!("endpoint: {{port: {port}, nodes: {{a: b}}, {open}}}")), [""; 0]);
    let unix = findings(place.path(), &format!("endpoint: {{host: 'unix:/nowhere/at/all', {open}}}"));
    assert_eq!(unix, ["endpoint.host: /nowhere/at is no directory"]);
}

#[test]
fn credentials_are_read() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("users"), "alice\n").unwrap();
    let port = ports::free();
    let with = |documents: &str| {
        let endpoint = format!("endpoint: {{host: 127.0.0.1, port: {port}, enableAcl: false}}\n");
        findings(place.path(), &format!("{endpoint}---\n{documents}"))
    };
    let missing = with("auth: {name: default, chain: [{passwordFile: {file: nowhere}}]}");
    assert_eq!(missing, ["auth.chain: nowhere: no such file"]);
    let damaged = with("auth: {name: default, chain: [{passwordFile: {file: users}}]}");
    assert!(damaged.len() == 1 && damaged.iter().all(|line| line.contains("users:1: ")), "{damaged:?}");
    let bridge = "bridge: {name: cloud, address: ['mqtts://a'], out: [{filter: a}], tls: {caFile: ca}, \
                  username: u, password: 'env:WEIR_SECRET_NOT_SET_IN_TESTS'}";
    let found = findings(place.path(), &format!("{}---\n{bridge}", endpoint(", enableBridge: true, bridges: [cloud]")));
    let variable = "bridge.password: the environment has no variable WEIR_SECRET_NOT_SET_IN_TESTS";
    assert_eq!(found, ["bridge.tls.caFile: ca: no such file", variable]);
}
