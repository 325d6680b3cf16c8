use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::*;

fn shown() -> Login {
    let der = CertificateDer::from_pem_slice(include_bytes!("device7.pem")).unwrap();
    Login { certificate: Some(PeerCertificate::parse(&der).unwrap()), ..user("alice", "secret") }
}

#[test]
fn the_declared_part_of_the_certificate_becomes_the_user_name() {
    let fixture = Fixture::with(&[("people", ALICE_7)]);
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
        let chain = fixture.chain(&yaml);
        assert_eq!(chain.answer(&shown()), expected, "{part}");
        assert!(chain.still_valid(&chain.log_in(&shown()).unwrap()), "{part}");
        assert_eq!(chain.answer(&user("alice", "secret")), "BadCredentials", "{part}, without a certificate");
    }
}

#[test]
fn a_certificate_without_the_declared_name_is_refused() {
    let fixture = Fixture::with(&[("people", ALICE_7)]);
    let chain = fixture.chain("{chain: [{clientCertificate: {username: dnsName}}, {anonymous: {withUsername: true}}]}");
    let named = Login { certificate: Some(PeerCertificate::named("proxied".into())), ..login() };
    assert_eq!(chain.answer(&named), "BadCredentials");
    let mut empty = shown();
    empty.certificate.as_mut().unwrap().subject_alt_names = vec![SubjectAltName::Dns(String::new())];
    assert_eq!(chain.answer(&empty), "BadCredentials");
    assert_eq!(fixture.chain("{chain: [{clientCertificate: {}}]}").answer(&named), "in as proxied");
}

#[test]
fn a_changed_mapping_or_an_authenticator_before_it_invalidates_clients() {
    let fixture = Fixture::with(&[("people", &ALICE_7.replace("alice", "device 7"))]);
    let by_name = fixture.chain("{chain: [{clientCertificate: {}}]}").log_in(&shown()).unwrap();
    let cases = [
        ("{chain: [{anonymous: {}}, {clientCertificate: {}}]}", true),
        ("{chain: [{clientCertificate: {username: subject}}]}", false),
        ("{chain: [{passwordFile: {file: people}}, {clientCertificate: {}}]}", true),
        ("{chain: [{anonymous: {withUsername: true}}]}", false),
    ];
    for (yaml, confirmed) in cases {
        assert_eq!(fixture.chain(yaml).still_valid(&by_name), confirmed, "{yaml}");
    }
    // A certificate authenticator is inserted before a password file: whether clients with a password have a
    // certificate is unknown.
    let fixture = Fixture::with(&[("people", ALICE_7)]);
    let by_password = fixture.chain("{chain: [{passwordFile: {file: people}}]}").log_in(&shown()).unwrap();
    assert!(
        !fixture.chain("{chain: [{clientCertificate: {}}, {passwordFile: {file: people}}]}").still_valid(&by_password)
    );
}
