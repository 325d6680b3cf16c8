//! Connects a client: credentials, TLS, and what a server must be able to do.

use std::path::Path;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use tokio::sync::mpsc;

use super::error::{EngineError, SERVER_VERSION_MIN};
use super::events::EngineConnection;
use super::options::{Credentials, EngineOptions};

/// How long one server may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// The interval of pings. A server that leaves two of them without an answer is left, so a stopped server costs 3 s.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// The longest pause before an attempt to connect.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Commands that wait for the connection: for links, this many envelopes.
const LINK_COMMANDS_MAX: usize = 512;
const STREAM_COMMANDS_MAX: usize = 2048;
/// Messages that wait for a reader, per subscription. More are dropped and counted.
const SUBSCRIPTION_MESSAGES_MAX: usize = 1024;

/// A client, and what it reports of its connection.
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) reports: mpsc::UnboundedReceiver<Event>,
}

/// The addresses of the servers.
///
/// # Errors
/// There is none, or one is not an address.
pub(super) fn addresses(urls: &[String]) -> Result<Vec<ServerAddr>, EngineError> {
    if urls.is_empty() {
        return Err(EngineError::NoServers);
    }
    let parse = |url: &String| {
        let differs = |reason: &str| EngineError::ServerUrl { url: without_password(url), reason: reason.to_owned() };
        let address: ServerAddr = url.parse().map_err(|error: std::io::Error| differs(&error.to_string()))?;
        match address.scheme() {
            "nats" | "tls" if !address.host().is_empty() => Ok(address),
            "nats" | "tls" => Err(differs("it has no host")),
            _ => Err(differs("its scheme is neither nats nor tls")),
        }
    };
    urls.iter().map(parse).collect()
}

fn without_password(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 < at => format!("{}...{}", &url[..scheme + 3], &url[at..]),
        _ => url.to_owned(),
    }
}

fn shown(address: &ServerAddr) -> String {
    format!("{}://{}:{}", address.scheme(), address.host(), address.port())
}

/// Connects to one of the servers.
///
/// # Errors
/// None can be reached, the credentials are refused, a file cannot be read, or the server is too old.
pub(super) async fn connect(
    options: &EngineOptions,
    connection: EngineConnection,
    servers: &[ServerAddr],
) -> Result<Connected, EngineError> {
    let (sender, reports) = mpsc::unbounded_channel();
    let prepared = prepare(options, connection, servers).await?;
    let prepared = prepared.event_callback(move |event| {
        // The receiver has ended when the engine has.
        let _ = sender.send(event);
        std::future::ready(())
    });
    let client = match prepared.connect(servers).await {
        Ok(client) => client,
        Err(error) => return Err(explain(options, connection, servers, &error).await),
    };
    check_version(&client)?;
    Ok(Connected { client, reports })
}

async fn prepare(
    options: &EngineOptions,
    connection: EngineConnection,
    servers: &[ServerAddr],
) -> Result<ConnectOptions, EngineError> {
    let capacity = match connection {
        EngineConnection::Links => LINK_COMMANDS_MAX,
        EngineConnection::Streams => STREAM_COMMANDS_MAX,
    };
    let mut prepared = ConnectOptions::new()
        .name(format!("weir {}/{} {}", options.cluster, options.node, connection.as_str()))
        .connection_timeout(CONNECT_WITHIN)
        .ping_interval(PING_INTERVAL)
        .client_capacity(capacity)
        .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
        .reconnect_delay_callback(reconnect_pause);
    prepared = match &options.credentials {
        Credentials::None => match servers.iter().find(|server| server.has_user_pass()) {
            Some(server) => prepared.user_and_password(
                server.username().unwrap_or_default().to_owned(),
                server.password().unwrap_or_default().to_owned(),
            ),
            None => prepared,
        },
        Credentials::User { user, password } => prepared.user_and_password(user.clone(), password.clone()),
        Credentials::Token(token) => prepared.token(token.clone()),
        Credentials::NkeySeedFile(path) => prepared.nkey(seed(path).await?),
        Credentials::CredsFile(path) => {
            let text = read(path).await?;
            let invalid = |error: std::io::Error| EngineError::File { path: path.clone(), reason: error.to_string() };
            prepared.credentials(&text).map_err(invalid)?
        }
    };
    // Servers that are learnt from another one have no scheme: none of them is talked to without TLS.
    let is_secret = servers.iter().any(ServerAddr::tls_required);
    if is_secret || options.tls.ca_file.is_some() || options.tls.identity.is_some() {
        prepared = prepared.require_tls(true);
    }
    if let Some(ca) = &options.tls.ca_file {
        read(ca).await?;
        prepared = prepared.add_root_certificates(ca.clone());
    }
    if let Some((certificate, key)) = &options.tls.identity {
        read(certificate).await?;
        read(key).await?;
        prepared = prepared.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(prepared)
}

/// The pause before attempt number `attempt` since the last connection. The first attempts are made at once.
fn reconnect_pause(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(3)).unwrap_or(u32::MAX).min(8);
    if doublings == 0 { Duration::ZERO } else { RECONNECT_PAUSE_MAX.min(Duration::from_millis(10 << doublings)) }
}

async fn read(path: &Path) -> Result<String, EngineError> {
    tokio::fs::read_to_string(path)
        .await
        .map_err(|error| EngineError::File { path: path.to_owned(), reason: error.to_string() })
}

async fn seed(path: &Path) -> Result<String, EngineError> {
    let text = read(path).await?;
    let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
    seed.map(str::to_owned).ok_or_else(|| EngineError::File {
        path: path.to_owned(),
        reason: "no line is the seed of a user's nkey (SU...): create one with `nsc generate nkey --user`".to_owned(),
    })
}

/// The reason in words. Where no server can be reached, each one is asked again for its own reason.
async fn explain(
    options: &EngineOptions,
    connection: EngineConnection,
    servers: &[ServerAddr],
    error: &ConnectError,
) -> EngineError {
    let mut reasons = Vec::new();
    for server in servers {
        let again = match prepare(options, connection, servers).await {
            Ok(prepared) => prepared.connect(server.clone()).await.err(),
            Err(error) => return error,
        };
        let server = shown(server);
        match again {
            Some(error) if is_authorization(&error) => return EngineError::Authorization { server },
            Some(error) => reasons.push(format!("{server}: {}{}", words(&error), hint(&error))),
            // It has started meanwhile, but the other servers are in the list for a reason too.
            None => reasons.push(format!("{server}: {} at first, then connected: start again", words(error))),
        }
    }
    EngineError::Unreachable(reasons)
}

fn is_authorization(error: &ConnectError) -> bool {
    matches!(error.kind(), ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication)
}

fn words(error: &ConnectError) -> String {
    match error.kind() {
        ConnectErrorKind::TimedOut => format!("no answer in {} s", CONNECT_WITHIN.as_secs()),
        _ => error.to_string(),
    }
}

fn hint(error: &ConnectError) -> &'static str {
    let text = error.to_string();
    if text.contains("UnknownIssuer") || text.contains("InvalidCertificate") {
        " (give the CA certificate that signs the servers' certificates)"
    } else if text.contains("CertificateRequired") {
        " (the server requires a client certificate: give a certificate and its key)"
    } else {
        ""
    }
}

/// The server that a client is connected to, in words.
pub(super) fn server_of(client: &Client) -> String {
    let info = client.server_info();
    format!("{} ({}:{})", info.server_name, info.host, info.port)
}

fn check_version(client: &Client) -> Result<(), EngineError> {
    let version = client.server_info().version;
    if is_new_enough(&version) {
        return Ok(());
    }
    Err(EngineError::ServerTooOld { server: server_of(client), version })
}

/// Whether a version is at least [`SERVER_VERSION_MIN`].
pub(super) fn is_new_enough(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split('.').map(|part| part.parse::<u64>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= SERVER_VERSION_MIN,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_2_14_on_are_used() {
        for (version, expected) in [
            ("2.14.0", true),
            ("2.15.1", true),
            ("v2.14.0-RC.1", true),
            ("3.0.0", true),
            ("2.9.25", false),
            ("2.13.99", false),
            ("1.99.0", false),
            ("", false),
            ("dev", false),
        ] {
            assert_eq!(is_new_enough(version), expected, "{version}");
        }
    }

    #[test]
    fn addresses_are_checked_and_their_passwords_hidden() {
        let refused = |url: &str| addresses(&[url.to_owned()]).unwrap_err().to_string();
        assert!(refused("http://a:4222").contains("`http://a:4222` is not a server of the engine"));
        assert!(refused("http://me:secret@a").contains("http://...@a"), "{}", refused("http://me:secret@a"));
        assert!(matches!(addresses(&[]), Err(EngineError::NoServers)));
        let good = addresses(&["nats://a:1".to_owned(), "tls://b".to_owned(), "c:4222".to_owned()]).unwrap();
        assert_eq!(good.iter().map(shown).collect::<Vec<_>>(), ["nats://a:1", "tls://b:4222", "nats://c:4222"]);
    }

    #[test]
    fn pauses_between_attempts_grow_to_half_a_second() {
        let pauses: Vec<u128> = [1, 3, 4, 5, 9, 1000].map(|attempt| reconnect_pause(attempt).as_millis()).into();
        assert_eq!(pauses, [0, 0, 20, 40, 500, 500]);
    }
}
