//! What an engine says when it cannot be used.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use weirmq::cluster::engine::{Credentials, Discovery, EngineError, EngineOptions, TlsFiles};

use super::nats::{self, Nats};
use super::node::{Node, options, runtime};
use crate::support::{ports, until};

/// Connecting fails with this error.
fn refusal(options: EngineOptions) -> EngineError {
    let runtime = runtime();
    match Node::try_connect(&runtime, options) {
        Ok(_) => panic!("the engine connects"),
        Err(error) => error,
    }
}

fn connects(options: EngineOptions) {
    let runtime = runtime();
    Node::connect(&runtime, options).shut_down(&runtime);
}

fn at(urls: &[String]) -> EngineOptions {
    EngineOptions { replicas: 1, ..EngineOptions::new("test", "a", 1, Discovery::Servers(urls.to_vec())) }
}

#[test]
fn servers_that_cannot_be_reached_are_all_named_with_their_reasons() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let urls = [format!("nats://{}", ports::free_address()), format!("nats://{silent}")];
    let words = refusal(at(&urls)).to_string();
    for url in urls {
        assert!(words.contains(&url), "{words}");
    }
    assert!(words.contains("Connection refused") && words.contains("start nats-server there"), "{words}");
}

#[test]
fn a_server_that_accepts_and_does_not_answer_is_named() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let words = refusal(at(&[format!("nats://{}", silent.local_addr().unwrap())])).to_string();
    assert!(words.contains("no answer in 2 s"), "{words}");
}

#[test]
fn names_and_replicas_are_checked_first() {
    let good = at(&["nats://127.0.0.1:1".to_owned()]);
    let words = |options| refusal(options).to_string();
    assert!(
        words(EngineOptions { cluster: "a.b".to_owned(), ..good.clone() }).contains("cluster name `a.b` is not valid")
    );
    assert!(words(EngineOptions { node: "a b".to_owned(), ..good.clone() }).contains("node name `a b` is not valid"));
    assert!(words(EngineOptions { replicas: 2, ..good.clone() }).contains("use 1, 3 or 5"));
    assert!(words(at(&[])).contains("name at least one"));
    assert!(words(at(&["http://a".to_owned()])).contains("`http://a` is not a server of the engine"));
}

#[test]
fn wrong_credentials_are_an_authorization_violation() {
    if !nats::is_there() {
        return;
    }
    let server = Nats::start_with(
        "jetstream { store_dir: STORE }\nauthorization { users: [ { user: me, password: right }, \
         { nkey: UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4 } ] }\n",
    );
    let url = server.url();
    let with = |credentials| EngineOptions { credentials, ..at(std::slice::from_ref(&url)) };
    let user = |password: &str| Credentials::User { user: "me".to_owned(), password: password.to_owned() };
    for wrong in [user("wrong"), Credentials::None, Credentials::Token("right".to_owned())] {
        let words = refusal(with(wrong)).to_string();
        assert!(words.contains("authorization violation") && words.contains(&url), "{words}");
        assert!(!words.contains("wrong"), "{words}");
    }
    connects(with(user("right")));
    connects(at(&[url.replace("nats://", "nats://me:right@")]));
    // The pair of NATS's documentation.
    let directory = tempfile::tempdir().unwrap();
    let seed = directory.path().join("seed");
    fs::write(&seed, "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY\n").unwrap();
    connects(with(Credentials::NkeySeedFile(seed.clone())));
    fs::write(&seed, "nothing\n").unwrap();
    assert!(refusal(with(Credentials::NkeySeedFile(seed))).to_string().contains("nsc generate nkey"));
    let missing = directory.path().join("missing.creds");
    let words = refusal(with(Credentials::CredsFile(missing))).to_string();
    assert!(words.contains("missing.creds") && words.contains("No such file"), "{words}");
}

#[test]
fn a_token_opens_a_server_that_wants_one() {
    if !nats::is_there() {
        return;
    }
    let server = Nats::start_with("jetstream { store_dir: STORE }\nauthorization { token: right }\n");
    let with = |token: &str| EngineOptions { credentials: Credentials::Token(token.to_owned()), ..at(&[server.url()]) };
    assert!(matches!(refusal(with("wrong")), EngineError::Authorization { .. }));
    connects(with("right"));
}

#[test]
fn a_user_that_may_not_subscribe_to_links_is_refused_with_the_subject() {
    if !nats::is_there() {
        return;
    }
    let server = Nats::start_with(
        "jetstream { store_dir: STORE }\nauthorization { users: [ { user: me, password: right, \
         permissions: { publish: \">\", subscribe: { deny: \"weir.test.link.>\" } } } ] }\n",
    );
    let url = server.url().replace("nats://", "nats://me:right@");
    let options = EngineOptions { ready_within: Duration::ZERO, ..at(&[url]) };
    let words = refusal(options).to_string();
    assert!(words.contains("does not deliver messages to weir.test.link.") && words.contains("may publish"), "{words}");
}

/// Answers like a server of this version, once per connection.
fn pretend(version: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let info =
                format!("INFO {{\"server_name\":\"old\",\"version\":\"{version}\",\"max_payload\":1048576}}\r\n");
            stream.write_all(info.as_bytes()).unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while let Some(Ok(line)) = lines.next() {
                if line.starts_with("PING") && stream.write_all(b"PONG\r\n").is_err() {
                    break;
                }
            }
        }
    });
    address
}

#[test]
fn a_server_older_than_2_14_is_refused() {
    let words = refusal(at(&[format!("nats://{}", pretend("2.9.25"))])).to_string();
    assert!(words.contains("nats-server 2.9.25, which is older than 2.14: upgrade"), "{words}");
}

#[test]
fn a_server_without_jetstream_is_refused() {
    if !nats::is_there() {
        return;
    }
    let server = Nats::start_with("");
    let words = refusal(at(&[server.url()])).to_string();
    assert!(words.contains("JetStream is not enabled on n0") && words.contains("store_dir"), "{words}");
}

#[test]
fn fewer_servers_than_replicas_are_refused() {
    if !nats::is_there() {
        return;
    }
    let servers = [Nats::start()];
    let words = refusal(options("a", 1, &servers, 3)).to_string();
    assert!(words.contains("3 replicas need at least 3 servers") && words.contains("add servers"), "{words}");
}

#[test]
fn more_replicas_than_a_cluster_has_servers_are_refused() {
    if !nats::is_there() {
        return;
    }
    let servers = Nats::three();
    let options = EngineOptions { ready_within: Duration::from_secs(8), ..options("a", 1, &servers, 5) };
    // On a busy machine the servers may take longer to find each other: until then they give other reasons.
    until("the reason is the number of servers", String::new, || {
        let words = refusal(options.clone()).to_string();
        eprintln!("{words}");
        words.contains("5 replicas need at least 5 servers")
    });
}

#[test]
fn a_stream_with_another_configuration_is_refused() {
    if !nats::is_there() {
        return;
    }
    let servers = [Nats::start()];
    let limited = EngineOptions { retained_bytes_max: Some(1 << 20), ..options("a", 1, &servers, 1) };
    connects(limited.clone());
    connects(limited);
    let words = refusal(options("a", 2, &servers, 1)).to_string();
    assert!(words.contains("stream weir_test_retained has another configuration"), "{words}");
    assert!(words.contains("max_bytes is 1048576, not unlimited"), "{words}");
}

#[test]
fn tls_with_the_ca_connects_and_without_says_what_to_give() {
    if !nats::is_there() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    fs::write(path("ca.pem"), ca_certificate.pem()).unwrap();
    fs::write(path("cert.pem"), certificate.pem()).unwrap();
    fs::write(path("key.pem"), key.serialize_pem()).unwrap();
    let text = |name: &str| format!("\"{}\"", path(name).display());
    let server = Nats::start_with(&format!(
        "jetstream {{ store_dir: STORE }}\ntls {{ cert_file: {}, key_file: {}, ca_file: {}, verify: true }}\n",
        text("cert.pem"),
        text("key.pem"),
        text("ca.pem")
    ));
    let url = server.url().replace("nats://", "tls://");
    let with = |ca: bool, own: bool| EngineOptions {
        tls: TlsFiles {
            ca_file: ca.then(|| path("ca.pem")),
            identity: own.then(|| (path("cert.pem"), path("key.pem"))),
        },
        ..at(std::slice::from_ref(&url))
    };
    let words = refusal(with(false, false)).to_string();
    assert!(words.contains("give the CA certificate"), "{words}");
    let words = refusal(with(true, false)).to_string();
    assert!(words.contains("give a certificate and its key"), "{words}");
    connects(with(true, true));
    let gone = TlsFiles { ca_file: Some(path("gone.pem")), identity: None };
    let words = refusal(EngineOptions { tls: gone, ..with(true, true) }).to_string();
    assert!(words.contains("gone.pem"), "{words}");
}
