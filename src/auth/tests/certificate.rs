use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::*;

fn shown() -> Knock {
    let der = CertificateDer::from_pem_slice(include_bytes!("device7.pem")).unwrap();
    Knock { certificate: Some(PeerCertificate::parse(&der).unwrap()), ..user("alice", "secret") }
}

#[test]
fn the_declared_part_of_the_certificate_becomes_the_user_name() {
    let house = House::with(&[("people", ALICE_7)]);
    let cases = [
        ("commonName", "in as device 7"),
        ("subject", "in as 1.2.840.113549.1.9.1=#160e6437406578616d706c652e636f6d,CN=device 7,O=Example\\, Inc.,C=DE"),
        ("dnsName", "in as d7.example.com"),
        ("email", "in as d7@example.com"),
        ("uri", "in as urn:dev:7"),
        ("connect", "in as alice"),
    ];
    for (part, expected) in cases {
        let yaml = format!("{{name: {part}, chain: [{{clientCertificate: {{username: {part}}}}}]}}");
        let door = house.door(&yaml);
        assert_eq!(door.answer(&shown()), expected, "{part}");
        assert!(door.confirms(&door.try_knock(&shown()).unwrap()), "{part}");
        assert_eq!(door.answer(&user("alice", "secret")), "BadCredentials", "{part}, without a certificate");
    }
}

#[test]
fn a_certificate_without_the_wanted_part_is_nobodys() {
    let house = House::with(&[("people", ALICE_7)]);
    let door = house.door("{chain: [{clientCertificate: {username: dnsName}}, {anonymous: {withUsername: true}}]}");
    let named = Knock { certificate: Some(PeerCertificate::named("proxied".into())), ..knock() };
    assert_eq!(door.answer(&named), "BadCredentials");
    let mut empty = shown();
    empty.certificate.as_mut().unwrap().subject_alt_names = vec![SubjectAltName::Dns(String::new())];
    assert_eq!(door.answer(&empty), "BadCredentials");
    assert_eq!(house.door("{chain: [{clientCertificate: {}}]}").answer(&named), "in as proxied");
}

#[test]
fn another_mapping_confirms_nobody_and_a_link_before_it_neither() {
    let house = House::with(&[("people", &ALICE_7.replace("alice", "device 7"))]);
    let by_name = house.door("{chain: [{clientCertificate: {}}]}").try_knock(&shown()).unwrap();
    let cases = [
        ("{chain: [{anonymous: {}}, {clientCertificate: {}}]}", true),
        ("{chain: [{clientCertificate: {username: subject}}]}", false),
        ("{chain: [{passwordFile: {file: people}}, {clientCertificate: {}}]}", true),
        ("{chain: [{anonymous: {withUsername: true}}]}", false),
    ];
    for (yaml, confirmed) in cases {
        assert_eq!(house.door(yaml).confirms(&by_name), confirmed, "{yaml}");
    }
    // A certificate link put before a password file: whether those who came by password have one is not known.
    let house = House::with(&[("people", ALICE_7)]);
    let by_password = house.door("{chain: [{passwordFile: {file: people}}]}").try_knock(&shown()).unwrap();
    assert!(!house.door("{chain: [{clientCertificate: {}}, {passwordFile: {file: people}}]}").confirms(&by_password));
}
