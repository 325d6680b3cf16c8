//! Properties of the code that reads a connection's first bytes, for every input. The fuzz targets in `fuzz/` search
//! for a breach; the tests below try seeded mutations of valid input.

use super::policy::{AllowedOrigins, WebSocketPolicy};
use super::proxy::{self, Parsed};
use super::websocket::{FrameReader, FrameWriter, Incoming, Upgrade, upgrade};

const MESSAGE_MAX_BYTES: u64 = 1000;
/// Control frames that may wait for a peer that does not read: the bound, and one frame above it.
const CONTROLS_MAX_BYTES: usize = 1024 + 127;

/// An accepted PROXY header is within the bytes, does not depend on the bytes after it, and none of its prefixes is one. An
/// error stays an error.
#[cfg_attr(not(fuzzing), expect(unreachable_pub, reason = "`crate::fuzzing` exports it"))]
pub fn proxy_header(bytes: &[u8]) {
    match proxy::parse(bytes) {
        Ok(Parsed::Header(header)) => {
            assert!(header.len <= bytes.len());
            assert_eq!(proxy::parse(&bytes[..header.len]), Ok(Parsed::Header(header.clone())));
            for cut in 0..header.len {
                assert_eq!(proxy::parse(&bytes[..cut]), Ok(Parsed::Incomplete), "cut at {cut}");
            }
        }
        Ok(Parsed::Incomplete) => assert!(bytes.len() < 16 + 4096, "it asks for more than the longest header"),
        Err(error) => assert_eq!(proxy::parse(&[bytes, b"\r\n"].concat()), Err(error)),
    }
}

/// An accepted upgrade request is within the bytes and is answered by 101 with a subprotocol of MQTT; a refusal is an HTTP
/// response; no request is longer than its bound.
#[cfg_attr(not(fuzzing), expect(unreachable_pub, reason = "`crate::fuzzing` exports it"))]
pub fn websocket_upgrade(bytes: &[u8]) {
    let policy = WebSocketPolicy {
        path: "/mqtt".into(),
        allowed_origins: AllowedOrigins::SameHost,
        max_message_bytes: MESSAGE_MAX_BYTES,
    };
    match upgrade(bytes, &policy) {
        Upgrade::Accepted { consumed, response } => {
            assert!(consumed <= bytes.len());
            assert_eq!(
                upgrade(&bytes[..consumed], &policy),
                Upgrade::Accepted { consumed, response: response.clone() }
            );
            let response = String::from_utf8_lossy(&response);
            assert!(response.starts_with("HTTP/1.1 101 ") && response.ends_with("\r\n\r\n"), "{response}");
            assert!(response.to_ascii_lowercase().contains("sec-websocket-protocol: mqtt"), "{response}");
        }
        Upgrade::Refused { response, .. } => assert!(response.starts_with(b"HTTP/1.1 ")),
        Upgrade::Incomplete => assert!(bytes.len() < 8192, "a request longer than its bound"),
    }
}

/// Frames decode to the same bytes and end in the same way however they are cut; no more comes out than went in; pongs for a
/// peer that does not read are bounded.
#[cfg_attr(not(fuzzing), expect(unreachable_pub, reason = "`crate::fuzzing` exports it"))]
pub fn websocket_frames(bytes: &[u8]) {
    let read = |step: usize| {
        let (mut reader, mut writer) = (FrameReader::new(MESSAGE_MAX_BYTES), FrameWriter::default());
        let mut output = Vec::new();
        let mut end = Ok(Incoming::Open);
        for piece in bytes.chunks(step) {
            end = reader.read(piece, &mut output, &mut writer);
            if end != Ok(Incoming::Open) {
                break;
            }
        }
        assert!(writer.next(0).0.len() <= CONTROLS_MAX_BYTES, "pongs without bound");
        (end, output)
    };
    let whole = read(bytes.len().max(1));
    assert!(whole.1.len() <= bytes.len());
    for step in [1, 3, 17] {
        assert_eq!(read(step), whole, "{step} bytes at a time");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `check` with mutations of `samples`. The seed is fixed, so a failure repeats.
    fn mutated(samples: &[&[u8]], check: fn(&[u8])) {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut below = move |end: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % end.max(1) as u64) as usize
        };
        for _ in 0..4_000 {
            let mut bytes = samples[below(samples.len())].to_vec();
            check(&bytes);
            for _ in 0..below(6) {
                let at = below(bytes.len());
                match below(4) {
                    0 => bytes.truncate(at),
                    1 => bytes.extend_from_within(at..),
                    2 => bytes.insert(at.min(bytes.len()), below(256) as u8),
                    _ => {
                        if let Some(byte) = bytes.get_mut(at) {
                            *byte = below(256) as u8;
                        }
                    }
                }
            }
            check(&bytes);
        }
    }

    #[test]
    fn mutated_proxy_headers_keep_the_parser_consistent() {
        let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x02\x10\x20\x07\x5b".to_vec();
        let v2_long = v2.clone();
        v2[15] = 3;
        mutated(
            &[b"PROXY TCP4 192.0.2.1 198.51.100.2 49152 1883\r\n\x10", b"PROXY UNKNOWN\r\n", &v2, &v2_long],
            proxy_header,
        );
    }

    #[test]
    fn mutated_upgrade_requests_are_accepted_or_refused_as_http() {
        let request = b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n\x82";
        mutated(&[request], websocket_upgrade);
    }

    #[test]
    fn mutated_frames_decode_the_same_however_they_are_cut() {
        let binary = b"\x82\x83\x01\x02\x03\x04abc\x89\x81\0\0\0\0p\x02\x82\0\0\0\0hi\x80\x81\0\0\0\0!";
        let long = [&b"\x82\xfe\x03\xe8\0\0\0\0"[..], &[7; 1000], b"\x88\x80\0\0\0\0"].concat();
        mutated(&[binary, &long], websocket_frames);
    }
}
