//! One connection to one etcd server: connecting, listing a prefix, and the meaning of errors.

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error, GetOptions, Identity, KeyValue, TlsOptions};

use super::options::EtcdAccess;
use super::replica::{Listing, StoredValue};
use crate::source::{SourceError, SourceErrorKind};
use weir_declare::config::SecretRef;

/// How long a server may take to answer one request.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// The interval of keep-alive pings on an idle connection, and the time-out of one. A server allows at most one ping in
/// five seconds.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(4));
/// Keys of one page of a listing.
const PAGE_KEYS: i64 = 100;
/// Bytes of one answer: a page of the largest values there are (etcd takes 1.5 MiB at most).
const ANSWER_BYTES_MAX: usize = 192 << 20;
/// Bytes of all values under a prefix.
const LISTING_BYTES_MAX: usize = 256 << 20;

/// The result of talking to etcd.
pub type EtcdResult<T> = Result<T, SourceError>;

/// Connects to the server number `turn`. Certificates and password are read again, because they may have been replaced.
///
/// # Errors
/// A file or variable cannot be read, or the server does not answer or refuses the user.
pub async fn connect(access: &EtcdAccess, turn: usize) -> EtcdResult<(Client, String)> {
    let url = access.urls.get(turn % access.urls.len().max(1)).cloned().unwrap_or_default();
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_WITHIN)
        .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some((user, password)) = &access.user {
        options = options.with_user(user, secret(password)?);
    }
    if url.starts_with("https://") {
        options = options.with_tls(tls(access)?);
    }
    let client = with_timeout(&url, Client::connect([&url], Some(options))).await?;
    Ok((client, url))
}

/// Waits for an answer of the server at `url`, for so long and no longer.
///
/// # Errors
/// None in time, or a refusal, in words.
pub async fn with_timeout<T>(url: &str, answer: impl Future<Output = Result<T, Error>>) -> EtcdResult<T> {
    match tokio::time::timeout(ANSWER_WITHIN, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(describe_error(url, &error)),
        Err(_) => Err(timed_out(url)),
    }
}

/// A server that does not answer.
pub fn timed_out(url: &str) -> SourceError {
    SourceError {
        kind: SourceErrorKind::TimedOut,
        message: format!("{url}: no answer in {} s", ANSWER_WITHIN.as_secs()),
    }
}

/// All keys below `prefix`, at one revision: the newest, or the one that is given.
///
/// # Errors
/// The server does not answer, refuses, or has more than is read.
pub(super) async fn list(client: &Client, url: &str, prefix: &str, revision: Option<i64>) -> EtcdResult<Listing> {
    let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
    let mut listing = Listing::default();
    let mut at = revision;
    let mut is_first = true;
    let mut from = prefix.as_bytes().to_vec();
    let end = prefix_end(prefix);
    let mut bytes = 0;
    loop {
        let mut options = GetOptions::new().with_range(end.clone()).with_limit(PAGE_KEYS);
        if let Some(revision) = at {
            options = options.with_revision(revision);
        }
        let page = with_timeout(url, kv.get(from, Some(options))).await?;
        if let (true, Some(header)) = (is_first, page.header()) {
            is_first = false;
            listing.cluster_id = header.cluster_id();
            listing.revision = revision.unwrap_or_else(|| header.revision());
            at = Some(listing.revision);
        }
        for pair in page.kvs() {
            bytes += pair.value().len();
            insert_pair(&mut listing, prefix, pair);
        }
        if bytes > LISTING_BYTES_MAX {
            let message = format!("{url}: more than {} MiB below {prefix}", LISTING_BYTES_MAX >> 20);
            return Err(SourceError { kind: SourceErrorKind::TooLarge, message });
        }
        match page.kvs().last() {
            Some(last) if page.more() => {
                from = last.key().to_vec();
                from.push(0);
            }
            _ => return Ok(listing),
        }
    }
}

fn insert_pair(listing: &mut Listing, prefix: &str, pair: &KeyValue) {
    if let Some(key) = pair.key().strip_prefix(prefix.as_bytes()) {
        listing.keys.insert(key.to_vec(), StoredValue::new(prefix, key, pair.mod_revision(), pair.value()));
    }
}

/// The first key after all keys that begin with `prefix`. A prefix ends in a slash; the next character is a zero.
pub fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Lists a prefix that does not hold documents: the records of brokers.
///
/// # Errors
/// See `list`.
pub async fn list_values(client: &Client, url: &str, prefix: &str) -> EtcdResult<(i64, Vec<(String, Vec<u8>)>)> {
    let listing = list(client, url, prefix, None).await?;
    let pairs = listing.keys.into_iter();
    let pairs = pairs.map(|(key, stored)| (String::from_utf8_lossy(&key).into_owned(), stored.bytes.to_vec()));
    Ok((listing.revision, pairs.collect()))
}

fn secret(password: &SecretRef) -> EtcdResult<String> {
    let read = match password {
        SecretRef::File(file) => std::fs::read_to_string(&*file.0)
            .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|error| format!("--etcd-password file:{}: {error}", file.0)),
        SecretRef::Env(name) => {
            std::env::var(&**name).map_err(|_| format!("--etcd-password env:{name}: the variable is not set"))
        }
    };
    read.map_err(|message| SourceError { kind: SourceErrorKind::Unreadable, message })
}

fn tls(access: &EtcdAccess) -> EtcdResult<TlsOptions> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| SourceError {
            kind: SourceErrorKind::Unreadable,
            message: format!("{}: {error}", path.display()),
        })
    };
    let mut options = TlsOptions::new();
    if let Some(ca) = &access.ca_file {
        options = options.ca_certificate(Certificate::from_pem(read(ca)?));
    }
    if let Some((certificate, key)) = &access.identity {
        options = options.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(options)
}

/// gRPC's codes, as far as etcd uses them.
mod code {
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// The error with its kind, the server, and what to do where that is known.
pub fn describe_error(url: &str, error: &Error) -> SourceError {
    let (kind, what) = match error {
        Error::GRpcStatus(status) => {
            let message = status.message();
            let kind = kind_of(i32::from(status.code()), message);
            let cause = causes(status.source());
            (kind, if cause.is_empty() { message.to_owned() } else { cause })
        }
        Error::TransportError(error) => (SourceErrorKind::Unreachable, causes(Some(error))),
        other => (SourceErrorKind::Other, other.to_string()),
    };
    let help = match kind {
        SourceErrorKind::PermissionDenied => " (grant the user's role readwrite on the prefix)",
        SourceErrorKind::NoSpace => " (compact and defragment the store, then `etcdctl alarm disarm`)",
        SourceErrorKind::Unauthenticated => " (--etcd-user, --etcd-password)",
        _ if what.contains("alert: BadCertificate") || what.contains("alert: CertificateRequired") => {
            " (it requires a client certificate: --etcd-cert, --etcd-key)"
        }
        _ if url.starts_with("http://") && what.contains("broken pipe") => " (does it speak TLS? Then https://)",
        _ => "",
    };
    SourceError { kind, message: format!("{url}: {what}{help}") }
}

fn kind_of(grpc: i32, message: &str) -> SourceErrorKind {
    match grpc {
        code::PERMISSION_DENIED => SourceErrorKind::PermissionDenied,
        code::UNAUTHENTICATED => SourceErrorKind::Unauthenticated,
        code::RESOURCE_EXHAUSTED if message.contains("database space exceeded") => SourceErrorKind::NoSpace,
        code::OUT_OF_RANGE if message.contains("decoded message length") => SourceErrorKind::TooLarge,
        code::OUT_OF_RANGE if message.contains("compacted") => SourceErrorKind::Compacted,
        code::DEADLINE_EXCEEDED => SourceErrorKind::TimedOut,
        _ if message.contains("no leader") || message.contains("leader changed") => SourceErrorKind::NoLeader,
        _ if message.contains("request timed out") => SourceErrorKind::TimedOut,
        _ if message.contains("authentication failed") || message.contains("user name is empty") => {
            SourceErrorKind::Unauthenticated
        }
        _ => SourceErrorKind::Unreachable,
    }
}

/// The innermost cause of an error, which has the useful message.
fn causes(mut error: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut innermost = String::new();
    while let Some(cause) = error {
        innermost = cause.to_string();
        error = cause.source();
    }
    innermost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_their_kinds() {
        for (code, message, kind) in [
            (7, "etcdserver: permission denied", SourceErrorKind::PermissionDenied),
            (16, "etcdserver: invalid auth token", SourceErrorKind::Unauthenticated),
            (3, "etcdserver: authentication failed, invalid user ID or password", SourceErrorKind::Unauthenticated),
            (3, "etcdserver: user name is empty", SourceErrorKind::Unauthenticated),
            (8, "etcdserver: mvcc: database space exceeded", SourceErrorKind::NoSpace),
            (11, "etcdserver: mvcc: required revision has been compacted", SourceErrorKind::Compacted),
            (14, "etcdserver: no leader", SourceErrorKind::NoLeader),
            (14, "etcdserver: leader changed", SourceErrorKind::NoLeader),
            (14, "etcdserver: request timed out", SourceErrorKind::TimedOut),
            (14, "transport error", SourceErrorKind::Unreachable),
        ] {
            assert_eq!(kind_of(code, message), kind, "{message}");
        }
    }

    #[test]
    fn the_range_of_a_prefix_ends_before_the_next_key() {
        assert_eq!(prefix_end("/weir/"), b"/weir0");
    }
}
