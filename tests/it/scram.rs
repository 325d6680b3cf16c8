//! Enhanced authentication over TCP: the statements about AUTH, with SCRAM-SHA-256 (RFC 5802, RFC 7677) by hand.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

use crate::process::Broker;
use crate::support::client::{self, Client};
use crate::wire::{Packet, Properties, PropertyValue, Version};

const METHOD: &str = "SCRAM-SHA-256";
const SALT: &[u8] = b"sixteen of them.";
const ITERATIONS: u32 = 4096;
const AUTHENTICATION_METHOD: u8 = 0x15;
const AUTHENTICATION_DATA: u8 = 0x16;

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

fn salted_password(password: &str, salt: &[u8]) -> [u8; 32] {
    let mut salted = [0; 32];
    let iterations = NonZeroU32::new(ITERATIONS).expect("above zero");
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), &mut salted);
    salted
}

/// The line of a users file.
pub fn record(user: &str, password: &str) -> String {
    let salted = salted_password(password, SALT);
    let stored_key = digest::digest(&digest::SHA256, &mac(&salted, b"Client Key"));
    let server_key = mac(&salted, b"Server Key");
    let encoded = |bytes: &[u8]| STANDARD.encode(bytes);
    format!(
        "{user}:{METHOD}${ITERATIONS}:{}${}:{}\n",
        encoded(SALT),
        encoded(stored_key.as_ref()),
        encoded(&server_key)
    )
}

fn properties(data: &str) -> Properties {
    vec![
        (AUTHENTICATION_METHOD, PropertyValue::String(METHOD.to_owned())),
        (AUTHENTICATION_DATA, PropertyValue::Binary(data.as_bytes().to_vec())),
    ]
}

/// The method and the data that a packet's properties hold.
fn method_and_data(properties: &Properties) -> (Option<String>, String) {
    let mut method = None;
    let mut data = String::new();
    for (id, value) in properties {
        match (*id, value) {
            (AUTHENTICATION_METHOD, PropertyValue::String(text)) => method = Some(text.clone()),
            (AUTHENTICATION_DATA, PropertyValue::Binary(bytes)) => {
                data = String::from_utf8(bytes.clone()).expect("SCRAM is text");
            }
            _ => {}
        }
    }
    (method, data)
}

/// The users of the endpoint: both have the password `secret`.
pub fn users() -> String {
    record("user", "secret") + &record("other", "secret")
}

fn auth(code: u8, data: &str) -> Packet {
    Packet::Auth { code, properties: properties(data) }
}

/// `client-first-message`.
fn first(user: &str) -> String {
    format!("n,,n={user},r=clientnonce")
}

/// The answer to the challenge for `user`, and the signature of the right server.
fn answer(user: &str, password: &str, challenge: Option<Packet>) -> (Packet, String) {
    let Some(Packet::Auth { code: 0x18, properties: asked }) = challenge else { panic!("no challenge: {challenge:?}") };
    let (method, challenge) = method_and_data(&asked);
    assert_eq!(method.as_deref(), Some(METHOD), "[MQTT-4.12.0-5]");
    let nonce = challenge.split(',').next().expect("a nonce");
    assert!(nonce.starts_with("r=clientnonce") && nonce.len() > "r=clientnonce".len(), "{challenge}");
    let salt = challenge.split(',').find_map(|field| field.strip_prefix("s=")).expect("a salt");
    let salt = STANDARD.decode(salt).expect("base64");
    assert!(challenge.ends_with(&format!(",i={ITERATIONS}")), "{challenge}");

    let without_proof = format!("c=biws,{nonce}");
    let message = format!("n={user},r=clientnonce,{challenge},{without_proof}");
    let salted = salted_password(password, &salt);
    let client_key = mac(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, &client_key);
    let signature = mac(stored_key.as_ref(), message.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
    let last = format!("{without_proof},p={}", STANDARD.encode(proof));
    let server_signature = mac(&mac(&salted, b"Server Key"), message.as_bytes());
    (auth(0x18, &last), format!("v={}", STANDARD.encode(server_signature)))
}

/// Connects as `user` and answers the challenge; the last packet, and the signature of the right server.
fn authenticate(broker: &Broker, password: &str) -> (Client, Option<Packet>, String) {
    let mut client = Client::open(broker.address("scram"), Version::V5);
    client.send(&client::connect(Version::V5, "scram", properties(&first("user"))));
    let (last, signature) = answer("user", password, client.receive());
    client.send(&last);
    let decided = client.receive();
    (client, decided, signature)
}

/// An admitted client.
fn admitted(broker: &Broker) -> Client {
    let (client, decided, _) = authenticate(broker, "secret");
    assert!(matches!(decided, Some(Packet::ConnAck { code: 0, .. })), "{decided:?}");
    client
}

/// [MQTT-4.12.0-2] [MQTT-4.12.0-4] [MQTT-4.12.0-5]
#[test]
fn scram_authenticates_over_tcp() {
    let broker = Broker::start(2);
    let (mut client, decided, signature) = authenticate(&broker, "secret");
    let Some(Packet::ConnAck { code: 0, properties, .. }) = decided else { panic!("refused: {decided:?}") };
    assert_eq!(method_and_data(&properties), (Some(METHOD.to_owned()), signature));
    client.ping();
    let (mut refused, decided, _) = authenticate(&broker, "wrong");
    assert!(matches!(decided, Some(Packet::ConnAck { code: 0x86 | 0x87, .. })), "{decided:?}");
    assert_eq!(refused.receive(), None, "[MQTT-4.12.0-4]");
}

/// Section 4.12.1 of MQTT 5.0: the same exchange, AUTH 0x00 at its end, and other packets flow meanwhile.
#[test]
fn scram_re_authenticates_while_messages_flow() {
    let broker = Broker::start(2);
    let mut client = admitted(&broker);
    client.subscribe("flows", 0);
    for round in ["first", "second"] {
        client.send(&auth(0x19, &first("user")));
        let (last, signature) = answer("user", "secret", client.receive());
        client.send(&client::publish("flows", round.as_bytes(), 0, None));
        let Some(Packet::Publish(flowed)) = client.receive() else { panic!("nothing flows") };
        assert_eq!(flowed.payload, round.as_bytes());
        client.send(&last);
        let Some(Packet::Auth { code: 0x00, properties }) = client.receive() else { panic!("{round}: refused") };
        assert_eq!(method_and_data(&properties), (Some(METHOD.to_owned()), signature), "[MQTT-4.12.0-5]");
        client.ping();
    }
}

/// [MQTT-4.12.1-2]
#[test]
fn scram_re_authentication_that_fails_ends_the_connection() {
    let broker = Broker::start(2);
    for (user, password) in [("user", "wrong"), ("carol", "secret"), ("other", "secret")] {
        let mut client = admitted(&broker);
        client.send(&auth(0x19, &first(user)));
        let (last, _) = answer(user, password, client.receive());
        client.send(&last);
        let told = client.receive();
        assert!(matches!(told, Some(Packet::Disconnect { code: 0x87, .. })), "{user}: {told:?}");
        assert_eq!(client.receive(), None, "{user}");
    }
    // Packets that fit no exchange are protocol errors.
    let other_method = vec![(AUTHENTICATION_METHOD, PropertyValue::String("OTHER".to_owned()))];
    let out_of_turn = [
        ("another method [MQTT-4.12.1-1]", vec![Packet::Auth { code: 0x19, properties: other_method }]),
        ("an answer to nothing", vec![auth(0x18, "c=biws,r=clientnonce")]),
        ("begun twice", vec![auth(0x19, &first("user")), auth(0x19, &first("user"))]),
    ];
    for (case, packets) in out_of_turn {
        let mut client = admitted(&broker);
        packets.iter().for_each(|packet| client.send(packet));
        let mut told = client.receive();
        if matches!(told, Some(Packet::Auth { code: 0x18, .. })) && packets.len() > 1 {
            told = client.receive();
        }
        assert!(matches!(told, Some(Packet::Disconnect { code: 0x82, .. })), "{case}: {told:?}");
        assert_eq!(client.receive(), None, "{case}");
    }
}
