//! The address of a broker: mqtt://, mqtts://, ws://, wss:// or unix:.

use std::fmt;
use std::path::PathBuf;

use hyper::Uri;
use percent_encoding::percent_decode_str;

/// Where a broker is, and the credentials that its URL has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct BrokerUrl {
    pub(super) transport: Transport,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Transport {
    Unix(PathBuf),
    Network {
        /// A name, or an address without brackets.
        host: String,
        port: u16,
        tls: bool,
        /// The path of a WebSocket; `None`: MQTT over TCP.
        websocket: Option<String>,
    },
}

/// The path where WebSocket listeners serve MQTT, by convention.
const WEBSOCKET_PATH: &str = "/mqtt";

const FORM: &str =
    "write mqtt://HOST:PORT, mqtts://, ws://HOST:PORT/PATH, wss:// or unix:PATH; user:password@ may stand before HOST";

impl BrokerUrl {
    /// Parses a URL. An error never repeats it: it may contain a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(format!("the URL has no path; {FORM}"));
            }
            return Ok(Self { transport: Transport::Unix(path.into()), user: None, password: None });
        }
        let url: Uri = text.parse().map_err(|error| format!("not a URL ({error}); {FORM}"))?;
        let (tls, default_port, is_websocket) = match url.scheme_str() {
            Some("mqtt" | "tcp") => (false, 1883, false),
            Some("mqtts" | "ssl" | "tls") => (true, 8883, false),
            Some("ws") => (false, 80, true),
            Some("wss") => (true, 443, true),
            Some(scheme) => return Err(format!("{scheme}:// is not a scheme of MQTT; {FORM}")),
            None => return Err(format!("the URL has no scheme; {FORM}")),
        };
        let authority = url.authority().ok_or_else(|| format!("the URL has no host; {FORM}"))?.as_str();
        let userinfo = authority.rsplit_once('@').map(|(userinfo, _)| userinfo);
        let port_text = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
        let has_port = port_text.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let port = match url.port_u16() {
            Some(port) if port != 0 => port,
            None if !has_port => default_port,
            _ => return Err("the port is not in 1 to 65535".to_owned()),
        };
        let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(format!("the URL has no host; {FORM}"));
        }
        let path = url.path_and_query().map_or("", |path| path.as_str());
        if !is_websocket && !matches!(path, "" | "/") {
            return Err("a path belongs to ws:// and wss:// only; -t names a topic".to_owned());
        }
        let websocket = is_websocket.then(|| if matches!(path, "" | "/") { WEBSOCKET_PATH } else { path }.to_owned());
        let (user, password) = match userinfo.map(|userinfo| userinfo.split_once(':').unwrap_or((userinfo, ""))) {
            None => (None, None),
            Some((user, "")) => (Some(decoded(user)?), None),
            Some((user, password)) => (Some(decoded(user)?), Some(decoded(password)?)),
        };
        Ok(Self { transport: Transport::Network { host, port, tls, websocket }, user, password })
    }

    pub(super) fn tcp(host: &str, port: Option<u16>, tls: bool) -> Self {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = port.unwrap_or(if tls { 8883 } else { 1883 });
        Self { transport: Transport::Network { host, port, tls, websocket: None }, user: None, password: None }
    }
}

fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| "the user or password is not UTF-8".to_owned())
}

/// Without credentials.
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Network { host, port, tls, websocket } => {
                let scheme = match (tls, websocket) {
                    (false, None) => "mqtt",
                    (true, None) => "mqtts",
                    (false, Some(_)) => "ws",
                    (true, Some(_)) => "wss",
                };
                let path = websocket.as_deref().unwrap_or_default();
                if host.contains(':') {
                    return write!(f, "{scheme}://[{host}]:{port}{path}");
                }
                write!(f, "{scheme}://{host}:{port}{path}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_transport_host_port_and_credentials() {
        for (text, shown, user, password) in [
            ("mqtt://localhost", "mqtt://localhost:1883", None, None),
            ("mqtt://localhost:1884/", "mqtt://localhost:1884", None, None),
            ("mqtts://ann:s%40x@example.com", "mqtts://example.com:8883", Some("ann"), Some("s@x")),
            ("mqtts://ann@example.com:1", "mqtts://example.com:1", Some("ann"), None),
            ("mqtt://[::1]:7", "mqtt://[::1]:7", None, None),
            ("mqtt://[::1]", "mqtt://[::1]:1883", None, None),
            ("ws://h", "ws://h:80/mqtt", None, None),
            ("wss://h:444/a/b?c", "wss://h:444/a/b?c", None, None),
            ("unix:/run/weir.sock", "unix:/run/weir.sock", None, None),
            ("unix:///run/weir.sock", "unix:/run/weir.sock", None, None),
        ] {
            let url = BrokerUrl::parse(text).unwrap();
            assert_eq!(url.transport.to_string(), shown);
            assert_eq!((url.user.as_deref(), url.password.as_deref()), (user, password), "{text}");
        }
    }

    #[test]
    fn wrong_urls_are_refused_without_repeating_a_password() {
        for (text, expected) in [
            ("localhost:1883", "the URL has no scheme"),
            ("http://a", "http:// is not a scheme"),
            ("mqtt://a:secret@h:99999", "the port is not in 1 to 65535"),
            ("mqtt://a:secret@h:0", "the port is not in 1 to 65535"),
            ("mqtt://a:secret@h/topic", "-t names a topic"),
            ("unix:", "no path"),
            ("", "not a URL"),
        ] {
            let error = BrokerUrl::parse(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
