//! Changes of passwords, keys, bans and rules apply to connected clients.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::broker::Broker;
use crate::programs::{is_there, succeeds};
use crate::support::weir;

const ADMINISTRATIVE_ACTION: u8 = 0x98;
const BAD_CREDENTIALS: u8 = 0x86;
const NOT_AUTHORIZED: u8 = 0x87;
const BANNED: u8 = 0x8A;

const PASSWORD_FILE: &str = "auth: {name: default, chain: [{passwordFile: {file: people}}]}\n";

/// Runs `weir passwd`.
pub fn passwd(broker: &Broker, user: &str, password: &str) {
    let mut child = weir::command()
        .arg("passwd")
        .arg(broker.path("people"))
        .arg(user)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// `alice` and `bob`, both with the password `secret`, in mosquitto's cheap form.
pub fn people() -> String {
    const HASH: &str = "$7$101$7e92RQakt8KnbE4s$yLgtd/cKo/7fU/ENCVSCXgJyrm9Z2dzRmVaKWJoTjUJoUtl/MIqARYsMwjoJncSg2gvJN3cZ8L89kcYxJcgF5Q==";
    format!("alice:{HASH}\nbob:{HASH}\n")
}

#[test]
fn a_changed_password_ends_its_own_connections_and_no_others() {
    let broker = Broker::start(", enableAcl: false", PASSWORD_FILE, &[("people", &people())]);
    let mut alice = broker.client("a").user("alice", "secret").connected();
    let mut bob = broker.client("b").user("bob", "secret").connected();
    assert_eq!(broker.client("a2").user("alice", "wrong").connect(), BAD_CREDENTIALS);
    passwd(&broker, "alice", "changed");
    assert_eq!(alice.disconnected(), ADMINISTRATIVE_ACTION);
    assert!(bob.received().is_empty());
    assert_eq!(broker.client("a").user("alice", "secret").connect(), BAD_CREDENTIALS);
    assert_eq!(broker.client("a").user("alice", "changed").connect(), 0);
}

#[test]
fn a_broken_password_file_changes_nothing() {
    let broker = Broker::start(", enableAcl: false", PASSWORD_FILE, &[("people", &people())]);
    let mut alice = broker.client("a").user("alice", "secret").connected();
    let whole = people();
    let states = [("half:$6$", "people:1: the hash"), ("", "it has no users"), (&whole[..150], "people:2: ")];
    for (content, problem) in states {
        broker.write_until("people", content, problem);
        assert!(alice.received().is_empty());
        assert_eq!(broker.client("b").user("bob", "secret").connect(), 0, "{problem}");
        for (user, password) in [("alice", ""), ("alice", "wrong"), ("half", ""), ("", ""), ("carol", "secret")] {
            assert_eq!(broker.client("x").user(user, password).connect(), BAD_CREDENTIALS, "{problem} {user:?}");
        }
    }
    let before = broker.log().len();
    fs::remove_file(broker.path("people")).unwrap();
    broker.until("the log names the file", || broker.log()[before..].contains("no such file"));
    assert_eq!(broker.client("b").user("bob", "secret").connect(), 0);
    assert_eq!(broker.client("b").user("carol", "secret").connect(), BAD_CREDENTIALS);
}

/// The content of referenced files is not stored: a broker that starts without them opens no port until they are there.
#[test]
fn after_a_restart_a_file_that_is_missing_or_broken_opens_nothing() {
    let mut broker = Broker::start(", enableAcl: false", PASSWORD_FILE, &[("people", &people())]);
    broker.client("a").user("alice", "secret").connected();
    for (content, problem) in [(None, "people: no such file"), (Some("alice:$6$\n"), "people:1: the hash")] {
        broker.restart(|place| match content {
            None => fs::remove_file(place.join("people")).unwrap(),
            Some(content) => fs::write(place.join("people"), content).unwrap(),
        });
        broker.until(problem, || broker.log().contains(problem));
        assert!(std::net::TcpStream::connect(broker.address).is_err(), "the port stays closed");
        broker.write("people", &people());
        broker.until("it listens", || std::net::TcpStream::connect(broker.address).is_ok());
        assert_eq!(broker.client("a").user("alice", "secret").connect(), 0);
        assert_eq!(broker.client("b").user("alice", "wrong").connect(), BAD_CREDENTIALS);
    }
}

#[test]
fn a_ban_disconnects_and_refuses_clients_until_its_document_is_removed() {
    let broker = Broker::start(", enableAcl: false", PASSWORD_FILE, &[("people", &people())]);
    let mut alice = broker.client("a").user("alice", "secret").connected();
    let mut robot = broker.client("bot-1").user("bob", "secret").connected();
    let mut bob = broker.client("b").user("bob", "secret").connected();
    broker.write("ban.yaml", "ban: {name: abuse, entries: [{username: alice}, {clientId: 'bot-*', reason: flood}]}\n");
    assert_eq!([alice.disconnected(), robot.disconnected()], [ADMINISTRATIVE_ACTION; 2]);
    assert!(bob.received().is_empty());
    assert_eq!(broker.client("a").user("alice", "secret").connect(), BANNED);
    assert_eq!(broker.client("bot-2").user("bob", "secret").connect(), BANNED);
    broker.write("ban.yaml", "ban: {name: abuse, entries: [{username: mallory}]}\n");
    broker.until("alice is no longer banned", || broker.client("a").user("alice", "secret").connect() == 0);
}

fn acl(rules: &str) -> String {
    format!("{PASSWORD_FILE}---\nacl: {{name: default, rules: [{rules}]}}\n")
}

const ALICE_ALL: &str = "{permission: allow, username: alice, topics: ['#']}";

/// CVE-2021-34434: subscriptions and queued messages of an offline client outlived its right.
#[test]
fn a_revoked_permission_removes_subscriptions_queued_messages_and_wills() {
    let bobs = "{permission: allow, username: bob, topics: ['a/#', 'b/#']}";
    let fewer = "{permission: allow, username: bob, topics: ['b/#']}";
    let broker = Broker::start("", &acl(&format!("{ALICE_ALL}, {bobs}")), &[("people", &people())]);
    let mut alice = broker.client("a").user("alice", "secret").connected();
    assert_eq!(alice.subscribe("#"), 1);
    let mut bob = broker.client("b").user("bob", "secret").connected();
    assert_eq!([bob.subscribe("a/x"), bob.subscribe("b/x"), bob.subscribe("#")], [1, 1, NOT_AUTHORIZED]);
    // An offline client with a queued message, and a client with a will on a topic that it loses.
    let mut offline = broker.client("offline").user("bob", "secret").durable().connected();
    assert_eq!([offline.subscribe("a/y"), offline.subscribe("b/y")], [1, 1]);
    drop(offline);
    let with_will = broker.client("with-will").user("bob", "secret").will("a/will").connected();
    assert!(alice.publish("a/retained", "1", true) < 0x80);
    alice.received();

    broker.write_until("documents.yaml", &acl(&format!("{ALICE_ALL}, {fewer}")), "changed endpoint=main");
    let mut sender = broker.client("s").user("alice", "secret").connected();
    for topic in ["a/x", "b/x", "a/y", "b/y"] {
        sender.publish(topic, "1", false);
    }
    assert_eq!(bob.received(), ["b/x"]);
    assert_eq!([bob.subscribe("a/x"), bob.subscribe("+/x"), bob.subscribe("a/retained")], [NOT_AUTHORIZED; 3]);
    assert_eq!(bob.publish("a/x", "1", false), NOT_AUTHORIZED);
    drop(with_will);
    let mut offline = broker.client("offline").user("bob", "secret").durable().connected();
    assert_eq!(offline.received(), ["b/y"]);
    assert!(sender.may_publish("a/y"));
    assert!(offline.received().is_empty());
    assert!(!alice.received().contains(&"a/will".to_owned()));
}

#[test]
fn a_connection_ends_when_its_token_expires() {
    let documents = "auth: {name: default, chain: [{jwt: {algorithm: HS256, keyFile: secret, usernameClaim: sub}}]}\n";
    let secret = "0123456789abcdef0123456789abcdef";
    let broker = Broker::start(", enableAcl: false", documents, &[("secret", secret)]);
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let token = |exp: u64| super::methods::hs256(secret, &format!(r#"{{"sub":"alice","exp":{exp}}}"#));
    let mut alice = broker.client("a").user("x", &token(now_s + 3)).connected();
    assert_eq!(alice.disconnected(), NOT_AUTHORIZED);
    assert_eq!(broker.client("a").user("x", &token(now_s - 1)).connect(), BAD_CREDENTIALS);
}

#[test]
fn keys_rotate_without_a_gap_and_a_removed_key_disconnects_its_clients() {
    let documents = "auth: {name: default, chain: [{jwt: {algorithm: HS256, jwksFile: keys, usernameClaim: sub}}]}\n";
    let secret = |id: &str| format!("0123456789abcdef0123456789abcde{id}");
    let keys = |ids: &[&str]| {
        let key = |id: &&str| format!(r#"{{"kty":"oct","kid":"{id}","k":"{}"}}"#, URL_SAFE_NO_PAD.encode(secret(id)));
        format!(r#"{{"keys":[{}]}}"#, ids.iter().map(key).collect::<Vec<_>>().join(","))
    };
    let token = |id: &str| {
        let header = format!(r#"{{"alg":"HS256","kid":"{id}"}}"#);
        super::methods::hs256_under(&header, &secret(id), r#"{"sub":"alice","exp":4102444800}"#)
    };
    let broker = Broker::start(", enableAcl: false", documents, &[("keys", &keys(&["a"]))]);
    let client = |client_id: &str, id: &str| broker.client(client_id).user("", &token(id));
    let mut old = client("old", "a").connected();
    assert_eq!(client("new", "b").connect(), BAD_CREDENTIALS);
    broker.write_until("keys", &keys(&["a", "b"]), "changed endpoint=main");
    let mut new = client("new", "b").connected();
    assert!(old.received().is_empty());
    // A half-written set changes nothing.
    broker.write_until("keys", &keys(&["b"])[..40], "invalid JSON");
    assert!(old.received().is_empty() && client("other", "a").connect() == 0);
    broker.write("keys", &keys(&["b"]));
    assert_eq!(old.disconnected(), ADMINISTRATIVE_ACTION);
    assert!(new.received().is_empty());
    assert_eq!(client("old", "a").connect(), BAD_CREDENTIALS);
}

/// Files of mosquitto_passwd work unchanged, in both of its forms, and it can continue to write them.
#[test]
fn files_of_mosquitto_passwd_are_accepted() {
    if !is_there(Path::new("mosquitto_passwd")) {
        return;
    }
    let written = |path: &Path, arguments: &[&str], user: &str, password: &str| {
        succeeds(Command::new("mosquitto_passwd").args(arguments).arg("-b").arg(path).args([user, password]));
    };
    let place = tempfile::tempdir().unwrap();
    for (form, begins) in [("sha512-pbkdf2", "alice:$7$"), ("sha512", "alice:$6$")] {
        let file = place.path().join(form);
        written(&file, &["-H", form, "-c"], "alice", "secret");
        let content = fs::read_to_string(&file).unwrap();
        assert!(content.starts_with(begins), "{content}");
        let broker = Broker::start(", enableAcl: false", PASSWORD_FILE, &[("people", &content)]);
        let mut alice = broker.client("a").user("alice", "secret").connected();
        assert_eq!(broker.client("x").user("alice", "Secret").connect(), BAD_CREDENTIALS);
        written(&file, &["-H", form], "bob", "b: c");
        broker.write_until("people", &fs::read_to_string(&file).unwrap(), "changed endpoint=main");
        broker.client("b").user("bob", "b: c").connected();
        assert!(alice.received().is_empty());
    }
}

#[test]
fn a_session_resumed_with_a_weaker_token_loses_what_it_does_not_permit() {
    let documents = "auth: {name: default, chain: [{jwt: {algorithm: HS256, keyFile: secret, usernameClaim: sub, \
                     aclClaim: acl}}]}\n";
    let secret = "0123456789abcdef0123456789abcdef";
    let broker = Broker::start(", enableAcl: false", documents, &[("secret", secret)]);
    let token = |acl: &str| {
        super::methods::hs256(secret, &format!(r#"{{"sub":"alice","exp":4102444800,"acl":{{"all":[{acl}]}}}}"#))
    };
    let (broad, narrow) = (token(r##""#""##), token(r#""b""#));
    let mut offline = broker.client("offline").user("", &broad).durable().connected();
    assert_eq!([offline.subscribe("a"), offline.subscribe("b")], [1, 1]);
    drop(offline);
    let mut sender = broker.client("sender").user("", &broad).connected();
    assert!(sender.may_publish("a") && sender.may_publish("b"));
    let mut offline = broker.client("offline").user("", &narrow).durable().connected();
    assert_eq!(offline.received(), ["b"]);
    assert!(sender.may_publish("a"));
    assert!(offline.received().is_empty());
}
