//! Tokens and SCRAM for the tests, and SCRAM over AUTH packets.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::{digest, hmac, pbkdf2};
use weirmq::auth::ScramRecord;

use super::broker::Broker;
use super::client::{Client, property};
use crate::wire::{Packet, Properties, PropertyValue};

/// A token signed with HS256.
pub fn hs256(secret: &str, claims: &str) -> String {
    hs256_under(r#"{"alg":"HS256"}"#, secret, claims)
}

/// The same with another header.
pub fn hs256_under(header: &str, secret: &str, claims: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn authentication_data(properties: &Properties) -> String {
    let id = property("authentication_data", PropertyValue::Number(0)).0;
    let found = properties.iter().find_map(|(own, value)| match value {
        PropertyValue::Binary(data) if *own == id => Some(String::from_utf8(data.clone()).unwrap()),
        _ => None,
    });
    found.unwrap_or_default()
}

fn auth(code: u8, data: &str) -> Packet {
    let method = property("authentication_method", PropertyValue::String("SCRAM-SHA-256".into()));
    let data = property("authentication_data", PropertyValue::Binary(data.as_bytes().to_vec()));
    Packet::Auth { code, properties: vec![method, data] }
}

fn proof(password: &str, challenge: &str, message: &str) -> String {
    let field = |name: &str| challenge.split(',').find_map(|field| field.strip_prefix(name)).unwrap();
    let iterations: NonZeroU32 = field("i=").parse().unwrap();
    let mut salted = [0; 32];
    let salt = STANDARD.decode(field("s=")).unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
    let mac = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    let client_key = mac(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let signature = mac(stored_key.as_ref(), message.as_bytes());
    STANDARD.encode(client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect::<Vec<u8>>())
}

/// Runs the exchange; the client, and CONNACK.
pub fn scram(broker: &Broker, username: &str, password: &str) -> (Client, Packet) {
    let first = format!("n={username},r=abc");
    let mut client = broker
        .client("s")
        .with("authentication_method", PropertyValue::String("SCRAM-SHA-256".into()))
        .with("authentication_data", PropertyValue::Binary(format!("n,,{first}").into_bytes()));
    client.send_connect();
    let Some(Packet::Auth { code: 0x18, properties }) = client.receive() else { panic!("no challenge") };
    let challenge = authentication_data(&properties);
    let last = format!("c=biws,{}", challenge.split(',').next().unwrap());
    let proof = proof(password, &challenge, &format!("{first},{challenge},{last}"));
    client.send(&auth(0x18, &format!("{last},p={proof}")));
    let Some(answer) = client.receive() else { panic!("no CONNACK") };
    (client, answer)
}

#[test]
fn scram_admits_the_right_password_over_auth_packets() {
    let keys = format!("alice:{}\n", ScramRecord::create(b"secret").unwrap());
    let documents = "auth: {name: default, chain: [{scram: {file: keys}}]}\n";
    let broker = Broker::start(", enableAcl: false", documents, &[("keys", &keys)]);
    let (mut client, answer) = scram(&broker, "alice", "secret");
    let Packet::ConnAck { code: 0, properties, .. } = answer else { panic!("{answer:?}") };
    assert!(authentication_data(&properties).starts_with("v="), "{properties:?}");
    assert!(client.received().is_empty());
    for (username, password) in [("alice", "wrong"), ("carol", "secret")] {
        let (_, answer) = scram(&broker, username, password);
        assert!(matches!(answer, Packet::ConnAck { code: 0x86, .. }), "{answer:?}");
    }
    // A client that fails re-authentication is disconnected.
    client.send(&auth(0x19, "n,,n=alice,r=abc"));
    let Some(Packet::Auth { code: 0x18, .. }) = client.receive() else { panic!("no challenge") };
    client.send(&auth(0x18, "c=biws,r=abc,p=AAAA"));
    assert_eq!(client.disconnected(), 0x87);
    let mut other = broker.client("o").with("authentication_method", PropertyValue::String("X".into()));
    assert_eq!(other.connect(), 0x8C);
}
