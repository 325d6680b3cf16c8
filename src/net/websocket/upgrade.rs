//! The HTTP request that opens a WebSocket, and its answer.

use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::HeaderMap;
use tungstenite::http::header::{HeaderName, ORIGIN, SEC_WEBSOCKET_PROTOCOL};

use crate::net::policy::WebSocketPolicy;

/// Bytes of the request, its headers included.
const REQUEST_MAX_BYTES: usize = 8192;
/// The subprotocols that mean MQTT: the registered one, to be chosen where it is offered [MQTT-6.0.0-4], and the one of the
/// days of 3.1.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What came of a client's first bytes.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::net) enum Upgrade {
    /// The request goes on.
    Incomplete,
    /// The request took `consumed` bytes; `response` is to be sent, and frames follow.
    Accepted { consumed: usize, response: Vec<u8> },
    /// `response` is to be sent before the close.
    Refused { response: Vec<u8>, why: &'static str },
}

/// Judges the beginning of a connection as an upgrade request.
pub(in crate::net) fn upgrade(bytes: &[u8], policy: &WebSocketPolicy) -> Upgrade {
    let window = &bytes[..bytes.len().min(REQUEST_MAX_BYTES)];
    let (consumed, request) = match Request::try_parse(window) {
        Ok(Some(parsed)) => parsed,
        Ok(None) if bytes.len() < REQUEST_MAX_BYTES => return Upgrade::Incomplete,
        Ok(None) => return refused(431, "Request Header Fields Too Large", "", "the request is longer than 8 KiB"),
        Err(_) => return refused(400, "Bad Request", "", "no HTTP/1.1 GET"),
    };
    // Only the path names the endpoint; a query may carry what pleases the client.
    if request.uri().path() != policy.path {
        return refused(404, "Not Found", "", "another path");
    }
    if !origin_allowed(request.headers(), policy) {
        return refused(403, "Forbidden", "", "its Origin is not allowed");
    }
    let Ok(mut response) = create_response(&request) else {
        // RFC 6455, 4.2.2: tell which version is spoken.
        return refused(426, "Upgrade Required", "Sec-WebSocket-Version: 13\r\n", "no upgrade to WebSocket 13");
    };
    let Some(subprotocol) = subprotocol(request.headers()) else {
        return refused(400, "Bad Request", "", "it does not offer the subprotocol mqtt");
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
    let Some(allowed) = &policy.allowed_origins else { return true };
    let mut origins = headers.get_all(ORIGIN).into_iter();
    match (origins.next(), origins.next()) {
        (None, _) => true,
        (Some(origin), None) => {
            allowed.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
        }
        (Some(_), Some(_)) => false,
    }
}

/// The first subprotocol of the client's list that is MQTT, in our own spelling.
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

    fn policy(origins: Option<&[&str]>) -> WebSocketPolicy {
        let allowed_origins = origins.map(|origins| origins.iter().map(|origin| (*origin).to_owned()).collect());
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
        let Upgrade::Accepted { consumed, response } = upgrade(&bytes, &policy(None)) else { panic!("refused") };
        assert_eq!(consumed, REQUEST.len());
        let response = String::from_utf8(response).unwrap().to_lowercase();
        assert!(response.starts_with("http/1.1 101"), "{response}");
        // The example of RFC 6455, 1.3.
        assert!(response.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{response}");
        assert!(response.contains("sec-websocket-protocol: mqtt\r\n"), "{response}");
    }

    #[test]
    fn requests_are_judged() {
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
            ("13\r\nSec", "13\r\nOrigin: https://evil.example\r\nSec", "101"),
        ];
        for (from, to, expected) in cases {
            assert_eq!(status(&REQUEST.replacen(from, to, 1), &policy(None)), expected, "{from:?} -> {to:?}");
        }
    }

    #[test]
    fn origins_are_held_to_the_list() {
        let policy = policy(Some(&["https://app.example"]));
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
    fn requests_are_bounded() {
        for cut in 0..REQUEST.len() {
            assert_eq!(status(&REQUEST[..cut], &policy(None)), "incomplete", "{cut} bytes");
        }
        let long = REQUEST.replacen("Host: h", &format!("Host: {}", "h".repeat(REQUEST_MAX_BYTES)), 1);
        assert_eq!(status(&long, &policy(None)), "431");
    }
}
