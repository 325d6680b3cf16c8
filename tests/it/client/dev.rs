//! `weir dev`

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;

use rustix::process::Signal;

use super::{Dev, ended, shown, weir};
use crate::programs::run;
use crate::support::child::ChildGuard;
use crate::support::client::Client;
use crate::support::until;
use crate::wire::Version;

#[test]
fn one_line_names_an_address_that_accepts_clients_and_a_signal_ends_it_with_0() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut dev = Dev::start();
        let address: SocketAddr = dev.url.strip_prefix("mqtt://").unwrap().parse().unwrap();
        assert!(address.ip().is_loopback());
        for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
            let mut client = Client::connect(address, version, "c");
            client.subscribe("any/#", 1);
        }
        dev.child.signal(signal);
        assert_eq!(ended(&mut dev.child).code(), Some(0));
        let mut rest = String::new();
        dev.lines.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "more than one line");
    }
}

#[test]
fn the_log_names_the_status_address_and_the_directory_stays_empty() {
    let place = tempfile::tempdir().unwrap();
    let log = place.path().join("log");
    let work = place.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let mut command = weir("dev --port 0");
    command.current_dir(&work).stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
    let mut child = ChildGuard::spawn(&mut command);
    let read = || std::fs::read_to_string(&log).unwrap();
    let status = || {
        let text = read();
        let rest = text.split("status=127.0.0.1:").nth(1)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u16>().ok()
    };
    until("the log names the status address", read, || status().is_some());
    TcpStream::connect(("127.0.0.1", status().unwrap())).unwrap();
    child.signal(Signal::TERM);
    assert_eq!(ended(&mut child).code(), Some(0), "{}", read());
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0);
}

#[test]
fn a_port_in_use_and_a_host_that_others_reach_are_refused_with_what_to_do() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    for (words, expected) in [
        (
            format!("dev --port {port}"),
            "is in use by another program; --port N takes another port, --port 0 a free one",
        ),
        ("dev --port 0 --host 0.0.0.0".to_owned(), "add --open-to-network"),
        ("dev --port 0 --host 192.0.2.1 --open-to-network".to_owned(), "192.0.2.1:0 cannot be bound"),
    ] {
        let output = run(&mut weir(&words));
        assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
        assert!(shown(&output).contains(expected), "{}", shown(&output));
        assert!(output.stdout.is_empty());
    }
}
