//! In a build without the feature `websocket`: no endpoint is compiled with WebSocket, and a request would be rejected.

use crate::net::policy::WebSocketPolicy;

/// The result of parsing a request.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::net) enum Upgrade {
    Incomplete,
    Accepted { consumed: usize, response: Vec<u8> },
    Refused { response: Vec<u8>, why: &'static str },
}

/// Rejects a request.
pub(in crate::net) fn upgrade(_: &[u8], _: &WebSocketPolicy) -> Upgrade {
    let response = b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec();
    Upgrade::Refused { response, why: "this build has no WebSocket (feature `websocket`)" }
}
