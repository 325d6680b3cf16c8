//! Holes that other brokers had, each tried here.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::broker::Broker;
use super::live::people;
use crate::support::ports;

const NOT_AUTHORIZED: u8 = 0x87;
const BAD_CREDENTIALS: u8 = 0x86;
const ANYBODY: &str = "auth: {name: default, chain: [{anonymous: {withUsername: true}}]}\n";
const PEOPLE: &str = "auth: {name: default, chain: [{passwordFile: {file: people}}]}\n";

/// CVE-2017-7650: a client or user called `#` or `+` was given what patterns give to all.
#[test]
fn a_client_id_with_wildcards_gets_no_permission() {
    let documents = format!(
        "{ANYBODY}---\nacl: {{name: default, rules: [{{permission: allow, topics: ['own/${{clientid}}/#']}}]}}\n"
    );
    let broker = Broker::start("", &documents, &[]);
    let mut good = broker.client("c7").connected();
    assert_eq!([good.subscribe("own/c7/#"), good.subscribe("own/c8/x"), good.subscribe("own/+/x")], [1, 0x87, 0x87]);
    for id in ["#", "+", "+/#", "c7/x", "c7/#", "$SYS"] {
        let mut client = broker.client(id).connected();
        for filter in ["own/#", "own/+/#", "own/c7/x", &format!("own/{id}/x").replace(['#', '+'], "c7")] {
            assert_eq!(client.subscribe(filter), NOT_AUTHORIZED, "{id} {filter}");
        }
        assert_eq!(client.publish("own/c7/x", "1", false), NOT_AUTHORIZED, "{id}");
    }
}

/// CVE-2018-12550: an access list without a rule counted as none, and none as "everything".
#[test]
fn an_access_list_without_rules_permits_nothing() {
    let documents = [
        format!("{ANYBODY}---\nacl: {{name: default, rules: []}}\n"),
        ANYBODY.to_owned(),
        format!("{ANYBODY}---\n# acl:\n"),
    ];
    for documents in documents {
        let broker = Broker::start("", &documents, &[]);
        let mut client = broker.client("c").connected();
        assert_eq!([client.subscribe("a"), client.publish("a", "1", false)], [NOT_AUTHORIZED; 2], "{documents}");
        assert_eq!(broker.client("w").will("a").connect(), NOT_AUTHORIZED, "{documents}");
    }
}

/// CVE-2018-12550 and CVE-2017-7652: neither does a list that breaks, or cannot be read when it is read again.
#[test]
fn an_invalid_access_list_leaves_the_old_one_in_use() {
    let good = format!("{PEOPLE}---\nacl: {{name: default, rules: [{{permission: allow, topics: ['a']}}]}}\n");
    let broker = Broker::start("", &good, &[("people", &people())]);
    let mut client = broker.client("c").user("alice", "secret").connected();
    // With the people still there: a document that is gone, and not broken, would be believed after a second look.
    let perhaps = format!("{PEOPLE}---\nacl: {{name: default, rules: [{{permission: perhaps}}]}}\n");
    for broken in [&good[..good.len() - 20], &perhaps, "acl: {", "\0"] {
        broker.write_until("documents.yaml", broken, "ERROR");
        assert_eq!([client.may_publish("a"), client.may_publish("b")], [true, false]);
        let mut other = broker.client("d").user("alice", "secret").connected();
        assert_eq!([other.subscribe("a"), other.subscribe("b")], [1, NOT_AUTHORIZED], "{broken}");
        assert_eq!(broker.client("e").user("alice", "x").connect(), BAD_CREDENTIALS);
    }
}

/// CVE-2017-7652: a broker that was told to read its files again, and had no file descriptor left to do it, went on without
/// them. The rules that are new allow more than the old ones do, so that what is asked here is the same before and after.
#[test]
fn a_reload_without_file_descriptors_opens_nothing() {
    let rules = |topics: &str| {
        let auth = "auth: {name: default, chain: [{passwordFile: {file: people}}], rateLimit: {maxFailures: 1000000, windowS: 60}}";
        format!("{auth}\n---\nacl: {{name: default, rules: [{{permission: allow, topics: [{topics}]}}]}}\n")
    };
    let broker = Broker::start(", connectTimeoutMs: 120000", &rules("a"), &[("people", &people())]);
    let mut alice = broker.client("alice").user("alice", "secret").connected();
    // In the broker's hands before it has run out, and silent until then.
    let strangers = [("", ""), ("alice", ""), ("alice", "wrong"), ("carol", "wrong"), ("nobody", "secret")];
    let strangers: Vec<_> = strangers.iter().map(|(user, password)| broker.client("x").user(user, password)).collect();
    let mut bob = broker.client("bob").user("bob", "secret");
    broker.leave_descriptors(100);
    let connections: Vec<_> = (0..200).map(|_| TcpStream::connect(broker.address).unwrap()).collect();
    broker.until("no descriptor is left", || broker.log().contains("accept failed"));

    let carol = people().replace("bob", "carol");
    broker.write("people", &format!("{}{}", people(), carol.lines().nth(1).unwrap_or_default()));
    broker.write("documents.yaml", &rules("a, c"));
    let out_of_files = |line: &str| line.contains("Too many open files") && !line.contains("accept failed");
    broker.until("the reload has failed", || broker.log().lines().any(out_of_files));
    assert_eq!([alice.may_publish("a"), alice.may_publish("b")], [true, false]);
    for mut stranger in strangers {
        assert_eq!(stranger.connect(), BAD_CREDENTIALS);
    }
    assert_eq!(bob.connect(), 0);
    assert_eq!([bob.may_publish("a"), bob.may_publish("b")], [true, false]);

    drop(connections);
    broker.until("the new rules hold", || alice.may_publish("c"));
    assert_eq!([alice.may_publish("a"), alice.may_publish("b"), bob.may_publish("b")], [true, false, false]);
    broker.until("the new user gets in", || broker.client("carol").user("carol", "secret").connect() == 0);
    assert_eq!(broker.client("y").user("carol", "wrong").connect(), BAD_CREDENTIALS);
}

/// CVE-2018-12551: a malformed line of the password file let in whoever gave its text as a name.
#[test]
fn an_invalid_password_file_admits_nobody() {
    for content in ["", "alice\n", "alice:\n", "alice:$6$\n", ":\n", "\n\n", "alice:$6$c2FsdA==$\n"] {
        assert!(weirmq::auth::PasswordFile::parse(content.as_bytes()).is_err(), "{content:?}");
    }
}

/// CVE-2026-25627 (over TCP and over WebSocket), CVE-2024-48077 and their class: a packet that promises more than it
/// brings, or is never finished, costs its own connection at most.
#[test]
fn a_false_packet_length_affects_its_own_connection_only() {
    let broker = Broker::start(", enableAcl: false, messageMaxSize: 65536", ANYBODY, &[]);
    for lie in [&[0x30, 0xFF, 0xFF, 0xFF, 0x7F][..], &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], &[0x30, 0x80, 0x80, 0x01]] {
        let mut before = TcpStream::connect(broker.address).unwrap();
        before.write_all(lie).unwrap();
        let mut after = broker.client("liar").connected();
        after.send_bytes(lie);
        after.send_bytes(&[0; 1000]);
        let mut good = broker.client("good").connected();
        assert_eq!(good.subscribe("a"), 1, "{lie:?}");
    }
    let websocket = Broker::start(", enableAcl: false, useWebsocket: true, path: /mqtt", ANYBODY, &[]);
    for _ in 0..3 {
        let mut stream = upgraded(&websocket);
        // A masked binary frame of five bytes: a PUBLISH of 256 MiB.
        stream.write_all(&[0x82, 0x85, 0, 0, 0, 0, 0x30, 0xFF, 0xFF, 0xFF, 0x7F]).unwrap();
    }
    // It still answers.
    upgraded(&websocket);
}

fn upgraded(broker: &Broker) -> TcpStream {
    let mut stream = TcpStream::connect(broker.address).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let request = "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    stream
}

/// CVE-2018-12546: what a client had retained was given to new subscribers after it lost its right to the topic.
#[test]
fn a_retained_message_is_removed_with_its_publishers_permission() {
    let documents = |bobs: &str| {
        format!(
            "{PEOPLE}---\nacl: {{name: default, rules: [{{permission: allow, username: alice, topics: ['#']}}, \
             {{permission: allow, action: publish, username: bob, topics: [{bobs}]}}]}}\n"
        )
    };
    // Enough topics that each shard owns some.
    let topics: Vec<String> = (0..8).map(|n| format!("a/{n}")).collect();
    let broker = Broker::start("", &documents("'a/#'"), &[("people", &people())]);
    let read = |id: &str| {
        let mut reader = broker.client(id).user("alice", "secret").connected();
        assert_eq!(reader.subscribe("a/#"), 1);
        let mut read = reader.received();
        read.sort_unstable();
        read
    };
    let mut away = broker.client("away").user("alice", "secret").durable().connected();
    assert_eq!(away.subscribe("a/#"), 1);
    drop(away);
    let mut bob = broker.client("b").user("bob", "secret").connected();
    let dying = broker.client("dying").user("bob", "secret").retained_will("a/will").connected();
    for topic in &topics {
        assert_eq!(bob.publish(topic, "bob's", true), 0);
    }
    drop(dying);
    broker.until("the will is kept", || read("r").len() == 9);

    broker.write_until("documents.yaml", &documents("'a/0', 'b'"), "changed endpoint=main");
    assert_eq!(read("r"), ["a/0"]);
    assert_eq!(bob.publish("a/1", "bob's", true), NOT_AUTHORIZED);
    // What was retained waits for a client that is away, too.
    let mut away = broker.client("away").user("alice", "secret").durable().connected();
    assert_eq!(away.received(), ["a/0"]);
    // Another's message in the same place is another's.
    assert_eq!(away.publish("a/1", "alice's", true), 0);
    assert_eq!(read("r"), ["a/0", "a/1"]);

    broker.write_until("documents.yaml", &documents("'a/#'"), "changed endpoint=main");
    assert_eq!(read("r").len(), 9);
}

/// The same, where the endpoint that the publisher came in by is no longer there: as good as any other's are its rules.
#[test]
fn a_retained_message_of_a_removed_endpoint_needs_the_permission_on_another() {
    let acls = "---\nacl: {name: open, rules: [{permission: allow, topics: ['#']}]}\n\
                ---\nacl: {name: narrow, rules: [{permission: allow, action: subscribe, topics: ['#']}, \
                {permission: allow, action: publish, topics: ['a/0', 'a/1']}]}\n";
    let (main, other) = (ports::free_address(), ports::free_address());
    let endpoint = |name: &str, address: std::net::SocketAddr, acl: &str| {
        format!("---\nendpoint: {{name: {name}, host: 127.0.0.1, port: {}, acl: {acl}}}\n", address.port())
    };
    let both = format!("{ANYBODY}{acls}{}{}", endpoint("main", main, "narrow"), endpoint("other", other, "open"));
    let broker = Broker::serve(main, &both, &[]);
    broker.until("both listen", || TcpStream::connect(other).is_ok());
    let mut publisher = super::client::Client::new(other, "p").connected();
    for n in 0..6 {
        assert!(publisher.publish(&format!("a/{n}"), "x", true) < 0x80);
    }
    let read = || {
        let mut reader = broker.client("r").connected();
        assert_eq!(reader.subscribe("a/#"), 1);
        let mut read = reader.received();
        read.sort_unstable();
        read
    };
    assert_eq!(read().len(), 6);
    let one = format!("{ANYBODY}{acls}{}", endpoint("main", main, "narrow"));
    broker.write("documents.yaml", &one);
    broker.until("it is gone", || TcpStream::connect(other).is_err());
    drop(publisher);
    broker.until("its rules are gone", || read() == ["a/0", "a/1"]);
}

/// CVE-2025-59946: subscriptions that change while messages go to them, from several shards, and takeovers amid it.
#[test]
fn subscriptions_change_under_traffic() {
    let broker = Broker::start(", enableAcl: false", ANYBODY, &[]);
    let churn = |number: usize| {
        for round in 0..20 {
            // Two of them share each client id, and take it from one another.
            let mut client = broker.client(&format!("churn{}", number / 2));
            if client.connect() == 0 {
                for filter in ["t/#", "t/+", "$share/g/t/1"] {
                    let filters = vec![(filter.to_owned(), 1)];
                    client.send(&crate::wire::Packet::Subscribe { id: 1, properties: vec![], filters });
                    let filters = vec![filter.to_owned()];
                    client.send(&crate::wire::Packet::Unsubscribe { id: 2, properties: vec![], filters });
                }
                if round % 2 == 0 {
                    client.receive();
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || churn(number));
        }
        let mut sender = broker.client("sender").connected();
        for _ in 0..300 {
            let code = sender.publish("t/1", "x", false);
            assert!(matches!(code, 0 | 0x10), "{code:#x}");
        }
    });
    let mut last = broker.client("last").connected();
    assert_eq!(last.subscribe("t/1"), 1);
}
