//! The names that the status server answers to. A web page whose own name resolves to this address (DNS rebinding) would
//! otherwise read the answers: its browser takes them for answers of its own site.

use std::net::IpAddr;

use hyper::StatusCode;
use hyper::header::{self, HeaderMap};
use hyper::http::uri::Authority;

use super::http::Problem;

/// Characters of a refused name that the answer repeats.
const SHOWN_MAX: usize = 80;

/// The declared names, and the address that the server listens on.
#[derive(Debug)]
pub(super) struct KnownHosts {
    /// Lower case, without a dot at their end. `*.example.com` stands for every name below `example.com`.
    names: Vec<String>,
    listens_on: IpAddr,
}

impl KnownHosts {
    pub(super) fn new(names: &[String], listens_on: IpAddr) -> Self {
        Self { names: names.iter().map(|name| normalized(name)).collect(), listens_on: listens_on.to_canonical() }
    }

    /// Checks the target's authority and each Host header; `local`: the address that the connection was made to.
    /// HTTP/1.0 has no Host header; browsers always send one.
    pub(super) fn check(
        &self,
        authority: Option<&Authority>,
        headers: &HeaderMap,
        local: Option<IpAddr>,
    ) -> Result<(), Problem> {
        let of_headers = headers.get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or("?"));
        let mut all = authority.map(Authority::as_str).into_iter().chain(of_headers);
        match all.find(|host| !self.knows(host, local)) {
            None => Ok(()),
            Some(host) => Err(unknown(host)),
        }
    }

    fn knows(&self, host: &str, local: Option<IpAddr>) -> bool {
        let name = normalized(without_port(host));
        if let Ok(address) = name.parse::<IpAddr>() {
            let address = address.to_canonical();
            // An address is no name that a foreign site could have; behind a port forwarding it is not the local one.
            return address.is_loopback()
                || self.listens_on.is_unspecified()
                || address == self.listens_on
                || local.is_some_and(|local| address == local.to_canonical());
        }
        name == "localhost" || self.names.iter().any(|known| matches(known, &name))
    }
}

/// Whether a text can be declared as a host name: a name or an address without a port, or `*.` before a name.
pub fn is_host_name(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.parse::<IpAddr>().is_ok() || (!name.is_empty() && !name.starts_with('.') && name.chars().all(allowed))
}

fn matches(known: &str, name: &str) -> bool {
    match known.strip_prefix('*') {
        Some(suffix) => name.strip_suffix(suffix).is_some_and(|below| !below.is_empty()),
        None => known == name,
    }
}

/// `[::1]:8080` and `name:8080` without the port, and without brackets.
fn without_port(host: &str) -> &str {
    // In an authority, user information may stand before the host.
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(address, _)| address);
    }
    host.split_once(':').map_or(host, |(name, _)| name)
}

fn normalized(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn unknown(host: &str) -> Problem {
    let shown: String = without_port(host).chars().take(SHOWN_MAX).collect();
    Problem::new(
        StatusCode::MISDIRECTED_REQUEST,
        format!(
            "this broker's status does not answer to the name {shown:?}; start it with --status-host {shown} if the name \
             is its own, or use its address"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knows(listens_on: &str, host: &str) -> bool {
        let names = ["weir.example.com".to_owned(), "*.svc".to_owned(), "Node-1".to_owned()];
        let local = "192.0.2.7".parse().ok();
        KnownHosts::new(&names, listens_on.parse().unwrap()).knows(host, local)
    }

    #[test]
    fn loopback_declared_names_and_the_local_address_are_known() {
        let known = ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080", "127.9.9.9", "weir.example.com.:1"];
        for host in known.into_iter().chain(["a.b.svc", "node-1", "192.0.2.7", "[::ffff:192.0.2.7]:80"]) {
            assert!(knows("127.0.0.1", host), "{host}");
        }
    }

    #[test]
    fn other_names_are_refused_and_other_addresses_where_one_address_is_listened_on() {
        for host in ["evil.example.com", "localhost.evil.example", "svc", ".svc", "", "weir.example.com.evil", "?"] {
            assert!(!knows("127.0.0.1", host) && !knows("0.0.0.0", host), "{host}");
        }
        assert!(!knows("127.0.0.1", "198.51.100.1"));
        assert!(knows("0.0.0.0", "198.51.100.1:8080"), "the address of a port forwarding");
    }

    #[test]
    fn a_declared_host_has_no_port_and_no_path() {
        assert!(["a", "a.b", "*.a.b", "::1", "10.0.0.1"].into_iter().all(is_host_name));
        assert!(!["", "*", "*.", "a:80", "http://a", "a/b", "a b"].into_iter().any(is_host_name));
    }
}
