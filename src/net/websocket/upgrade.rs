//! The HTTP upgrade request of a WebSocket, and its response.

use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::HeaderMap;
use tungstenite::http::header::{HOST, HeaderName, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use tungstenite::http::uri::Authority;

use crate::net::policy::{AllowedOrigins, WebSocketPolicy};

/// Maximum size of the request with its headers, bytes.
const REQUEST_MAX_BYTES: usize = 8192;
/// The subprotocols of MQTT: the registered one, which is chosen if it is offered [MQTT-6.0.0-4], and that of MQTT 3.1.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// The result of parsing a request.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::net) enum Upgrade {
    /// The request is incomplete.
    Incomplete,
    /// The request has `consumed` bytes; `response` is sent, and frames follow.
    Accepted { consumed: usize, response: Vec<u8> },
    /// `response` is sent before the connection is closed.
    Refused { response: Vec<u8>, why: &'static str },
}

/// Parses the first bytes of a connection as an upgrade request.
pub(in crate::net) fn upgrade(bytes: &[u8], policy: &WebSocketPolicy) -> Upgrade {
    let window = &bytes[..bytes.len().min(REQUEST_MAX_BYTES)];
    let (consumed, request) = match Request::try_parse(window) {
        Ok(Some(parsed)) => parsed,
        Ok(None) if bytes.len() < REQUEST_MAX_BYTES => return Upgrade::Incomplete,
        Ok(None) => return refused(431, "Request Header Fields Too Large", "", "the request is longer than 8 KiB"),
        Err(_) => return refused(400, "Bad Request", "", "the request is not an HTTP/1.1 GET"),
    };
    // Only the path selects the endpoint; a query is ignored.
    if request.uri().path() != policy.path {
        return refused(404, "Not Found", "", "no endpoint has this path");
    }
    if !origin_allowed(request.headers(), policy) {
        return refused(403, "Forbidden", "", "the Origin is not allowed");
    }
    let Ok(mut response) = create_response(&request) else {
        // RFC 6455, 4.2.2: the response names the supported version.
        return refused(
            426,
            "Upgrade Required",
            "Sec-WebSocket-Version: 13\r\n",
            "the request is not an upgrade to WebSocket version 13",
        );
    };
    let Some(subprotocol) = subprotocol(request.headers()) else {
        return refused(400, "Bad Request", "", "the request does not offer the subprotocol mqtt");
    };
    let value = tungstenite::http::HeaderValue::from_static(subprotocol);
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
    let mut bytes = Vec::with_capacity(192);
    match write_response(&mut bytes, &response) {
        Ok(()) => Upgrade::Accepted { consumed, response: bytes },
        Err(_) => refused(500, "Internal Server Error", "", "the response could not be written"),
    }
}

fn origin_allowed(headers: &HeaderMap, policy: &WebSocketPolicy) -> bool {
    let mut origins = headers.get_all(ORIGIN).into_iter();
    let origin = match (origins.next(), origins.next()) {
        (None, _) => return true,
        (Some(origin), None) => origin.as_bytes(),
        (Some(_), Some(_)) => return false,
    };
    match &policy.allowed_origins {
        AllowedOrigins::Any => true,
        AllowedOrigins::Listed(allowed) => {
            allowed.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin))
        }
        AllowedOrigins::SameHost => is_same_host(origin, headers),
    }
}

/// Whether an origin names the host of the request. Ports are not compared: a page on port 443 connects to a broker on
/// a port of its own.
fn is_same_host(origin: &[u8], headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).into_iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let authority = |bytes: &[u8]| Authority::try_from(bytes).ok();
    let origin = std::str::from_utf8(origin).ok().and_then(|origin| origin.split_once("://"));
    match (origin.and_then(|(_, origin)| authority(origin.as_bytes())), authority(host.as_bytes())) {
        (Some(origin), Some(host)) => origin.host().eq_ignore_ascii_case(host.host()),
        _ => false,
    }
}

/// The first of [`SUBPROTOCOLS`] that the client offers.
fn subprotocol(headers: &HeaderMap) -> Option<&'static str> {
    SUBPROTOCOLS.into_iter().find(|known| words(headers, &SEC_WEBSOCKET_PROTOCOL).any(|offered| offered == *known))
}

fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',').map(str::trim))
}

fn refused(status: u16, phrase: &str, headers: &str, why: &'static str) -> Upgrade {
    let body = format!("{why}\n");
    let length = body.len();
    let response = format!(
        "HTTP/1.1 {status} {phrase}\r\n{headers}Content-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    Upgrade::Refused { response: response.into_bytes(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

    fn policy(allowed_origins: AllowedOrigins) -> WebSocketPolicy {
        WebSocketPolicy { path: "/mqtt".into(), allowed_origins, max_message_bytes: 1 << 20 }
    }

    fn status(request: &str, policy: &WebSocketPolicy) -> String {
        match upgrade(request.as_bytes(), policy) {
            Upgrade::Incomplete => "incomplete".into(),
            Upgrade::Accepted { response, .. } | Upgrade::Refused { response, .. } => {
                String::from_utf8(response).unwrap()[9..12].to_owned()
            }
        }
    }

    #[test]
    fn a_good_request_is_accepted_and_the_subprotocol_echoed() {
        let bytes = [REQUEST.as_bytes(), b"\x82rest"].concat();
        let Upgrade::Accepted { consumed, response } = upgrade(&bytes, &policy(AllowedOrigins::SameHost)) else {
            panic!("refused")
        };
        assert_eq!(consumed, REQUEST.len());
        let response = String::from_utf8(response).unwrap().to_lowercase();
        assert!(response.starts_with("http/1.1 101"), "{response}");
        // The example of RFC 6455, 1.3.
        assert!(response.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{response}");
        assert!(response.contains("sec-websocket-protocol: mqtt\r\n"), "{response}");
    }

    #[test]
    fn invalid_requests_get_their_status_code() {
        let cases = [
            ("", "", "101"),
            ("/mqtt", "/mqtt?token=x", "101"),
            ("/mqtt", "/other", "404"),
            ("/mqtt", "/mqtt/", "404"),
            ("Protocol: mqtt\r\n", "Protocol: mqttv3.1\r\n", "101"),
            ("Protocol: mqtt\r\n", "Protocol: chat, mqtt\r\n", "101"),
            ("Protocol: mqtt\r\n", "Protocol: chat\r\nSec-WebSocket-Protocol: mqtt\r\n", "101"),
            ("Protocol: mqtt\r\n", "Protocol: chat\r\n", "400"),
            ("Sec-WebSocket-Protocol: mqtt\r\n", "", "400"),
            ("Version: 13", "Version: 8", "426"),
            ("Upgrade: websocket\r\n", "", "426"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "short", "426"),
            ("GET", "POST", "400"),
            ("HTTP/1.1", "HTTP/1.0", "400"),
            ("GET /mqtt HTTP/1.1\r\n", "\x10\x0c\0\x04MQTT\r\n", "400"),
        ];
        for (from, to, expected) in cases {
            assert_eq!(
                status(&REQUEST.replacen(from, to, 1), &policy(AllowedOrigins::SameHost)),
                expected,
                "{from:?} -> {to:?}"
            );
        }
    }

    #[test]
    fn an_origin_outside_the_list_is_forbidden() {
        let policy = policy(AllowedOrigins::Listed(vec!["https://app.example".to_owned()]));
        let with = |header: &str| REQUEST.replacen("Host: h\r\n", &format!("Host: h\r\n{header}"), 1);
        assert_eq!(status(&with("Origin: https://app.example\r\n"), &policy), "101");
        assert_eq!(status(&with("Origin: HTTPS://APP.example\r\n"), &policy), "101");
        assert_eq!(status(&with(""), &policy), "101", "no browser");
        for bad in ["https://evil.example", "null", "https://app.example.evil", "http://app.example"] {
            assert_eq!(status(&with(&format!("Origin: {bad}\r\n")), &policy), "403", "{bad}");
        }
        let two = "Origin: https://app.example\r\nOrigin: https://evil.example\r\n";
        assert_eq!(status(&with(two), &policy), "403");
    }

    #[test]
    fn without_a_list_an_origin_must_name_the_host_of_the_request() {
        let same_host = policy(AllowedOrigins::SameHost);
        let with = |host: &str, origin: &str| {
            REQUEST.replacen("Host: h\r\n", &format!("Host: {host}\r\nOrigin: {origin}\r\n"), 1)
        };
        let cases = [
            ("broker.example:8083", "https://broker.example", "101"),
            ("broker.example", "http://BROKER.example:8080", "101"),
            ("[::1]:8083", "http://[::1]", "101"),
            ("192.0.2.1:8083", "http://192.0.2.1:3000", "101"),
            ("broker.example:8083", "https://evil.example", "403"),
            ("broker.example:8083", "https://broker.example.evil.example", "403"),
            ("broker.example:8083", "https://evil.example:8083", "403"),
            ("broker.example:8083", "null", "403"),
            ("broker.example:8083", "", "403"),
            ("a, b", "https://a", "403"),
        ];
        for (host, origin, expected) in cases {
            assert_eq!(status(&with(host, origin), &same_host), expected, "{host} {origin}");
        }
        let without_host = REQUEST.replacen("Host: h\r\n", "Origin: https://h\r\n", 1);
        assert_eq!(status(&without_host, &same_host), "403");
        let two_hosts = with("h\r\nHost: evil.example", "https://evil.example");
        assert_eq!(status(&two_hosts, &same_host), "403");
        assert_eq!(status(&with("h", "https://evil.example"), &policy(AllowedOrigins::Any)), "101");
    }

    #[test]
    fn a_request_above_8_kib_is_refused_with_431() {
        for cut in 0..REQUEST.len() {
            assert_eq!(status(&REQUEST[..cut], &policy(AllowedOrigins::SameHost)), "incomplete", "{cut} bytes");
        }
        let long = REQUEST.replacen("Host: h", &format!("Host: {}", "h".repeat(REQUEST_MAX_BYTES)), 1);
        assert_eq!(status(&long, &policy(AllowedOrigins::SameHost)), "431");
    }
}
