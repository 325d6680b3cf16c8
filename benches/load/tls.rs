//! A self-signed certificate for the TLS rows, made anew for each run of the bench.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

/// Certificate and key in files, and what the clients trust.
pub struct Certificates {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub client: Arc<ClientConfig>,
    _dir: TempDir,
}

impl Certificates {
    /// Asks the `openssl` command for an authority and an ECDSA P-256 certificate for `localhost`.
    pub fn make() -> Result<Certificates> {
        let dir = TempDir::with_prefix("weir-bench-tls-").context("a directory for the certificate")?;
        let at = |name: &str| dir.path().join(name);
        fs::write(at("extensions"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")?;
        let ec = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        let steps = [
            format!("req -x509 {ec} -days 2 -subj /CN=bench-authority -keyout ca.key -out ca.pem"),
            format!("req {ec} -subj /CN=localhost -keyout server.key -out server.csr"),
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions \
             -out server.pem"
                .to_owned(),
        ];
        for step in steps {
            let mut command = Command::new("openssl");
            command.args(step.split_whitespace()).current_dir(dir.path()).stdin(Stdio::null());
            let output = command.output().context("running openssl")?;
            ensure!(output.status.success(), "openssl {step}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(at("ca.pem")).context("ca.pem")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Certificates { certificate: at("server.pem"), key: at("server.key"), client: Arc::new(client), _dir: dir })
    }
}
