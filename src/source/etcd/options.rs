//! Where an etcd is, how to get into it, and which of its keys are ours.

use std::path::PathBuf;
use std::time::Duration;

use weir_declare::config::SecretRef;

/// Where documents are below the root.
const DOCUMENTS: &str = "endpoints/";
/// Where brokers are below the root.
const NODES: &str = "nodes/";

/// How to follow an etcd.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// Servers and credentials.
    pub access: EtcdAccess,
    /// The keys below which documents are.
    pub root: EtcdRoot,
    /// The directory that file references of documents are relative to.
    pub files: PathBuf,
    /// About how long without a change until everything is listed all the same (half of it to one and a half).
    pub resync: Duration,
}

impl EtcdOptions {
    /// The servers and the root, without credentials.
    pub fn location(&self) -> String {
        format!("{} {}", self.access.shown(), self.root.as_str())
    }
}

/// Servers and credentials.
#[derive(Debug, Clone, Default)]
pub struct EtcdAccess {
    /// `http://HOST:PORT` or `https://HOST:PORT`, of one cluster; one is spoken to at a time.
    pub urls: Vec<String>,
    /// Whom to believe, for https.
    pub ca_file: Option<PathBuf>,
    /// The client's own certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// User name and password.
    pub user: Option<(String, SecretRef)>,
}

impl EtcdAccess {
    /// The servers that get the password in clear text: `http://`, and not on this machine.
    pub fn in_clear_text(&self) -> impl Iterator<Item = &str> {
        let urls = self.urls.iter().filter(|_| self.user.is_some());
        urls.filter(|url| url.strip_prefix("http://").is_some_and(|rest| !names_loopback(rest))).map(String::as_str)
    }

    /// The servers' addresses, for people.
    pub fn shown(&self) -> String {
        self.urls.join(",")
    }

    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// See [`EtcdAccessError`].
    pub fn check(&self) -> Result<(), EtcdAccessError> {
        let https = self.urls.iter().filter(|url| url.starts_with("https://")).count();
        if https > 0 && https < self.urls.len() {
            return Err(EtcdAccessError::MixedSchemes);
        }
        if https > 0 && self.ca_file.is_none() {
            return Err(EtcdAccessError::NoAuthority);
        }
        if https == 0 && (self.ca_file.is_some() || self.identity.is_some()) {
            return Err(EtcdAccessError::PlainUrls);
        }
        Ok(())
    }
}

/// Options of an etcd that contradict one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EtcdAccessError {
    #[error("--etcd: either all URLs are https or none is")]
    MixedSchemes,
    #[error("--etcd: https needs --etcd-ca, the authority of the servers' certificates")]
    NoAuthority,
    #[error("--etcd-ca, --etcd-cert and --etcd-key are for https URLs")]
    PlainUrls,
}

/// Why a text is not the URL of an etcd server. The text may hold a password, so it is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EtcdUrlError {
    #[error("a URL such as http://127.0.0.1:2379")]
    Scheme,
    #[error("a password does not belong in a URL; use --etcd-user and --etcd-password")]
    Password,
    #[error("a URL such as http://127.0.0.1:2379, with a port and without a path")]
    Port,
}

/// Checks a server's URL.
///
/// # Errors
/// See [`EtcdUrlError`].
pub fn check_url(url: &str) -> Result<(), EtcdUrlError> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let authority = rest.ok_or(EtcdUrlError::Scheme)?;
    let authority = authority.trim_end_matches('/');
    if authority.contains('@') {
        return Err(EtcdUrlError::Password);
    }
    let port = authority.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok()));
    match port.flatten() {
        Some(_) if !authority.contains('/') => Ok(()),
        _ => Err(EtcdUrlError::Port),
    }
}

/// Why a text is not a fleet's root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EtcdRootError {
    #[error("{0:?}: a prefix such as /weir/")]
    Empty(String),
    #[error("{0:?}: a prefix has neither blanks nor control characters")]
    Characters(String),
}

/// The root of the cluster's keys: documents under `endpoints/`, brokers under `nodes/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdRoot(String);

impl EtcdRoot {
    /// Parses a prefix. A slash is added at its end, so that `/weir` never reaches into `/weird`; of the documents' own
    /// prefix, `/weir/endpoints/`, the root above it is taken.
    ///
    /// # Errors
    /// See [`EtcdRootError`].
    pub fn parse(text: &str) -> Result<Self, EtcdRootError> {
        let trimmed = text.trim_end_matches('/');
        let trimmed = trimmed.strip_suffix("/endpoints").unwrap_or(trimmed);
        if trimmed.trim_matches('/').is_empty() {
            return Err(EtcdRootError::Empty(text.to_owned()));
        }
        if trimmed.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(EtcdRootError::Characters(text.to_owned()));
        }
        Ok(Self(format!("{trimmed}/")))
    }

    /// The root, with a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The documents' prefix.
    pub fn documents(&self) -> String {
        format!("{}{DOCUMENTS}", self.0)
    }

    /// The brokers' prefix.
    pub fn nodes(&self) -> String {
        format!("{}{NODES}", self.0)
    }
}

/// Whether a URL's `HOST:PORT` is on this machine.
fn names_loopback(authority: &str) -> bool {
    let authority = authority.trim_end_matches('/');
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_in_a_slash_and_mean_the_root() {
        for text in ["/weir", "/weir/", "/weir//", "/weir/endpoints", "/weir/endpoints/"] {
            let root = EtcdRoot::parse(text).unwrap();
            assert_eq!(
                (root.as_str(), &*root.documents(), &*root.nodes()),
                ("/weir/", "/weir/endpoints/", "/weir/nodes/")
            );
        }
        assert_eq!(EtcdRoot::parse("/eu/weir/").unwrap().as_str(), "/eu/weir/");
        for text in ["", "/", "//", "/a b/", "/a\n", "/endpoints"] {
            assert!(EtcdRoot::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn invalid_urls_are_refused_without_showing_a_password() {
        for url in ["http://127.0.0.1:2379", "http://[::1]:2379/", "https://etcd.example.com:2379"] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        for (url, words) in [
            ("127.0.0.1:2379", "a URL such as"),
            ("http://host", "with a port"),
            ("http://host:2379/v3", "without a path"),
            ("http://:2379", "with a port"),
            ("http://u:secret@host:2379", "does not belong in a URL"),
        ] {
            let problem = check_url(url).unwrap_err().to_string();
            assert!(problem.contains(words) && !problem.contains("secret"), "{url}: {problem}");
        }
    }

    #[test]
    fn contradicting_credentials_are_refused() {
        let access = |urls: &[&str]| EtcdAccess {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            ..EtcdAccess::default()
        };
        assert_eq!(access(&["http://a:1", "http://b:1"]).check(), Ok(()));
        assert!(access(&["https://a:1"]).check().unwrap_err().to_string().contains("--etcd-ca"));
        assert!(access(&["https://a:1", "http://b:1"]).check().unwrap_err().to_string().contains("all URLs"));
        let plain = EtcdAccess { ca_file: Some("ca.pem".into()), ..access(&["http://a:1"]) };
        assert!(plain.check().unwrap_err().to_string().contains("https"));
    }
}
