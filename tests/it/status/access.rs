//! Access to the status server: tokens, certificates, origins.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weirmq::status::{AccessOptions, Secret, StatusOptions, StatusServer, TlsFiles};

use super::client::{Answered, get, request};
use super::fake;

const TOKEN: &str = "correct-horse-battery";

fn serve(access: AccessOptions) -> StatusServer {
    fake::serve_with(&fake::Fake::new(), StatusOptions { access, ..StatusOptions::default() })
}

fn token(directory: &Path) -> Secret {
    let path = directory.join("token");
    std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
    Secret::File(path)
}

#[tokio::test]
async fn with_a_token_only_probes_and_the_empty_page_are_open() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(AccessOptions { token: Some(token(directory.path())), ..AccessOptions::default() });
    let addr = server.local_addr();
    for path in [
        "/livez",
        "/readyz",
        "/",
        "/app.js",
        "/access.js",
        "/client",
        "/elements.js",
        "/app.css",
        "/favicon.svg",
        "/openapi.json",
    ] {
        assert_eq!(get(addr, path).await.status, 200, "{path}");
    }
    for path in weirmq::status::paths().filter(|path| path.starts_with("/api/") || *path == "/metrics") {
        let refused = get(addr, path).await;
        assert_eq!(
            (refused.status, refused.header("www-authenticate")),
            (401, Some("Bearer realm=\"weir\"")),
            "{path}"
        );
    }
    for wrong in ["Bearer", "Bearer wrong-horse-battery", "Basic Y29ycmVjdA==", TOKEN] {
        let headers = [("Authorization", wrong)];
        assert_eq!(request(addr, "GET", "/api/source", &headers, "").await.status, 401, "{wrong}");
    }
    for right in [format!("Bearer {TOKEN}"), format!("bearer  {TOKEN}")] {
        let headers = [("Authorization", right.as_str())];
        assert_eq!(request(addr, "GET", "/api/source", &headers, "").await.status, 200, "{right}");
    }
}

#[tokio::test]
async fn pages_of_other_origins_read_nothing_unless_it_is_declared() {
    let closed = serve(AccessOptions::default());
    let here = [("Origin", "https://grafana.example.com")];
    let answer = request(closed.local_addr(), "GET", "/api/source", &here, "").await;
    assert_eq!((answer.header("access-control-allow-origin"), answer.header("vary")), (None, None));

    let origins = vec!["https://grafana.example.com".to_owned()];
    let open = serve(AccessOptions { cors_origins: origins, ..AccessOptions::default() });
    let answer = request(open.local_addr(), "GET", "/api/source", &here, "").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://grafana.example.com"));
    assert_eq!(answer.header("vary"), Some("origin"));
    let elsewhere = [("Origin", "https://evil.example.com")];
    let answer = request(open.local_addr(), "GET", "/api/source", &elsewhere, "").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    let asks = [here[0], ("Access-Control-Request-Method", "GET")];
    let answer = request(open.local_addr(), "OPTIONS", "/api/source", &asks, "").await;
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET, HEAD, OPTIONS"));
    assert!(answer.header("access-control-allow-headers").unwrap().contains("authorization"));
}

/// An authority, the server's certificate and a caller's, as files.
struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        for (name, usage) in
            [("server", ExtendedKeyUsagePurpose::ServerAuth), ("caller", ExtendedKeyUsagePurpose::ClientAuth)]
        {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.extended_key_usages = vec![usage];
            let certificate = params.signed_by(&key, &issuer).unwrap();
            std::fs::write(directory.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(directory.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn server(&self, client_ca: bool) -> TlsFiles {
        TlsFiles {
            cert: self.path("server.pem"),
            key: self.path("server.key"),
            client_ca: client_ca.then(|| self.path("ca.pem")),
        }
    }

    async fn get(&self, addr: SocketAddr, target: &str, identified: bool) -> Answered {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = if identified {
            let chain = vec![CertificateDer::from_pem_file(self.path("caller.pem")).unwrap()];
            let key = PrivateKeyDer::from_pem_file(self.path("caller.key")).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        let wire = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(wire.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The server may end without a close_notify.
        let _ = stream.read_to_end(&mut answer).await;
        Answered::parse(&answer)
    }
}

#[tokio::test]
async fn over_tls_a_client_certificate_gives_access() {
    let files = Certificates::new();
    let open = serve(AccessOptions { tls: Some(files.server(false)), ..AccessOptions::default() });
    assert_eq!(files.get(open.local_addr(), "/api/source", false).await.status, 200);

    let mutual = serve(AccessOptions { tls: Some(files.server(true)), ..AccessOptions::default() });
    assert_eq!(files.get(mutual.local_addr(), "/livez", false).await.status, 200);
    let refused = files.get(mutual.local_addr(), "/api/source", false).await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, None));
    assert!(refused.text().contains("a client certificate"), "{}", refused.text());
    assert_eq!(files.get(mutual.local_addr(), "/api/source", true).await.status, 200);
}

#[tokio::test]
async fn an_unusable_file_is_refused_at_start_with_its_name() {
    let files = Certificates::new();
    std::fs::write(files.path("short"), "hunter2").unwrap();
    let cases = [
        (
            AccessOptions { token: Some(Secret::File(files.path("short"))), ..AccessOptions::default() },
            "short: the secret has 7 bytes",
        ),
        (
            AccessOptions {
                tls: Some(TlsFiles { key: files.path("caller.key"), ..files.server(false) }),
                ..AccessOptions::default()
            },
            "caller.key",
        ),
        (
            AccessOptions {
                tls: Some(TlsFiles { cert: files.path("short"), ..files.server(false) }),
                ..AccessOptions::default()
            },
            "short: it contains no certificate",
        ),
    ];
    for (access, expected) in cases {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let options = StatusOptions { access, ..StatusOptions::default() };
        let error = weirmq::status::serve(listener, fake::Fake::new(), options).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
    }
}
