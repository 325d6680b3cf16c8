//! What `weir pub` and `weir sub` say where something is wrong.

use std::net::{TcpListener, TcpStream};

use super::{Dev, good, shown, weir};
use crate::auth::reload::people;
use crate::programs::run;
use crate::support::ports;
use crate::support::weir::Weir;

const ACL: &str = "acl: {name: default, noMatch: allow, rules: [{permission: deny, topics: [\"denied/#\"]}]}\n---\n\
                   auth: {name: default, chain: [{passwordFile: {file: users.passwd}}]}\n---\n";

#[test]
fn the_reason_of_a_refusal_is_named_and_the_exit_code_is_1() {
    let address = ports::free_address();
    let endpoint = format!("{ACL}endpoint: {{name: e, host: 127.0.0.1, port: {}, maximumQos: 1}}\n", address.port());
    let mut broker = Weir::new().with_file("e.yaml", &endpoint).with_file("users.passwd", &people());
    broker.run_until_accepting(&[address]);
    let alice = format!("--url mqtt://alice:secret@{address}");
    let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    for (words, expected) in [
        (
            format!("pub -h 127.0.0.1 -p {} -u alice -P wrong -t a -m b", address.port()),
            "bad user name or password (0x86)",
        ),
        (format!("pub --url mqtt://alice:wrong@{address} -V 3.1.1 -t a -m b"), "bad user name or password (4)"),
        (format!("pub {alice} -t denied/x -m b -q 1"), "message refused: not authorized (0x87)"),
        (format!("sub {alice} -t ok -t denied/# -C 1"), "subscription to denied/# refused: not authorized (0x87)"),
        (
            format!("sub {alice} -V 3.1.1 -t denied/# -C 1"),
            "subscription to denied/# refused: unspecified error (0x80)",
        ),
        (format!("pub {alice} -t a -m b -q 2"), "this broker accepts QoS 1 at most"),
        (format!("pub --url mqtt://{closed} -t a -m b"), "connect failed: Connection refused"),
        (format!("pub --url mqtts://{address} --insecure -t a -m b"), "TLS handshake failed"),
        (format!("sub --url ws://{address} -t a"), "WebSocket upgrade failed"),
        (format!("sub {alice} -t a -C 1 -W 0.2"), "0 of 1 messages within 0.2 s"),
        (format!("pub {alice} -t a/# -m b"), "is a topic name with a wildcard in it"),
        (format!("sub {alice} -t a#"), "has a # that is not the last level"),
        (format!("pub {alice} -V 3.1.1 -t a -m b --content-type x"), "properties of messages need MQTT 5.0: -V 5"),
        (format!("sub {alice} -t $share/a/b --no-local"), "--no-local is not allowed with $share/"),
        ("pub --url http://a -t a -m b".to_owned(), "http:// is not a scheme of MQTT"),
        (format!("pub {alice} -P file:/nowhere -t a -m b"), "--pw file:/nowhere: No such file"),
    ] {
        let output = run(&mut weir(&words));
        assert_eq!(output.status.code(), Some(1), "{words}: {}", shown(&output));
        assert!(shown(&output).contains(expected), "{words}: {}", shown(&output));
        assert!(!shown(&output).contains("secret"), "{words}: {}", shown(&output));
    }
    for words in ["pub -t a", "pub -t a -m b -f c", "sub", "sub -t a -F %z", "bench nothing"] {
        assert_eq!(run(&mut weir(words)).status.code(), Some(64), "{words}");
    }
}

#[test]
fn a_password_is_read_from_a_file_or_a_variable_and_the_url_from_the_environment() {
    let address = ports::free_address();
    let endpoint = format!("{ACL}endpoint: {{name: e, host: 127.0.0.1, port: {}}}\n", address.port());
    let mut broker = Weir::new().with_file("e.yaml", &endpoint).with_file("users.passwd", &people());
    broker.run_until_accepting(&[address]);
    let file = broker.directory().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    good(&format!("pub --url mqtt://{address} -u alice -P file:{} -t a -m b -q 1", file.display()));
    let mut command = weir(&format!("pub --url mqtt://{address} -u alice -P env:MINE -t a -m b -q 1"));
    assert!(run(command.env("MINE", "secret")).status.success());
    let mut command = weir("pub -t a -m b -q 1");
    let output = run(command.env("WEIR_URL", format!("mqtt://alice:secret@{address}")));
    assert!(output.status.success(), "{}", shown(&output));
    // A flag overrides the variable.
    let mut command = weir(&format!("pub --url mqtt://alice:secret@{address} -t a -m b -q 1"));
    assert!(run(command.env("WEIR_URL", "mqtt://127.0.0.1:1")).status.success());
}

#[test]
fn a_broker_that_does_not_answer_is_given_up() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = silent.local_addr().unwrap();
    let output = run(&mut weir(&format!("pub --url mqtt://{address} -t a -m b --connect-timeout 1")));
    assert!(shown(&output).contains("no connection within 1 s"), "{}", shown(&output));
    assert_eq!(output.status.code(), Some(1));
    drop(TcpStream::connect(address));
}

#[test]
fn a_reader_that_closes_the_pipe_ends_the_subscriber_without_a_word() {
    let dev = Dev::start();
    let url = &dev.url;
    for n in 0..3 {
        good(&format!("pub --url {url} -t p/{n} -m message -r -q 1"));
    }
    let program = crate::support::weir::PROGRAM;
    let script = format!("{program} sub --url {url} -t p/# -W 100 | head -n 1; echo ${{PIPESTATUS[0]}}");
    // The subscriber writes again, and the pipe is closed, once a further message comes.
    let publish =
        format!("(while sleep 0.2; do {program} pub --url {url} -t p/9 -m more; done) & P=$!; {script}; kill $P");
    let output = run(std::process::Command::new("bash").args(["-c", &publish]));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "message\n0\n", "{}", shown(&output));
    assert!(output.stderr.is_empty(), "{}", shown(&output));
}
