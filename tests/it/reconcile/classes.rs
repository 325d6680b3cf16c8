//! How a change of each class affects clients: the table of `docs/declare.md`, row by row.

use std::fs;
use std::path::Path;

use super::broker::{Broker, at, client, endpoint};
use crate::support::client::{Client, connect};
use crate::support::ports;
use crate::support::weir;
use crate::wire::{Packet, Properties, Version};

/// What became of two clients, the later one last.
#[derive(Debug, PartialEq)]
enum Seen {
    Nothing,
    TheNewestLeft,
    BothLeft,
}

struct Change {
    /// The beginning of the row in the table of `docs/declare.md`.
    row: &'static str,
    class: &'static str,
    before: &'static str,
    after: &'static str,
    seen: Seen,
}

const CHANGES: [Change; 5] = [
    Change {
        row: "| `cosmetic` | `description: night shift` |",
        class: "cosmetic",
        before: "",
        after: ", description: night shift",
        seen: Seen::Nothing,
    },
    Change {
        row: "| `live` | `maxConnectionSize: 2` to `3` |",
        class: "live",
        before: ", maxConnectionSize: 2",
        after: ", maxConnectionSize: 3",
        seen: Seen::Nothing,
    },
    Change {
        row: "| `new-connections` | `connectTimeoutMs: 60000` to `300` |",
        class: "new-connections",
        before: ", connectTimeoutMs: 60000",
        after: ", connectTimeoutMs: 300",
        seen: Seen::Nothing,
    },
    Change {
        row: "| `drain` | `maxConnectionSize: 2` to `1` |",
        class: "drain",
        before: ", maxConnectionSize: 2",
        after: ", maxConnectionSize: 1",
        seen: Seen::TheNewestLeft,
    },
    Change { row: "| `rebind` | another `port` |", class: "rebind", before: "", after: "", seen: Seen::BothLeft },
];

/// CONNACK's code for one who comes now; `None`: closed without one.
fn comes(port: u16) -> Option<u8> {
    let mut newcomer = Client::open(at(port), Version::V5);
    newcomer.send(&connect(Version::V5, "newcomer", Properties::new()));
    match newcomer.receive() {
        Some(Packet::ConnAck { code, .. }) => Some(code),
        _ => None,
    }
}

fn is_sent_away(client: &mut Client) {
    assert!(matches!(client.receive(), Some(Packet::Disconnect { code: 0x98, .. })));
    assert_eq!(client.receive(), None);
}

/// What newcomers find, before the change and after it.
fn check_newcomers(class: &str, port: u16, is_after: bool) {
    match class {
        "live" => assert_eq!(comes(port), Some(if is_after { 0 } else { 0x97 }), "the limit"),
        "new-connections" if is_after => {
            let mut dawdler = Client::open(at(port), Version::V5);
            assert_eq!(dawdler.receive(), None, "who says nothing is closed");
        }
        _ => {}
    }
}

#[test]
fn a_change_of_each_class_affects_clients_as_documented() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/declare.md")).unwrap();
    for Change { row, class, before, after, seen } in CHANGES {
        assert!(page.contains(row), "docs/declare.md has no row {row}");
        let (port, bystander) = (ports::free(), ports::free());
        let to = if class == "rebind" { ports::free() } else { port };
        let text = |port, fields: &str| endpoint("e", port, &format!(", drain: {{windowS: 1}}{fields}"));
        let broker = Broker::start(&[
            ("e.yaml", &text(port, before)),
            ("bystander.yaml", &endpoint("bystander", bystander, "")),
        ]);
        broker.until_listening("e");
        broker.until_listening("bystander");
        let (mut first, mut second) = (client(port, "first"), client(port, "second"));
        let mut other = client(bystander, "other");
        check_newcomers(class, port, false);
        broker.until("the two are counted", || broker.connected("e") == 2);

        let proposed = tempfile::tempdir().unwrap();
        fs::write(proposed.path().join("e.yaml"), text(to, after)).unwrap();
        fs::write(proposed.path().join("bystander.yaml"), endpoint("bystander", bystander, "")).unwrap();
        let against = format!("http://{}", broker.status());
        let plan = weir::command().args(["plan", "--against", &against]).arg(proposed.path()).output().unwrap();
        let plan = String::from_utf8(plan.stdout).unwrap();
        assert!(plan.contains(&format!("[{class}]")), "{plan}");
        let announced = match seen {
            Seen::Nothing => None,
            Seen::TheNewestLeft => Some("1 client will be disconnected"),
            Seen::BothLeft => Some("2 clients will be disconnected"),
        };
        assert_eq!(plan.contains("will be disconnected"), announced.is_some(), "{plan}");
        assert!(announced.is_none_or(|words| plan.contains(words)), "{plan}");

        broker.apply("e.yaml", &text(to, after));
        match seen {
            Seen::Nothing => [&mut first, &mut second].into_iter().for_each(Client::ping),
            Seen::TheNewestLeft => {
                is_sent_away(&mut second);
                first.ping();
            }
            Seen::BothLeft => {
                is_sent_away(&mut first);
                is_sent_away(&mut second);
                assert!(std::net::TcpStream::connect(at(port)).is_err());
                assert_eq!(comes(to), Some(0));
            }
        }
        check_newcomers(class, port, true);
        other.ping();
    }
}
