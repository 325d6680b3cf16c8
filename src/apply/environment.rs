//! Checks this machine against a declaration: the environment tier of `weir validate`. Read-only.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;

use super::files::{FileContents, FileSystem, ReadFiles};
use super::interceptors::InterceptorRegistry;
use super::{bridges, compile, port_holder, tls};
use crate::auth::{AuthCompiler, AuthCounters, AuthError, validity};
use crate::net::bridge::probe;
use crate::net::{RSA_BITS_ADVISED, rsa_key_bits};
use weir_bridge::FailureCause;
use weir_broker::EndpointId;
use weir_declare::config::{
    Auth, BindAddress, Bridge, Declared, DocumentIdentity, Endpoint, FileRef, Kind, Name, NodeContext, Origin,
    SecretRef, Severity,
};
use weir_declare::reconcile::{EffectiveBridge, bridge_files};

/// Days before a certificate expires from which on there is a warning.
const EXPIRES_SOON_DAYS: i64 = 14;

/// A reason why a declaration would not take effect on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentProblem {
    pub identity: DocumentIdentity,
    /// Where in its document: `/endpoint/sslConfig/certFile`.
    pub pointer: String,
    pub severity: Severity,
    pub message: String,
    pub help: Option<String>,
}

/// Every problem of `declared` on this machine for a node such as `node`.
/// `system`: the files and variables that the node's documents may refer to.
pub fn environment_problems(
    declared: &Declared,
    node: &NodeContext,
    system: &FileSystem,
    now: OffsetDateTime,
) -> Vec<EnvironmentProblem> {
    let mut found = Vec::new();
    let held = declared.endpoints.values().filter(|endpoint| endpoint.enabled && endpoint.matches_labels(&node.labels));
    let (mut auths, mut bridges) = (BTreeSet::new(), BTreeSet::new());
    for endpoint in held {
        let mut findings = Findings::new(Kind::Endpoint, &endpoint.name, system, &mut found);
        address(&mut findings, endpoint, node);
        certificates(&mut findings, endpoint, now);
        interceptors(&mut findings, endpoint);
        if endpoint.enable_auth {
            auths.insert(endpoint.auth_name());
        }
        if endpoint.enable_bridge {
            bridges.extend(&endpoint.bridges);
        }
    }
    for auth in auths.into_iter().filter_map(|name| declared.auths.get(name)) {
        credentials(&mut Findings::new(Kind::Auth, &auth.name, system, &mut found), auth);
    }
    for bridge in bridges.into_iter().filter_map(|name| declared.bridges.get(name)).filter(|bridge| bridge.enabled) {
        remote(&mut Findings::new(Kind::Bridge, &bridge.name, system, &mut found), bridge);
    }
    found
}

/// Collects the problems of one declaration.
struct Findings<'a> {
    identity: DocumentIdentity,
    system: FileSystem,
    found: &'a mut Vec<EnvironmentProblem>,
}

impl<'a> Findings<'a> {
    fn new(kind: Kind, name: &Name, system: &FileSystem, found: &'a mut Vec<EnvironmentProblem>) -> Self {
        Self { identity: DocumentIdentity::new(kind, name.clone()), system: system.clone(), found }
    }

    fn add(&mut self, severity: Severity, pointer: &str, message: String, help: Option<&str>) {
        self.found.push(EnvironmentProblem {
            identity: self.identity.clone(),
            pointer: pointer.to_owned(),
            severity,
            message,
            help: help.map(str::to_owned),
        });
    }

    fn error(&mut self, pointer: &str, message: impl Into<String>, help: &str) {
        self.add(Severity::Error, pointer, message.into(), Some(help));
    }

    /// Reads a file; adds a problem where it cannot be read.
    fn file(&mut self, origin: &Origin, pointer: &str, file: &FileRef) -> Option<Vec<u8>> {
        let path = origin.resolve(file);
        let read = self.system.read(&path);
        read.map_err(|why| {
            let message = format!("{}: {why}", path.display());
            self.add(Severity::Error, pointer, message, why.help());
        })
        .ok()
    }
}

/// Binds the address for a moment.
fn address(findings: &mut Findings<'_>, endpoint: &Endpoint, node: &NodeContext) {
    let address = endpoint.listen.bind_address(node.default_host);
    match &address {
        BindAddress::Unix(path) => unix_socket(findings, path),
        BindAddress::Tcp(socket) => {
            let Err(error) = TcpListener::bind(socket) else { return };
            let (pointer, message, help) = match error.kind() {
                ErrorKind::AddrInUse => return in_use(findings, &address),
                ErrorKind::AddrNotAvailable => (
                    "/endpoint/host",
                    format!("this machine has no address {}", socket.ip()),
                    "use an address of this machine",
                ),
                ErrorKind::PermissionDenied => {
                    let help = "grant CAP_NET_BIND_SERVICE, lower net.ipv4.ip_unprivileged_port_start, or choose a port from 1024 on";
                    ("/endpoint/port", format!("{socket} is a privileged port, and this user may not bind it"), help)
                }
                _ => ("/endpoint/port", format!("{socket} cannot be bound: {error}"), "resolve the system's error"),
            };
            findings.error(pointer, message, help);
        }
    }
}

/// Held by another program, or by the very broker that these declarations are for.
fn in_use(findings: &mut Findings<'_>, address: &BindAddress) {
    let holder = port_holder::describe(&compile::socket_key(address)).unwrap_or_else(|| "another process".to_owned());
    let (severity, help) = if holder.ends_with("(weir)") {
        (Severity::Warning, "ignore this if it is the broker that these documents are for")
    } else {
        (Severity::Error, "stop that process, or choose another `port`")
    };
    findings.add(severity, "/endpoint/port", format!("{address} is in use by {holder}"), Some(help));
}

fn unix_socket(findings: &mut Findings<'_>, path: &Path) {
    let parent = path.parent().unwrap_or(Path::new("/"));
    if !parent.is_dir() {
        let help = "create it, writable by the user that the broker runs as";
        findings.error("/endpoint/host", format!("{} is no directory", parent.display()), help);
    }
    if path.symlink_metadata().is_ok_and(|meta| !meta.file_type().is_socket()) {
        findings.error("/endpoint/host", format!("{} exists and is not a socket", path.display()), "move it away");
    }
}

/// Loads the files that `sslConfig` names, and checks when the certificates expire.
fn certificates(findings: &mut Findings<'_>, endpoint: &Endpoint, now: OffsetDateTime) {
    let Some(ssl) = &endpoint.ssl_config else { return };
    let own = [(Some(&ssl.cert_file), "certFile"), (Some(&ssl.key_file), "keyFile")];
    let trust = [(ssl.ca_file.as_ref(), "caFile"), (ssl.crl_file.as_ref(), "crlFile")];
    let own = own.into_iter().chain(trust).filter_map(|(file, field)| Some((file?, field.to_owned())));
    let by_name = ssl.sni.iter().enumerate().flat_map(|(at, sni)| {
        [(&sni.cert_file, format!("sni/{at}/certFile")), (&sni.key_file, format!("sni/{at}/keyFile"))]
    });
    let mut paths = Vec::new();
    let mut complete = true;
    for (file, field) in own.chain(by_name) {
        let pointer = format!("/endpoint/sslConfig/{field}");
        match findings.file(&endpoint.origin, &pointer, file) {
            Some(pem) if !field.ends_with("keyFile") => {
                time_left(findings, &pointer, &pem, now);
                key_size(findings, &pointer, &pem);
            }
            Some(_) => {}
            None => complete = false,
        }
        paths.push(endpoint.origin.resolve(file));
    }
    // Unreadable files are reported above.
    if !complete {
        return;
    }
    let contents = FileContents::read(&mut findings.system, paths.iter());
    if let Err(why) = tls::load(endpoint, ssl, &contents) {
        findings.error(
            "/endpoint/sslConfig",
            why.to_string(),
            "`openssl x509 -in FILE -text` shows the content of a file",
        );
    }
}

fn time_left(findings: &mut Findings<'_>, pointer: &str, pem: &[u8], now: OffsetDateTime) {
    // `tls::load` reports a file that holds no certificate.
    let times = CertificateDer::pem_slice_iter(pem).flatten().filter_map(|der| validity(&der).ok());
    for (begins, ends) in times {
        if ends < now {
            findings.error(pointer, format!("a certificate in it expired on {}", ends.date()), "renew it");
        } else if begins > now {
            let message = format!("a certificate in it is not valid before {}", begins.date());
            findings.error(pointer, message, "wait, or correct the clock");
        } else if (ends - now).whole_days() < EXPIRES_SOON_DAYS {
            let message = format!("a certificate in it expires on {}", ends.date());
            findings.add(Severity::Warning, pointer, message, Some("renew it"));
        }
    }
}

fn key_size(findings: &mut Findings<'_>, pointer: &str, pem: &[u8]) {
    if let Some(bits) = rsa_key_bits(pem).filter(|bits| *bits > RSA_BITS_ADVISED) {
        let message = format!("its RSA key has {bits} bits: TLS handshakes take long, and a flood of them costs more");
        findings.add(Severity::Warning, pointer, message, Some("use an ECDSA key (P-256), or RSA with 2048 bits"));
    }
}

/// The program that embeds the broker registers them; this one cannot know.
fn interceptors(findings: &mut Findings<'_>, endpoint: &Endpoint) {
    if let Err(why) = InterceptorRegistry::default().resolve(&endpoint.interceptors) {
        findings.add(Severity::Note, "/endpoint/interceptors", why.to_string(), None);
    }
}

/// Compiles an auth document with its files.
fn credentials(findings: &mut Findings<'_>, auth: &Arc<Auth>) {
    let system = findings.system.clone();
    let help = Cell::new(None);
    let read = |path: &Path| {
        let content = system.clone().read(path).map(Arc::from);
        content.map_err(|why| {
            help.set(why.help());
            format!("{}: {why}", path.display())
        })
    };
    let compiler = AuthCompiler::new(findings.system.variables(), &AuthCounters::default());
    let compiled = compiler.compile(true, Ok(auth), &Default::default(), &read);
    let Err(error) = compiled else { return };
    let AuthError::Chain(errors) = error else {
        return findings.add(Severity::Error, "/auth/chain", error.to_string(), help.get());
    };
    for error in errors {
        if error.is_unregistered() {
            // The program that embeds the broker has it; this one cannot know.
            findings.add(Severity::Note, "/auth/chain", error.to_string(), None);
        } else {
            findings.add(Severity::Error, "/auth/chain", error.to_string(), None);
        }
    }
}

/// Checks the files and variables of a bridge, and connects to the other broker.
fn remote(findings: &mut Findings<'_>, bridge: &Arc<Bridge>) {
    let before = findings.found.len();
    let files =
        [("caFile", &bridge.tls.ca_file), ("certFile", &bridge.tls.cert_file), ("keyFile", &bridge.tls.key_file)];
    for (field, file) in files {
        if let Some(file) = file {
            findings.file(&bridge.origin, &format!("/bridge/tls/{field}"), file);
        }
    }
    match &bridge.password {
        Some(SecretRef::File(file)) => drop(findings.file(&bridge.origin, "/bridge/password", file)),
        Some(SecretRef::Env(name)) => {
            if let Err(why) = findings.system.variables.read(name) {
                let help = "set it for the broker; it may be unset on this machine";
                findings.error("/bridge/password", why.to_string(), help);
            }
        }
        None => {}
    }
    // Unreadable files are reported above.
    if findings.found.len() == before {
        connects(findings, bridge);
    }
}

/// Connects as the bridge would, under another client id.
fn connects(findings: &mut Findings<'_>, bridge: &Arc<Bridge>) {
    let paths: Vec<_> = bridge_files(bridge).map(|(path, _)| path).collect();
    let contents = FileContents::read(&mut findings.system, paths.iter());
    let effective = EffectiveBridge {
        bridge: Arc::clone(bridge),
        namespace: Arc::from(""),
        durable: false,
        files: contents.digests.clone(),
    };
    let identity = bridges::Identity { node: "validate", client_prefix: "validate", loop_secret: 0 };
    let settings = match bridges::settings(&effective, EndpointId(0), 0, &identity, &contents) {
        Ok(settings) => settings,
        Err(why) => {
            return findings.error(
                "/bridge/tls",
                why.to_string(),
                "`openssl x509 -in FILE -text` shows the content of a file",
            );
        }
    };
    let outcomes = match probe(&settings) {
        Ok(outcomes) => outcomes,
        Err(error) => return findings.error("/bridge/address", format!("cannot be checked: {error}"), HELP_SYSTEM),
    };
    for (at, (address, outcome)) in outcomes.into_iter().enumerate() {
        let Err(failure) = outcome else { continue };
        let pointer = format!("/bridge/address/{at}");
        let (severity, help) = match failure.cause {
            // The bridge and its messages wait for the other broker.
            FailureCause::Unreachable | FailureCause::TimedOut | FailureCause::Lost => {
                (Severity::Warning, "ignore this if it starts later, or is reachable from the broker's machine only")
            }
            _ => (Severity::Error, "see the other broker's log, and `username`, `password` and `tls`"),
        };
        findings.add(severity, &pointer, format!("{address}: {}", failure.message), Some(help));
    }
}

const HELP_SYSTEM: &str = "resolve the system's error";
