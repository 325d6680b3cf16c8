//! Sessions, wills, and connections that are lost.

use std::process::Stdio;

use rustix::process::Signal;

use super::{Dev, Sub, ended, good, weir};
use crate::support::child::ChildGuard;
use crate::support::ports;
use crate::support::until;
use crate::support::weir::Weir;

#[test]
fn a_session_keeps_messages_while_its_subscriber_is_offline() {
    let dev = Dev::start();
    let url = &dev.url;
    for (version, qos) in [("3.1.1", 1), ("5", 2)] {
        let sub = format!("sub --url {url} -V {version} -c -i keeper{qos} -q {qos} -t kept/{qos}");
        assert_eq!(good(&format!("{sub} -E")), "");
        for n in 0..3 {
            good(&format!("pub --url {url} -V {version} -q {qos} -t kept/{qos} -m {n}"));
        }
        assert_eq!(good(&format!("{sub} -C 3 -W 100")), "0\n1\n2\n");
        assert_eq!(good(&format!("{sub} -W 0.3")), "", "acknowledged messages come again");
    }
}

#[test]
fn the_will_is_published_where_a_subscriber_is_killed_and_not_after_a_signal() {
    let dev = Dev::start();
    let url = &dev.url;
    let mut watcher = Sub::start(url, "-t will/# -q 1 -F %t=%p");
    let with_will = |name: &str| Sub::start(url, &format!("--will-topic will/{name} --will-payload gone --will-qos 1"));
    let (interrupted, killed) = (with_will("interrupted"), with_will("killed"));
    assert_eq!(interrupted.end(Signal::INT).code(), Some(0));
    assert_eq!(killed.end(Signal::KILL).code(), None);
    assert_eq!(watcher.line(), "will/killed=gone");
}

#[test]
fn a_lost_connection_ends_the_subscriber_with_1_or_is_opened_again() {
    let address = ports::free_address();
    let port = address.port();
    let document = format!("endpoint: {{host: 127.0.0.1, port: {port}, enableAuth: false, enableAcl: false}}\n");
    let mut broker = Weir::new().with_file("e.yaml", &document);
    broker.run_until_accepting(&[address]);
    let url = format!("mqtt://{address}");
    let errors = broker.directory().join("errors");
    let mut command = weir(&format!("sub --url {url} -t x"));
    let file = std::fs::File::create(&errors).unwrap();
    let mut single = ChildGuard::spawn(command.stdout(Stdio::null()).stderr(file));
    let mut again = Sub::start(&url, "-t again/# --reconnect -F %t=%p");
    broker.kill();
    // It may not have been connected yet: then it was refused.
    assert_eq!(ended(&mut single).code(), Some(1));
    let text = std::fs::read_to_string(&errors).unwrap();
    assert!(text.contains("connection lost") || text.contains("connect failed"), "{text}");
    broker.run_until_accepting(&[address]);
    until("the subscriber is back", String::new, || {
        // The broker has kept nothing: a message is for those that are subscribed.
        good(&format!("pub --url {url} -t again/1 -m back -r -q 1"));
        true
    });
    assert_eq!(again.line(), "again/1=back");
}
