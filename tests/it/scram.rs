//! Enhanced authentication over TCP: the statements about AUTH, with SCRAM-SHA-256 (RFC 5802, RFC 7677) by hand.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

use crate::client::{self, Client};
use crate::process::Broker;
use crate::wire::{Packet, Properties, PropertyValue, Version};

const METHOD: &str = "SCRAM-SHA-256";
const SALT: &[u8] = b"sixteen of them.";
const ITERATIONS: u32 = 4096;
const AUTHENTICATION_METHOD: u8 = 0x15;
const AUTHENTICATION_DATA: u8 = 0x16;

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

fn salted_password(password: &str) -> [u8; 32] {
    let mut salted = [0; 32];
    let iterations = NonZeroU32::new(ITERATIONS).expect("above zero");
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, SALT, password.as_bytes(), &mut salted);
    salted
}

/// The line of a users file.
pub fn record(user: &str, password: &str) -> String {
    let salted = salted_password(password);
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

/// Knocks as `user` and answers the challenge; the packet that decides, and the signature a true server would give.
fn authenticate(broker: &Broker, password: &str) -> (Client, Option<Packet>, String) {
    let mut client = Client::open(broker.address("scram"), Version::V5);
    let first = "n=user,r=clientnonce";
    client.send(&client::connect(Version::V5, "scram", properties(&format!("n,,{first}"))));
    let Some(Packet::Auth { code, properties: asked }) = client.receive() else { panic!("no challenge") };
    assert_eq!(code, 0x18, "[MQTT-4.12.0-2]");
    let (method, challenge) = method_and_data(&asked);
    assert_eq!(method.as_deref(), Some(METHOD), "[MQTT-4.12.0-5]");
    let nonce = challenge.split(',').next().expect("a nonce");
    assert!(nonce.starts_with("r=clientnonce") && nonce.len() > "r=clientnonce".len(), "{challenge}");
    assert!(challenge.contains(&format!(",s={},i={ITERATIONS}", STANDARD.encode(SALT))), "{challenge}");

    let without_proof = format!("c=biws,{nonce}");
    let message = format!("{first},{challenge},{without_proof}");
    let salted = salted_password(password);
    let client_key = mac(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, &client_key);
    let signature = mac(stored_key.as_ref(), message.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
    let answer = format!("{without_proof},p={}", STANDARD.encode(proof));
    client.send(&Packet::Auth { code: 0x18, properties: properties(&answer) });
    let server_signature = mac(&mac(&salted, b"Server Key"), message.as_bytes());
    let decided = client.receive();
    (client, decided, format!("v={}", STANDARD.encode(server_signature)))
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

/// [MQTT-4.12.1-2]: re-authentication is not served, so that every one fails.
#[test]
fn scram_re_authentication_that_fails_ends_the_connection() {
    let broker = Broker::start(2);
    let (mut client, decided, _) = authenticate(&broker, "secret");
    assert!(matches!(decided, Some(Packet::ConnAck { code: 0, .. })), "{decided:?}");
    client.send(&Packet::Auth { code: 0x19, properties: properties("n,,n=user,r=again") });
    let told = client.receive();
    assert!(matches!(told, Some(Packet::Disconnect { code: 0x87, .. })), "{told:?}");
    assert_eq!(client.receive(), None);
    // Another method than CONNECT's breaks the protocol.
    let (mut client, _, _) = authenticate(&broker, "secret");
    let other = vec![(AUTHENTICATION_METHOD, PropertyValue::String("OTHER".to_owned()))];
    client.send(&Packet::Auth { code: 0x19, properties: other });
    let told = client.receive();
    assert!(matches!(told, Some(Packet::Disconnect { code: 0x82, .. })), "{told:?}");
}
