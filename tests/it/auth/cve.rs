//! Known vulnerabilities of other brokers in authentication and access lists.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::broker::Broker;
use super::reload::people;
use crate::support::ports;

const NOT_AUTHORIZED: u8 = 0x87;
const BAD_CREDENTIALS: u8 = 0x86;
const ANONYMOUS: &str = "auth: {name: default, chain: [{anonymous: {withUsername: true}}]}\n";
const PASSWORD_FILE: &str = "auth: {name: default, chain: [{passwordFile: {file: people}}]}\n";

/// CVE-2017-7650: patterns with placeholders gave a client or user called `#` or `+` the rights of all clients.
#[test]
fn a_client_id_with_wildcards_gets_no_permission() {
    let documents = format!(
        "{ANONYMOUS}---\nacl: {{name: default, rules: [{{permission: allow, topics: ['own/${{clientid}}/#']}}]}}\n"
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

/// CVE-2018-12550: an access list without rules was taken for a missing one, which permitted everything.
#[test]
fn an_access_list_without_rules_permits_nothing() {
    let documents = [
        format!("{ANONYMOUS}---\nacl: {{name: default, rules: []}}\n"),
        ANONYMOUS.to_owned(),
        format!("{ANONYMOUS}---\n# acl:\n"),
    ];
    for documents in documents {
        let broker = Broker::start("", &documents, &[]);
        let mut client = broker.client("c").connected();
        assert_eq!([client.subscribe("a"), client.publish("a", "1", false)], [NOT_AUTHORIZED; 2], "{documents}");
        assert_eq!(broker.client("w").will("a").connect(), NOT_AUTHORIZED, "{documents}");
    }
}

/// CVE-2018-12550 and CVE-2017-7652: a list that becomes invalid or unreadable permits nothing more.
#[test]
fn an_invalid_access_list_leaves_the_old_one_in_use() {
    let good = format!("{PASSWORD_FILE}---\nacl: {{name: default, rules: [{{permission: allow, topics: ['a']}}]}}\n");
    let broker = Broker::start("", &good, &[("people", &people())]);
    let mut client = broker.client("c").user("alice", "secret").connected();
    // The auth document stays: the deletion of a document takes effect after a second read.
    let perhaps = format!("{PASSWORD_FILE}---\nacl: {{name: default, rules: [{{permission: perhaps}}]}}\n");
    for broken in [&good[..good.len() - 20], &perhaps, "acl: {", "\0"] {
        broker.write_until("documents.yaml", broken, "ERROR");
        assert_eq!([client.may_publish("a"), client.may_publish("b")], [true, false]);
        let mut other = broker.client("d").user("alice", "secret").connected();
        assert_eq!([other.subscribe("a"), other.subscribe("b")], [1, NOT_AUTHORIZED], "{broken}");
        assert_eq!(broker.client("e").user("alice", "x").connect(), BAD_CREDENTIALS);
    }
}

/// CVE-2017-7652: a broker that reloaded its files without a free file descriptor went on without them. The new rules allow
/// more than the old ones, so that the requests of this test have the same answers before and after.
#[test]
fn a_reload_without_file_descriptors_opens_nothing() {
    let rules = |topics: &str| {
        let auth = "auth: {name: default, chain: [{passwordFile: {file: people}}], rateLimit: {maxFailures: 1000000, windowS: 60}}";
        format!("{auth}\n---\nacl: {{name: default, rules: [{{permission: allow, topics: [{topics}]}}]}}\n")
    };
    let broker = Broker::start(", connectTimeoutMs: 120000", &rules("a"), &[("people", &people())]);
    let mut alice = broker.client("alice").user("alice", "secret").connected();
    // Connected before the descriptors run out; they send CONNECT later.
    let intruders = [("", ""), ("alice", ""), ("alice", "wrong"), ("carol", "wrong"), ("mallory", "secret")];
    let intruders: Vec<_> = intruders.iter().map(|(user, password)| broker.client("x").user(user, password)).collect();
    let mut bob = broker.client("bob").user("bob", "secret");
    broker.limit_descriptors(100);
    let connections: Vec<_> = (0..200).map(|_| TcpStream::connect(broker.address).unwrap()).collect();
    broker.until("no descriptor is left", || broker.log().contains("accept failed"));

    let carol = people().replace("bob", "carol");
    broker.write("people", &format!("{}{}", people(), carol.lines().nth(1).unwrap_or_default()));
    broker.write("documents.yaml", &rules("a, c"));
    let out_of_files = |line: &str| line.contains("Too many open files") && !line.contains("accept failed");
    broker.until("the reload has failed", || broker.log().lines().any(out_of_files));
    assert_eq!([alice.may_publish("a"), alice.may_publish("b")], [true, false]);
    for mut intruder in intruders {
        assert_eq!(intruder.connect(), BAD_CREDENTIALS);
    }
    assert_eq!(bob.connect(), 0);
    assert_eq!([bob.may_publish("a"), bob.may_publish("b")], [true, false]);

    drop(connections);
    broker.until("the new rules hold", || alice.may_publish("c"));
    assert_eq!([alice.may_publish("a"), alice.may_publish("b"), bob.may_publish("b")], [true, false, false]);
    broker.until("the new user gets in", || broker.client("carol").user("carol", "secret").connect() == 0);
    assert_eq!(broker.client("y").user("carol", "wrong").connect(), BAD_CREDENTIALS);
}

/// CVE-2018-12551: a malformed line of the password file admitted clients with its text as user name.
#[test]
fn an_invalid_password_file_is_refused() {
    for content in ["", "alice\n", "alice:\n", "alice:$6$\n", ":\n", "\n\n", "alice:$6$c2FsdA==$\n"] {
        assert!(weirmq::auth::PasswordFile::parse(content.as_bytes()).is_err(), "{content:?}");
    }
}

/// CVE-2026-25627 (over TCP and over WebSocket), CVE-2024-48077: a packet with a false length, or one that never ends,
/// affects its own connection only.
#[test]
fn a_false_packet_length_affects_its_own_connection_only() {
    let broker = Broker::start(", enableAcl: false, messageMaxSize: 65536", ANONYMOUS, &[]);
    for prefix in
        [&[0x30, 0xFF, 0xFF, 0xFF, 0x7F][..], &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], &[0x30, 0x80, 0x80, 0x01]]
    {
        let mut before = TcpStream::connect(broker.address).unwrap();
        before.write_all(prefix).unwrap();
        let mut after = broker.client("attacker").connected();
        after.send_bytes(prefix);
        after.send_bytes(&[0; 1000]);
        let mut good = broker.client("good").connected();
        assert_eq!(good.subscribe("a"), 1, "{prefix:?}");
    }
    let websocket = Broker::start(", enableAcl: false, useWebsocket: true, path: /mqtt", ANONYMOUS, &[]);
    for _ in 0..3 {
        let mut stream = upgraded(&websocket);
        // A masked binary frame of five bytes: a PUBLISH of 256 MiB.
        stream.write_all(&[0x82, 0x85, 0, 0, 0, 0, 0x30, 0xFF, 0xFF, 0xFF, 0x7F]).unwrap();
    }
    // The endpoint still answers.
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

/// CVE-2018-12546: new subscribers got the retained messages of a client that had lost its right to the topic.
#[test]
fn a_retained_message_is_removed_with_its_publishers_permission() {
    let documents = |bobs: &str| {
        format!(
            "{PASSWORD_FILE}---\nacl: {{name: default, rules: [{{permission: allow, username: alice, topics: ['#']}}, \
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
    let mut offline = broker.client("offline").user("alice", "secret").durable().connected();
    assert_eq!(offline.subscribe("a/#"), 1);
    drop(offline);
    let mut bob = broker.client("b").user("bob", "secret").connected();
    let with_will = broker.client("with-will").user("bob", "secret").retained_will("a/will").connected();
    for topic in &topics {
        assert_eq!(bob.publish(topic, "bob's", true), 0);
    }
    drop(with_will);
    broker.until("the will is retained", || read("r").len() == 9);

    broker.write_until("documents.yaml", &documents("'a/0', 'b'"), "changed endpoint=main");
    assert_eq!(read("r"), ["a/0"]);
    assert_eq!(bob.publish("a/1", "bob's", true), NOT_AUTHORIZED);
    // The same holds for retained messages in the queue of an offline client.
    let mut offline = broker.client("offline").user("alice", "secret").durable().connected();
    assert_eq!(offline.received(), ["a/0"]);
    // Another publisher's message on the same topic is judged by the rights of that publisher.
    assert_eq!(offline.publish("a/1", "alice's", true), 0);
    assert_eq!(read("r"), ["a/0", "a/1"]);

    broker.write_until("documents.yaml", &documents("'a/#'"), "changed endpoint=main");
    assert_eq!(read("r").len(), 9);
}

/// The same where the publisher's endpoint was removed: the rules of another endpoint apply.
#[test]
fn a_retained_message_of_a_removed_endpoint_needs_the_permission_on_another() {
    let acls = "---\nacl: {name: open, rules: [{permission: allow, topics: ['#']}]}\n\
                ---\nacl: {name: narrow, rules: [{permission: allow, action: subscribe, topics: ['#']}, \
                {permission: allow, action: publish, topics: ['a/0', 'a/1']}]}\n";
    let (main, other) = (ports::free_address(), ports::free_address());
    let endpoint = |name: &str, address: std::net::SocketAddr, acl: &str| {
        format!("---\nendpoint: {{name: {name}, host: 127.0.0.1, port: {}, acl: {acl}}}\n", address.port())
    };
    let both = format!("{ANONYMOUS}{acls}{}{}", endpoint("main", main, "narrow"), endpoint("other", other, "open"));
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
    let one = format!("{ANONYMOUS}{acls}{}", endpoint("main", main, "narrow"));
    broker.write("documents.yaml", &one);
    broker.until("the endpoint is closed", || TcpStream::connect(other).is_err());
    drop(publisher);
    broker.until("its rules no longer apply", || read() == ["a/0", "a/1"]);
}

/// CVE-2025-59946: subscriptions change while several shards deliver to them, and sessions are taken over.
#[test]
fn subscriptions_change_under_traffic() {
    let broker = Broker::start(", enableAcl: false", ANONYMOUS, &[]);
    let churn = |number: usize| {
        for round in 0..20 {
            // Two threads share each client id and take over its session from each other.
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
