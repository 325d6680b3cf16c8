//! TLS: certificates made on the spot, mutual TLS, SNI, ALPN, resumption.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, HandshakeKind};
use weir_broker::Principal;
use weirmq::auth::{Anonymous, Authenticate, Credentials, Decision, PeerCertificate, SubjectAltName};
use weirmq::net::{ClientAuth, Identity, ListenerPolicy, TlsSettings, Transport};

use super::client::{self, Client};
use super::plane::{Plane, policy, policy_with};
use crate::support::stream;

/// A certificate authority and its certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

pub struct Issued {
    pub chain_pem: String,
    pub key_pem: String,
    pub der: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "test authority");
        Authority { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    pub fn issue(&self, common_name: &str, names: &[&str], serial: u64) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "test");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        let issuer: &Issuer<'_, KeyPair> = &self.issuer;
        let certificate = params.signed_by(&key, issuer).unwrap();
        Issued { chain_pem: certificate.pem(), key_pem: key.serialize_pem(), der: certificate.der().clone(), key }
    }

    pub fn revoke(&self, serials: &[u64], until: i32) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer: &Issuer<'_, KeyPair> = &self.issuer;
        params.signed_by(issuer).unwrap().pem().unwrap()
    }
}

impl Issued {
    pub fn identity(&self) -> Identity<'_> {
        Identity { chain_pem: self.chain_pem.as_bytes(), key_pem: self.key_pem.as_bytes() }
    }
}

pub fn settings(issued: &Issued) -> TlsSettings<'_> {
    TlsSettings {
        identity: issued.identity(),
        sni: Vec::new(),
        client_auth: ClientAuth::None,
        only_tls13: false,
        websocket: false,
    }
}

pub fn tls_policy(id: u32, settings: &TlsSettings<'_>) -> ListenerPolicy {
    ListenerPolicy { transport: Transport::Tls(settings.build().unwrap()), ..policy(id) }
}

/// Admits every client and records its certificate.
#[derive(Default)]
struct Guestbook(Mutex<Vec<Option<PeerCertificate>>>);

impl Authenticate for Guestbook {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Decision {
        assert!(credentials.tls);
        self.0.lock().unwrap().push(credentials.certificate.cloned());
        Anonymous::new().authenticate(credentials)
    }
    fn still_valid(&self, _principal: &Principal, _client_id: &str) -> bool {
        true
    }
}

pub fn with_certificate(ca: &Authority, client: &Issued) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(client.key.serialize_der()).unwrap();
    builder.with_root_certificates(roots).with_client_auth_cert(vec![client.der.clone()], key).unwrap()
}

/// Whether a client with this configuration gets in.
pub fn enters(address: SocketAddr, config: ClientConfig) -> bool {
    let mut stream = stream::tls(stream::tcp(address), &Arc::new(config), "localhost");
    let sent = stream.write_all(&client::connect(4, "c")).and_then(|()| stream.flush());
    let mut connack = [0; 4];
    sent.and_then(|()| stream.read_exact(&mut connack)).is_ok_and(|()| connack == [0x20, 2, 0, 0])
}

#[test]
fn client_certificates_are_verified_and_passed_to_authentication() {
    let (ca, other_ca) = (Authority::new(), Authority::new());
    let server = ca.issue("server", &["localhost"], 1);
    let good = ca.issue("device-1", &["device-1.example", "192.0.2.7"], 0x00AB_CDEF);
    let revoked = ca.issue("device-2", &[], 3);
    let foreign = other_ca.issue("device-1", &[], 4);
    let (ca_pem, crl) = (ca.pem(), ca.revoke(&[3], 2100));
    for required in [true, false] {
        let guests = Arc::new(Guestbook::default());
        let client_auth = ClientAuth::Asked { required, ca_pem: ca_pem.as_bytes(), crl_pem: Some(crl.as_bytes()) };
        let tls = TlsSettings { client_auth, ..settings(&server) }.build().unwrap();
        let plane = Plane::start(2);
        let authenticate: Arc<dyn Authenticate> = guests.clone();
        let address =
            plane.listen_tcp(ListenerPolicy { transport: Transport::Tls(tls), ..policy_with(1, authenticate) });
        assert!(enters(address, with_certificate(&ca, &good)));
        assert!(!enters(address, with_certificate(&ca, &revoked)), "revoked");
        assert!(!enters(address, with_certificate(&ca, &foreign)), "of another authority");
        assert_eq!(enters(address, stream::tls_config(&ca.der())), !required, "without a certificate");
        plane.until(1, "refusals", |stats| stats.refused.tls >= 2);
        let guests = guests.0.lock().unwrap();
        let shown = guests[0].as_ref().expect("a certificate");
        assert_eq!(shown.common_name.as_deref(), Some("device-1"));
        let names = [SubjectAltName::Dns("device-1.example".into()), SubjectAltName::Ip([192, 0, 2, 7].into())];
        assert_eq!(shown.subject_alt_names, names);
        assert_eq!(shown.serial, [0xAB, 0xCD, 0xEF]);
        assert_eq!(shown.der, *good.der);
        assert_eq!(guests.len(), if required { 1 } else { 2 });
    }
}

#[test]
fn an_expired_crl_refuses_all_client_certificates() {
    let ca = Authority::new();
    let (server, device) = (ca.issue("server", &["localhost"], 1), ca.issue("device-1", &[], 2));
    let (ca_pem, crl) = (ca.pem(), ca.revoke(&[], 2021));
    let client_auth = ClientAuth::Asked { required: true, ca_pem: ca_pem.as_bytes(), crl_pem: Some(crl.as_bytes()) };
    let plane = Plane::start(1);
    let address = plane.listen_tcp(tls_policy(1, &TlsSettings { client_auth, ..settings(&server) }));
    assert!(!enters(address, with_certificate(&ca, &device)));
}

#[test]
fn unusable_tls_files_are_refused_with_a_reason() {
    let ca = Authority::new();
    let (server, other) = (ca.issue("server", &["localhost"], 1), ca.issue("other", &["localhost"], 2));
    let ca_pem = ca.pem();
    let asked = |ca_pem: &'static [u8], crl_pem| ClientAuth::Asked { required: true, ca_pem, crl_pem };
    let ca_static: &'static [u8] = ca_pem.leak().as_bytes();
    let half = &server.chain_pem.as_bytes()[..200];
    let mismatch = Identity { chain_pem: server.chain_pem.as_bytes(), key_pem: other.key_pem.as_bytes() };
    let cases: Vec<(&str, TlsSettings<'_>, &str)> = vec![
        (
            "no certificate",
            TlsSettings { identity: Identity { chain_pem: b"", ..server.identity() }, ..settings(&server) },
            "the certificate file contains no PEM section",
        ),
        (
            "half a certificate",
            TlsSettings { identity: Identity { chain_pem: half, ..server.identity() }, ..settings(&server) },
            "the certificate file is not valid PEM",
        ),
        (
            "no key",
            TlsSettings { identity: Identity { key_pem: b"\n", ..server.identity() }, ..settings(&server) },
            "the key file contains no PEM section",
        ),
        ("another's key", TlsSettings { identity: mismatch, ..settings(&server) }, "does not belong"),
        (
            "empty CA file",
            TlsSettings { client_auth: asked(b"", None), ..settings(&server) },
            "the CA file contains no PEM section",
        ),
        (
            "empty CRL file",
            TlsSettings { client_auth: asked(ca_static, Some(b"")), ..settings(&server) },
            "the CRL file contains no PEM section",
        ),
        (
            "CRL that is none",
            TlsSettings { client_auth: asked(ca_static, Some(ca_static)), ..settings(&server) },
            "the CRL file contains no PEM section",
        ),
        (
            "bad server name",
            TlsSettings { sni: vec![(vec!["*".into()], server.identity())], ..settings(&server) },
            "is not a valid server name",
        ),
    ];
    for (name, settings, expected) in cases {
        let error = settings.build().err().unwrap_or_else(|| panic!("{name} was accepted")).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn the_certificate_is_selected_by_sni() {
    let ca = Authority::new();
    let default = ca.issue("default", &["localhost"], 1);
    let one = ca.issue("one", &["one.example"], 2);
    let wild = ca.issue("wild", &["a.wild.example"], 3);
    let sni = vec![(vec!["One.example".into()], one.identity()), (vec!["*.wild.example".into()], wild.identity())];
    let plane = Plane::start(1);
    let address = plane.listen_tcp(tls_policy(1, &TlsSettings { sni, ..settings(&default) }));
    let config = Arc::new(stream::tls_config(&ca.der()));
    for (name, expected) in [("localhost", &default), ("one.example", &one), ("a.wild.example", &wild)] {
        let mut stream = stream::tls(stream::tcp(address), &config, name);
        stream.conn.complete_io(&mut stream.sock).unwrap();
        assert_eq!(stream.conn.peer_certificates().unwrap()[0], expected.der, "{name}");
    }
}

#[test]
fn alpn_selects_mqtt_if_the_client_offers_it() {
    let ca = Authority::new();
    let server = ca.issue("server", &["localhost"], 1);
    let plane = Plane::start(1);
    let address = plane.listen_tcp(tls_policy(1, &settings(&server)));
    for (offered, enters_with) in [(&["mqtt"][..], true), (&["h2", "mqtt"], true), (&[], true), (&["h2"], false)] {
        let mut config = stream::tls_config(&ca.der());
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        assert_eq!(enters(address, config), enters_with, "{offered:?}");
    }
}

#[test]
fn tls_sessions_resume_until_the_configuration_changes() {
    let ca = Authority::new();
    let server = ca.issue("server", &["localhost"], 1);
    let plane = Plane::start(2);
    let address = plane.listen_tcp(tls_policy(1, &settings(&server)));
    let other = plane.listen_tcp(tls_policy(2, &settings(&server)));
    let config = Arc::new(stream::tls_config(&ca.der()));
    let kind = |address| {
        let mut stream = stream::tls(stream::tcp(address), &config, "localhost");
        stream.write_all(&client::connect(4, "c")).unwrap();
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).unwrap();
        stream.conn.handshake_kind().unwrap()
    };
    assert_eq!(kind(address), HandshakeKind::Full);
    assert_eq!(kind(address), HandshakeKind::Resumed);
    assert_ne!(kind(other), HandshakeKind::Resumed, "another configuration has another ticket key");
}

#[test]
fn a_client_below_the_minimum_tls_version_is_refused() {
    let ca = Authority::new();
    let server = ca.issue("server", &["localhost"], 1);
    let plane = Plane::start(1);
    let both = plane.listen_tcp(tls_policy(1, &settings(&server)));
    let only_13 = plane.listen_tcp(tls_policy(2, &TlsSettings { only_tls13: true, ..settings(&server) }));
    let config = |version: &'static rustls::SupportedProtocolVersion| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    let old = || config(&rustls::version::TLS12);
    assert!(enters(both, old()));
    assert!(!enters(only_13, old()));
    assert!(enters(only_13, config(&rustls::version::TLS13)));
    let stream = stream::tls(stream::tcp(both), &Arc::new(config(&rustls::version::TLS13)), "localhost");
    let mut client = Client::enter(stream, 5, "c");
    client.ping();
}
