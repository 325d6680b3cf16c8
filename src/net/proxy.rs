//! The PROXY protocol header, versions 1 and 2. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Maximum length of a version 1 header, CRLF included.
const V1_MAX_BYTES: usize = 107;
const V1_START: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEADER_BYTES: usize = 16;
/// Maximum of addresses and TLVs in a version 2 header, bytes. The format allows 65,535; proxies send far less.
const V2_MAX_BYTES: usize = 4096;
const TLV_SSL: u8 = 0x20;
const TLV_SSL_COMMON_NAME: u8 = 0x22;

/// The result of parsing the first bytes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The header is not complete yet.
    Incomplete,
    Header(ProxyHeader),
}

/// A PROXY header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProxyHeader {
    /// Length of the header, bytes.
    pub(super) len: usize,
    /// The client's address; `None`: LOCAL, or an unknown address.
    pub(super) source: Option<SocketAddr>,
    /// Common name of the client certificate that the proxy has verified.
    pub(super) common_name: Option<String>,
}

/// Why a header was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    #[error("the PROXY v1 header is longer than 107 bytes")]
    LineTooLong,
    #[error("the PROXY v1 header is malformed")]
    Line,
    #[error("the PROXY header has an unknown version or command")]
    Version,
    #[error("the PROXY v2 header is longer than 4,112 bytes")]
    TooLong,
    #[error("the PROXY v2 header's length does not match its contents")]
    Length,
}

/// Parses the first bytes of a connection.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    if begins(bytes, V2_SIGNATURE) {
        return parse_v2(bytes);
    }
    if begins(bytes, V1_START) {
        return parse_v1(bytes);
    }
    Err(ProxyError::Missing)
}

/// Whether `bytes` is a prefix of `start`, or begins with it.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let common = bytes.len().min(start.len());
    bytes[..common] == start[..common]
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let window = &bytes[..bytes.len().min(V1_MAX_BYTES)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() == V1_MAX_BYTES { Err(ProxyError::LineTooLong) } else { Ok(Parsed::Incomplete) };
    };
    let line = std::str::from_utf8(&window[..end]).map_err(|_| ProxyError::Line)?;
    let mut words = line.split(' ').skip(1);
    let source = match words.next() {
        Some("UNKNOWN") => None,
        Some(family @ ("TCP4" | "TCP6")) => {
            let mut word = || words.next().ok_or(ProxyError::Line);
            let (source, destination) = (word()?, word()?);
            let (source_port, destination_port) = (word()?, word()?);
            address(family, destination, destination_port)?;
            let source = address(family, source, source_port)?;
            if words.next().is_some() {
                return Err(ProxyError::Line);
            }
            Some(source)
        }
        _ => return Err(ProxyError::Line),
    };
    Ok(Parsed::Header(ProxyHeader { len: end + 2, source, common_name: None }))
}

fn address(family: &str, ip: &str, port: &str) -> Result<SocketAddr, ProxyError> {
    let ip: IpAddr = ip.parse().map_err(|_| ProxyError::Line)?;
    // `parse` accepts a sign, the format does not.
    if ip.is_ipv4() != (family == "TCP4") || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ProxyError::Line);
    }
    Ok(SocketAddr::new(ip, port.parse().map_err(|_| ProxyError::Line)?))
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let Some(header) = bytes.first_chunk::<V2_HEADER_BYTES>() else { return Ok(Parsed::Incomplete) };
    let (version_command, family) = (header[12], header[13]);
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if version_command >> 4 != 2 || version_command & 0x0F > 1 {
        return Err(ProxyError::Version);
    }
    if length > V2_MAX_BYTES {
        return Err(ProxyError::TooLong);
    }
    let len = V2_HEADER_BYTES + length;
    let Some(body) = bytes.get(V2_HEADER_BYTES..len) else { return Ok(Parsed::Incomplete) };
    let local = version_command & 0x0F == 0;
    if local {
        return Ok(Parsed::Header(ProxyHeader { len, source: None, common_name: None }));
    }
    let (source, addresses_len) = match family {
        0x11 | 0x12 => {
            let body = body.first_chunk::<12>().ok_or(ProxyError::Length)?;
            let ip = Ipv4Addr::new(body[0], body[1], body[2], body[3]);
            (Some(SocketAddr::from((ip, u16::from_be_bytes([body[8], body[9]])))), 12)
        }
        0x21 | 0x22 => {
            let body = body.first_chunk::<36>().ok_or(ProxyError::Length)?;
            let mut octets = [0; 16];
            octets.copy_from_slice(&body[..16]);
            (Some(SocketAddr::from((Ipv6Addr::from(octets), u16::from_be_bytes([body[32], body[33]])))), 36)
        }
        0x31 | 0x32 => (None, 216),
        _ => (None, 0),
    };
    let tlvs = body.get(addresses_len..).ok_or(ProxyError::Length)?;
    Ok(Parsed::Header(ProxyHeader { len, source, common_name: common_name(tlvs)? }))
}

/// The common name among the TLVs, if the proxy reports a verified certificate.
fn common_name(tlvs: &[u8]) -> Result<Option<String>, ProxyError> {
    for tlv in Tlvs(tlvs) {
        let (kind, value) = tlv?;
        if kind != TLV_SSL {
            continue;
        }
        // A byte of flags (0x02, 0x04: a certificate was presented on the connection, in the session), then the result
        // of the verification (0: success).
        let (head, inner) = value.split_first_chunk::<5>().ok_or(ProxyError::Length)?;
        let presented = head[0] & 0x06 != 0;
        if !presented || head[1..] != [0; 4] {
            return Ok(None);
        }
        for tlv in Tlvs(inner) {
            let (kind, value) = tlv?;
            if kind == TLV_SSL_COMMON_NAME {
                return Ok(String::from_utf8(value.to_vec()).ok());
            }
        }
    }
    Ok(None)
}

/// Iterates over type-length-value triples.
struct Tlvs<'a>(&'a [u8]);

impl<'a> Iterator for Tlvs<'a> {
    type Item = Result<(u8, &'a [u8]), ProxyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let split = self.0.split_first_chunk::<3>().and_then(|(head, rest)| {
            let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
            Some((head[0], rest.split_at_checked(length)?))
        });
        match split {
            Some((kind, (value, rest))) => {
                self.0 = rest;
                Some(Ok((kind, value)))
            }
            None => {
                self.0 = &[];
                Some(Err(ProxyError::Length))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(len: usize, source: Option<&str>) -> Result<Parsed, ProxyError> {
        let source = source.map(|source| source.parse().unwrap());
        Ok(Parsed::Header(ProxyHeader { len, source, common_name: None }))
    }

    fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[version_command, family], &length, body].concat()
    }

    #[test]
    fn version_1_headers_are_parsed_or_refused() {
        let long = format!("PROXY UNKNOWN {}", "x".repeat(100));
        let cases: &[(&str, Result<Parsed, ProxyError>)] = &[
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 1883\r\n", header(43, Some("192.0.2.1:56324"))),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 1883\r\n\x10\x00", header(43, Some("192.0.2.1:56324"))),
            ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", header(32, Some("[2001:db8::1]:1"))),
            ("PROXY UNKNOWN\r\n", header(15, None)),
            ("PROXY UNKNOWN ff:: whatever 1 2\r\n", header(33, None)),
            ("", Ok(Parsed::Incomplete)),
            ("PRO", Ok(Parsed::Incomplete)),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 1883\r", Ok(Parsed::Incomplete)),
            ("PROXX", Err(ProxyError::Missing)),
            ("\x10\x0c\x00\x04MQTT", Err(ProxyError::Missing)),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n", Err(ProxyError::Line)),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 1883 9\r\n", Err(ProxyError::Line)),
            ("PROXY TCP4 ::1 ::1 1 2\r\n", Err(ProxyError::Line)),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 +1 1883\r\n", Err(ProxyError::Line)),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 65536 1883\r\n", Err(ProxyError::Line)),
            ("PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", Err(ProxyError::Line)),
            ("PROXY \r\n", Err(ProxyError::Line)),
            (&long, Err(ProxyError::LineTooLong)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(parse(bytes.as_bytes()), *expected, "{bytes:?}");
        }
    }

    #[test]
    fn version_2_headers_are_parsed_or_refused() {
        let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0xDC, 0x04, 0x07, 0x5B];
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0D, 0xB8]);
        v6[15] = 1;
        v6[33] = 7;
        let whole = v2(0x21, 0x11, &v4);
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), Ok(Parsed::Incomplete), "{cut} bytes");
        }
        assert_eq!(parse(&whole), header(28, Some("192.0.2.1:56324")));
        assert_eq!(parse(&v2(0x21, 0x21, &v6)), header(52, Some("[2001:db8::1]:7")));
        assert_eq!(parse(&v2(0x20, 0x00, &[])), header(16, None), "LOCAL");
        assert_eq!(parse(&v2(0x21, 0x00, &[])), header(16, None), "unspecified family");
        assert_eq!(parse(&v2(0x21, 0x31, &[0; 216])), header(232, None), "unix");
        assert_eq!(parse(&v2(0x21, 0x11, &v4[..11])), Err(ProxyError::Length));
        assert_eq!(parse(&v2(0x31, 0x11, &v4)), Err(ProxyError::Version));
        assert_eq!(parse(&v2(0x22, 0x11, &v4)), Err(ProxyError::Version));
        assert_eq!(parse(&v2(0x21, 0x11, &[0; 4097])), Err(ProxyError::TooLong));
        assert_eq!(parse(&v2(0x21, 0x11, &[&v4[..], &[4, 0]].concat())), Err(ProxyError::Length), "cut TLV");
        assert_eq!(parse(&v2(0x21, 0x11, &[&v4[..], &[4, 0, 9, 1]].concat())), Err(ProxyError::Length), "long TLV");
    }

    #[test]
    fn the_common_name_is_used_only_of_a_verified_certificate() {
        let v4 = [0; 12];
        let name = b"\x22\x00\x05dev-1";
        let cases: &[(&[u8], Option<&str>)] =
            &[(&[0x07, 0, 0, 0, 0], Some("dev-1")), (&[0x01, 0, 0, 0, 0], None), (&[0x07, 0, 0, 0, 1], None)];
        for (head, expected) in cases {
            let ssl = [head, &name[..]].concat();
            let tlv = [&[TLV_SSL, 0, u8::try_from(ssl.len()).unwrap()], &ssl[..]].concat();
            let noop = [4, 0, 1, 0];
            let Ok(Parsed::Header(header)) = parse(&v2(0x21, 0x11, &[&v4[..], &noop, &tlv].concat())) else {
                panic!("no header")
            };
            assert_eq!(header.common_name.as_deref(), *expected);
        }
    }
}
