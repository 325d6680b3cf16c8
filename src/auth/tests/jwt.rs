use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::*;
use weir_broker::Subject;
use weir_mqtt::QoS;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const RSA_PUBLIC: &str = include_str!("jwt_rsa/public.pem");
const RSA_JWKS: &str = include_str!("jwt_rsa/jwks.json");
const RS256: &str = include_str!("jwt_rsa/RS256.jwt");
const PS256: &str = include_str!("jwt_rsa/PS256.jwt");

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

fn signed(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = unsigned(header, claims);
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn by_secret(secret: &str, claims: &Value) -> String {
    signed(&json!({"alg": "HS256"}), claims, |message| hs256(secret.as_bytes(), message))
}

fn hs256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

fn now_s() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

fn soon() -> Value {
    json!({"sub": "alice", "exp": now_s() + 600})
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn token(token: &str) -> Login {
    user("device", token)
}

fn fixture() -> Fixture {
    Fixture::with(&[("secret", &format!("{SECRET}\n")), ("rsa.pem", RSA_PUBLIC), ("jwks.json", RSA_JWKS)])
}

const HS256: &str =
    "{chain: [{jwt: {algorithm: HS256, keyFile: secret, usernameClaim: sub}}], rateLimit: {maxFailures: 1000000}}";

#[test]
fn claims_are_checked_strictly() {
    let chain = fixture().chain(
        "{chain: [{jwt: {algorithm: HS256, keyFile: secret, usernameClaim: sub, issuer: us, audience: broker, \
         clientIdClaim: cid, leewayS: 10, requiredClaims: {scope: mqtt, verified: true}}}], rateLimit: {maxFailures: 1000}}",
    );
    let good = json!({"sub": "alice", "exp": now_s() + 600, "iss": "us", "aud": "broker", "cid": "c1",
                      "scope": ["x", "mqtt"], "verified": true});
    let alter = |name: &str, value: Value| with(good.clone(), name, value);
    let cases = [
        (good.clone(), "in as alice"),
        (alter("aud", json!(["x", "broker"])), "in as alice"),
        (alter("exp", json!(now_s() as f64 + 600.5)), "in as alice"),
        (alter("exp", json!(now_s() - 5)), "in as alice"),
        (alter("nbf", json!(now_s() + 5)), "in as alice"),
        (alter("exp", json!(now_s() - 15)), "BadCredentials"),
        (alter("exp", json!("never")), "BadCredentials"),
        (alter("exp", json!(null)), "BadCredentials"),
        (alter("exp", json!(1e300)), "BadCredentials"),
        (alter("nbf", json!(now_s() + 60)), "BadCredentials"),
        (alter("nbf", json!("x")), "BadCredentials"),
        (alter("iss", json!("them")), "BadCredentials"),
        (alter("iss", json!(["us"])), "BadCredentials"),
        (alter("aud", json!("other")), "BadCredentials"),
        (alter("aud", json!(["other"])), "BadCredentials"),
        (alter("cid", json!("c2")), "ClientIdNotValid"),
        (alter("cid", json!(null)), "BadCredentials"),
        (alter("cid", json!("")), "BadCredentials"),
        (alter("cid", json!("c\u{0}1")), "BadCredentials"),
        (alter("cid", json!(["c1"])), "BadCredentials"),
        // A client without a valid token learns nothing about client ids.
        (with(alter("cid", json!("c2")), "exp", json!(now_s() - 15)), "BadCredentials"),
        (alter("sub", json!("")), "BadCredentials"),
        (alter("sub", json!(7)), "BadCredentials"),
        (alter("scope", json!("mqtt")), "in as alice"),
        (alter("scope", json!("mqtt x")), "BadCredentials"),
        (alter("scope", json!([])), "BadCredentials"),
        (alter("scope", json!(null)), "BadCredentials"),
        (alter("verified", json!("true")), "BadCredentials"),
        (json!([]), "BadCredentials"),
        (json!({}), "BadCredentials"),
    ];
    for (claims, expected) in cases {
        assert_eq!(chain.answer(&token(&by_secret(SECRET, &claims))), expected, "{claims}");
    }
}

#[test]
fn a_client_without_an_id_gets_the_id_of_its_token() {
    let mut fixture = fixture();
    let yaml = "{chain: [{jwt: {algorithm: HS256, keyFile: secret, usernameClaim: sub, clientIdClaim: cid}}]}";
    let nameless = |cid: Value| Login { client_id: "", ..token(&by_secret(SECRET, &with(soon(), "cid", cid))) };
    let given = |chain: &TestChain, login: &Login| match chain.begin(login) {
        Decision::AdmitWith { client_id, .. } => client_id.unwrap().into_string(),
        other => format!("{:?}", settle(other).err()),
    };
    let chain = fixture.chain(yaml);
    assert_eq!(given(&chain, &nameless(json!("d7"))), "d7");
    assert_eq!(given(&chain, &nameless(json!(""))), "Some(BadCredentials)");
    assert_eq!(given(&chain, &nameless(json!(null))), "Some(BadCredentials)");
    // With an id of its own it keeps that; and without the claim the server's choice stands.
    let own = Login { client_id: "d7", ..nameless(json!("d7")) };
    assert!(matches!(chain.begin(&own), Decision::Admit(_)));
    assert!(matches!(fixture.chain(HS256).begin(&nameless(json!("d7"))), Decision::Admit(_)));
    // Bans and the count of connects go by the id that it gets.
    fixture.ban("{name: b, entries: [{clientId: d8}], flapping: {maxConnects: 2, windowS: 60, banS: 60}}");
    let chain = fixture.chain(yaml);
    assert_eq!(given(&chain, &nameless(json!("d8"))), "Some(Banned)");
    let connects: Vec<String> = (0..4).map(|_| given(&chain, &nameless(json!("d9")))).collect();
    assert_eq!(connects, ["d9", "d9", "Some(Banned)", "Some(Banned)"]);
    assert_eq!(chain.answer(&Login { client_id: "d9", ..own }), "Banned");
}

#[test]
fn only_the_declared_algorithm_and_key_are_accepted() {
    let fixture = fixture();
    let hs = fixture.chain(HS256);
    let rs = fixture.chain("{name: rs, chain: [{jwt: {algorithm: RS256, keyFile: rsa.pem, usernameClaim: sub}}]}");
    let header = |algorithm: &str| json!({"alg": algorithm});
    let sign_with = |secret: &'static [u8]| move |message: &[u8]| hs256(secret, message);
    let secret = SECRET.as_bytes();
    let good = by_secret(SECRET, &soon());
    let cases = [
        ("as it should be", &hs, good.clone(), "in as alice"),
        ("another secret", &hs, by_secret("ffffffffffffffffffffffffffffffff", &soon()), "BadCredentials"),
        ("no signature", &hs, format!("{}.", unsigned(&header("HS256"), &soon())), "BadCredentials"),
        ("alg none", &hs, format!("{}.", unsigned(&header("none"), &soon())), "BadCredentials"),
        ("alg None, signed", &hs, signed(&header("None"), &soon(), sign_with(secret)), "BadCredentials"),
        ("another HS", &hs, signed(&header("HS512"), &soon(), sign_with(secret)), "BadCredentials"),
        (
            "an extension that must be understood",
            &hs,
            signed(&json!({"alg": "HS256", "crit": ["b64"]}), &soon(), sign_with(secret)),
            "BadCredentials",
        ),
        ("RS256", &rs, RS256.into(), "in as alice"),
        ("RS256, another payload", &rs, format!("{}.AAAA", unsigned(&header("RS256"), &soon())), "BadCredentials"),
        ("PS256 for RS256", &rs, PS256.into(), "BadCredentials"),
        // The classic: the public key as the secret of an HMAC.
        (
            "the public key as a secret",
            &rs,
            signed(&header("HS256"), &soon(), sign_with(RSA_PUBLIC.as_bytes())),
            "BadCredentials",
        ),
        (
            "the public key as a secret, called RS256",
            &rs,
            signed(&header("RS256"), &soon(), sign_with(RSA_PUBLIC.as_bytes())),
            "BadCredentials",
        ),
    ];
    for (what, chain, text, expected) in cases {
        assert_eq!(chain.answer(&token(&text)), expected, "{what}");
    }
    // Every bit of the signature counts.
    let (message, signature) = good.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    for bit in 0..signature.len() * 8 {
        let mut wrong = signature.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        let text = format!("{message}.{}", URL_SAFE_NO_PAD.encode(wrong));
        assert_eq!(hs.answer(&token(&text)), "BadCredentials", "bit {bit}");
    }
}

#[test]
fn a_password_that_is_not_a_token_goes_to_the_next_authenticator_and_a_bad_token_does_not() {
    let chain = fixture().chain(
        "{chain: [{jwt: {algorithm: HS256, keyFile: secret, usernameClaim: sub}}, {anonymous: {withUsername: true}}]}",
    );
    for password in ["secret", "", "a.b", "a.b.c", "e30.e30.e30", "....", "a.b.c.d"] {
        assert_eq!(chain.answer(&user("bob", password)), "in as anonymous", "{password:?}");
    }
    assert_eq!(chain.answer(&token(&by_secret(&"f".repeat(32), &soon()))), "BadCredentials");
}

#[test]
fn elliptic_curves_verify_from_pem_and_from_key_sets() {
    let random = SystemRandom::new();
    let pem = |spki_prefix: &[u8], point: &[u8]| {
        let der = [spki_prefix, point].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    };
    let jwk = |kty: &str, crv: &str, x: &[u8], y: Option<&[u8]>| {
        let mut key = json!({"kty": kty, "crv": crv, "kid": "a", "x": URL_SAFE_NO_PAD.encode(x)});
        if let Some(y) = y {
            key["y"] = json!(URL_SAFE_NO_PAD.encode(y));
        }
        json!({"keys": [key]}).to_string()
    };
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let mut cases = Vec::new();
    let curves = [
        (
            "ES256",
            "P-256",
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            "3059301306072a8648ce3d020106082a8648ce3d030107034200",
        ),
        (
            "ES384",
            "P-384",
            &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            "3076301006072a8648ce3d020106052b81040022036200",
        ),
    ];
    for (name, crv, algorithm, prefix) in curves {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(point.len() / 2);
        let text = signed(&json!({"alg": name, "kid": "a"}), &soon(), |message| {
            pair.sign(&random, message).unwrap().as_ref().to_vec()
        });
        cases.push((name, pem(&hex(prefix), point), jwk("EC", crv, x, Some(y)), text));
    }
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let point = pair.public_key().as_ref();
    let text = signed(&json!({"alg": "EdDSA", "kid": "a"}), &soon(), |message| pair.sign(message).as_ref().to_vec());
    cases.push(("EdDSA", pem(&hex("302a300506032b6570032100"), point), jwk("OKP", "Ed25519", point, None), text));

    for (name, pem, jwks, text) in cases {
        let fixture = Fixture::with(&[("pem", &pem), ("jwks", &jwks)]);
        for source in ["keyFile: pem", "jwksFile: jwks"] {
            let yaml = format!("{{chain: [{{jwt: {{algorithm: {name}, {source}, usernameClaim: sub}}}}]}}");
            let chain = fixture.chain(&yaml);
            assert_eq!(chain.answer(&token(&text)), "in as alice", "{name} {source}");
            assert!(matches!(chain.begin(&token(&text)), Decision::Blocking(_)), "{name} on the event loop");
            let mut forged = text.clone().into_bytes();
            let at = forged.len() - 5;
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(chain.answer(&token(&String::from_utf8(forged).unwrap())), "BadCredentials", "{name} {source}");
        }
    }
}

#[test]
fn key_sets_choose_by_kid_and_rotate() {
    let yaml = "{chain: [{jwt: {algorithm: RS256, jwksFile: jwks.json, usernameClaim: sub}}]}";
    let mut fixture = fixture();
    let chain = fixture.chain(yaml);
    assert_eq!(chain.answer(&token(RS256)), "in as alice");
    let alice = chain.log_in(&token(RS256)).unwrap();
    assert!(chain.still_valid(&alice));

    // A key is added: connected clients stay valid.
    let mut set: Value = serde_json::from_str(RSA_JWKS).unwrap();
    let mut added = set["keys"][2].clone();
    added["kid"] = json!("k2");
    set["keys"].as_array_mut().unwrap().push(added);
    fixture.write("jwks.json", set.to_string().as_bytes());
    assert!(fixture.chain(yaml).still_valid(&alice));

    // Its own key is taken out: its kid means nothing any more, whatever other keys there are.
    set["keys"].as_array_mut().unwrap().remove(2);
    fixture.write("jwks.json", set.to_string().as_bytes());
    let chain = fixture.chain(yaml);
    assert!(!chain.still_valid(&alice));
    assert_eq!(chain.answer(&token(RS256)), "BadCredentials");
}

#[test]
fn the_principal_has_the_expiry_and_rules_of_the_token() {
    let chain =
        fixture().chain("{chain: [{jwt: {algorithm: HS256, keyFile: secret, usernameClaim: sub, aclClaim: acl}}]}");
    let login_with = |acl: Value| token(&by_secret(SECRET, &with(soon(), "acl", acl)));
    let login = login_with(json!({"publish": ["up/${clientid}/#"], "sub": ["down/#"]}));
    let principal = chain.log_in(&login).unwrap();
    let expires_in_ms = principal.expires_at.unwrap() - login.now;
    assert!((595_000..=600_000).contains(&expires_in_ms), "{expires_in_ms}");
    let acl = principal.claims_acl.unwrap();
    let subject = Subject { client_id: "c1", username: Some("alice"), address: None };
    let publishes = |topic: &str| acl.may_publish(subject, topic, QoS::AtMostOnce, false);
    let subscribes = |filter: &str| acl.may_subscribe(subject, filter, QoS::AtMostOnce);
    assert_eq!([publishes("up/c1/x"), publishes("up/c2/x"), publishes("down/x")], [true, false, false]);
    assert_eq!([subscribes("down/+"), subscribes("#"), subscribes("up/c1/x")], [true, false, false]);

    let list = json!([{"permission": "allow", "action": "publish", "topics": ["a"], "qos": [0]}]);
    assert!(chain.log_in(&login_with(list)).unwrap().claims_acl.is_some());
    for broken in [json!("#"), json!({"publish": "#"}), json!({"write": ["#"]}), json!({"pub": ["a/#/b"]}), json!([1])]
    {
        assert_eq!(chain.answer(&login_with(broken.clone())), "BadCredentials", "{broken}");
    }
    let lasting = fixture().chain("{chain: [{jwt: {algorithm: HS256, keyFile: secret, requireExpiry: false}}]}");
    let principal = lasting.log_in(&token(&by_secret(SECRET, &json!({})))).unwrap();
    assert_eq!((principal.expires_at, principal.username.as_deref()), (None, Some("device")));
}

#[test]
fn unusable_key_files_are_refused_with_a_reason() {
    let cases = [
        ("HS256, keyFile: f", "short", "f: the secret must have at least 32 bytes, it has 5"),
        ("HS256, keyFile: f", RSA_PUBLIC, "f: this algorithm needs a secret"),
        ("HS256, keyFile: f", "", "f: the secret must have at least 32 bytes, it has 0"),
        ("RS256, keyFile: f", "", "f: it contains no complete PEM section"),
        ("RS256, keyFile: f", &RSA_PUBLIC[..200], "f: it contains no complete PEM section"),
        ("ES256, keyFile: f", RSA_PUBLIC, "f: it contains no public key for ES256"),
        ("EdDSA, keyFile: f", RSA_PUBLIC, "f: it contains no public key for EdDSA"),
        ("RS256, jwksFile: f", &RSA_JWKS[..100], "f: invalid JSON"),
        ("RS256, jwksFile: f", "{}", "f: a JSON Web Key Set needs an array"),
        ("EdDSA, jwksFile: f", RSA_JWKS, "f: it contains no key for EdDSA"),
        ("ES256, jwksFile: f", RSA_JWKS, "f: keys[0]: `x` and `y` must have 32 bytes"),
        ("RS256", "", "jwt needs exactly one of `keyFile` and `jwksFile`"),
    ];
    for (declared, content, expected) in cases {
        let fixture = Fixture::with(&[("f", content)]);
        let message =
            fixture.try_chain(&format!("{{chain: [{{jwt: {{algorithm: {declared}}}}}]}}")).err().unwrap().to_string();
        assert!(message.contains(expected), "{declared}: {message}");
    }
}
