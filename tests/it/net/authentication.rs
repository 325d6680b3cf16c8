//! Authentication: at once, on a worker, in several steps; and the words of a refusal.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use weir_broker::Principal;
use weirmq::auth::{AuthExchange, AuthRefusal, Authenticate, Credentials, Decision};
use weirmq::net::ListenerPolicy;

use super::client::{Client, connect, connect_with, packet, string};
use super::plane::{Plane, policy_with};
use crate::support::stream;

fn principal() -> Principal {
    Principal {
        username: Some("someone".into()),
        address: None,
        admitted_by: "test".into(),
        claims_acl: None,
        expires_at: None,
    }
}

/// Decides by a closure.
struct By<F>(F);

impl<F: Fn(&Credentials<'_>) -> Decision + Send + Sync> Authenticate for By<F> {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Decision {
        (self.0)(credentials)
    }
    fn still_valid(&self, _principal: &Principal, _client_id: &str) -> bool {
        true
    }
}

fn by(decide: impl Fn(&Credentials<'_>) -> Decision + Send + Sync + 'static) -> ListenerPolicy {
    policy_with(1, Arc::new(By(decide)))
}

#[test]
fn the_authenticator_gets_the_credentials_and_the_client_the_refusal() {
    let plane = Plane::start(2);
    let address = plane.listen_tcp(by(|credentials| {
        assert!(credentials.peer.is_some() && !credentials.tls && credentials.certificate.is_none());
        match (credentials.username, credentials.password) {
            (Some("alice"), Some(b"secret")) => Decision::Admit(principal()),
            (Some("bob"), _) => Decision::Refuse(AuthRefusal::Banned),
            (Some("down"), _) => Decision::Refuse(AuthRefusal::Unavailable),
            _ => Decision::Refuse(AuthRefusal::BadCredentials),
        }
    }));
    let cases = [
        (Some(("alice", "secret")), 0, 0),
        (Some(("alice", "wrong")), 0x86, 4),
        (None, 0x86, 4),
        (Some(("bob", "x")), 0x8A, 5),
        (Some(("down", "x")), 0x88, 3),
    ];
    for (login, reason_code, return_code) in cases {
        for (level, code) in [(5, reason_code), (4, return_code), (3, return_code)] {
            let mut client = Client::new(stream::tcp(address), level);
            client.send(&connect_with(level, "c", &[], login));
            let (first, body) = client.receive().expect("CONNACK");
            assert_eq!((first, body[1]), (0x20, code), "{login:?} of version {level}");
            if code != 0 {
                assert_eq!(client.receive(), None);
            }
        }
    }
    assert_eq!(plane.stats(1).refused.authentication, 12);
}

/// Workers wait here until the test lets them go on.
type Gate = Arc<Mutex<Receiver<bool>>>;

fn gated() -> (ListenerPolicy, Sender<bool>) {
    let (open, gate) = channel();
    let gate: Gate = Arc::new(Mutex::new(gate));
    let decide = move |credentials: &Credentials<'_>| {
        if credentials.username.is_none() {
            return Decision::Admit(principal());
        }
        let gate = Arc::clone(&gate);
        Decision::Blocking(Box::new(move || {
            let admits = gate.lock().unwrap().recv().unwrap_or(false);
            if admits { Decision::Admit(principal()) } else { Decision::Refuse(AuthRefusal::NotAuthorized) }
        }))
    };
    (by(decide), open)
}

#[test]
fn a_slow_authentication_does_not_delay_other_clients() {
    for shards in [1, 3] {
        let plane = Plane::start(shards);
        let (policy, open) = gated();
        let address = plane.listen_tcp(policy);
        let mut slow = Client::new(stream::tcp(address), 5);
        let login = connect_with(5, "slow", &[], Some(("u", "p")));
        // What follows the CONNECT waits with it.
        slow.send(&[&login[..], &[0xC0, 0]].concat());
        plane.until(1, "it waits", |stats| stats.connections_pending == 1);
        for number in 0..20 {
            Client::enter(stream::tcp(address), 5, &format!("fast-{number}")).ping();
        }
        slow.send(&[0xC0, 0]);
        open.send(true).unwrap();
        assert_eq!(slow.receive().unwrap().0, 0x20);
        assert_eq!(slow.receive().unwrap().0, 0xD0);
        assert_eq!(slow.receive().unwrap().0, 0xD0);
        let mut refused = Client::new(stream::tcp(address), 5);
        refused.send(&login);
        open.send(false).unwrap();
        assert_eq!(refused.receive().unwrap().1[1], 0x87);
        // A client that disconnects before the answer leaves no state behind.
        let mut gone = Client::new(stream::tcp(address), 5);
        gone.send(&login);
        plane.until(1, "it waits", |stats| stats.connections_pending == 1);
        drop(gone);
        open.send(true).unwrap();
        plane.until(1, "it is gone", |stats| stats.connections_pending == 0);
    }
}

/// Challenges the client twice, and checks its answers.
struct Questions {
    left: u8,
}

impl AuthExchange for Questions {
    fn step(self: Box<Self>, data: &[u8]) -> Decision {
        match (data, self.left) {
            (b"right", 0) => {
                Decision::AdmitWith { principal: principal(), data: Some(b"welcome".to_vec()), client_id: None }
            }
            (b"right", left) => challenge(left - 1),
            (b"slow", _) => Decision::Blocking(Box::new(|| Decision::Admit(principal()))),
            _ => Decision::Refuse(AuthRefusal::NotAuthorized),
        }
    }
}

fn challenge(left: u8) -> Decision {
    Decision::Continue { data: vec![b'?'; usize::from(left) + 1], exchange: Box::new(Questions { left }) }
}

fn method(name: &str, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap().to_be_bytes();
    [&[0x15][..], &string(name), &[0x16], &length, data].concat()
}

fn auth(name: &str, data: &[u8]) -> Vec<u8> {
    let properties = method(name, data);
    packet(0xF0, &[&[0x18, u8::try_from(properties.len()).unwrap()][..], &properties].concat())
}

#[test]
fn an_enhanced_authentication_completes_step_by_step() {
    for shards in [1, 3] {
        let plane = Plane::start(shards);
        let address = plane.listen_tcp(by(|credentials| {
            assert_eq!(credentials.authentication_method, Some("QUIZ"));
            assert_eq!(credentials.authentication_data, Some(&b"hello"[..]));
            challenge(1)
        }));
        let begin = |client: &mut Client, id: &str| {
            client.send(&connect_with(5, id, &method("QUIZ", b"hello"), None));
            let (first, body) = client.receive().unwrap();
            assert_eq!((first, &body[2..]), (0xF0, &method("QUIZ", b"??")[..]));
        };
        let mut good = Client::new(stream::tcp(address), 5);
        begin(&mut good, "good");
        good.send(&auth("QUIZ", b"right"));
        assert_eq!(good.receive().unwrap().1[2..], method("QUIZ", b"?"));
        good.send(&auth("QUIZ", b"right"));
        let (first, body) = good.receive().unwrap();
        assert_eq!((first, body[1]), (0x20, 0));
        assert!(body.windows(7).any(|window| window == b"welcome"), "{body:02x?}");
        good.ping();
        let mut slow = Client::new(stream::tcp(address), 5);
        begin(&mut slow, "slow");
        slow.send(&auth("QUIZ", b"slow"));
        assert_eq!(slow.receive().unwrap().0, 0x20);
        slow.ping();
        for (name, answer, code) in [
            ("wrong", auth("QUIZ", b"wrong"), Some(0x87)),
            ("another method", auth("OTHER", b"right"), Some(0x82)),
            ("another packet", vec![0xC0, 0], Some(0x82)),
            ("a second CONNECT", connect(5, "c"), Some(0x82)),
            ("no more", vec![0xE0, 0], None),
        ] {
            let mut client = Client::new(stream::tcp(address), 5);
            begin(&mut client, "bad");
            client.send(&answer);
            assert_eq!(client.receive().map(|(_, body)| body[1]), code, "{name}");
        }
    }
}

#[test]
fn a_client_that_leaves_while_its_authentication_runs_is_closed() {
    let plane = Plane::start(1);
    let (policy, open) = gated();
    let mut client = Client::new(stream::tcp(plane.listen_tcp(policy)), 4);
    client.send(&connect_with(4, "c", &[], Some(("u", "p"))));
    plane.until(1, "it waits", |stats| stats.connections_pending == 1);
    drop(client);
    plane.until(1, "it is closed", |stats| stats.connections_current == 0 && stats.refused.peer_closed == 1);
    drop(open);
}
