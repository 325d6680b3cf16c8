//! What a client's certificate says of it.
//!
//! TLS has verified the certificate by the time it is read here; only its names are taken out of the DER.

use std::fmt::Write;
use std::net::IpAddr;

use super::der::{Der, Malformed, OID, SEQUENCE};

/// A client certificate that was verified against the endpoint's CA and CRL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerCertificate {
    /// The last common name of the subject.
    pub common_name: Option<String>,
    /// The whole subject as RFC 4514 writes it: `CN=device 7,O=Example`.
    pub subject: Option<String>,
    pub subject_alt_names: Vec<SubjectAltName>,
    /// Big-endian, without leading zeros.
    pub serial: Vec<u8>,
    /// The whole certificate; empty where a proxy has verified it and tells the name only.
    pub der: Vec<u8>,
}

/// One subject alternative name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectAltName {
    Dns(String),
    Email(String),
    Uri(String),
    Ip(IpAddr),
}

/// A certificate whose names cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("malformed DER")]
    Der,
    #[error("a name in it is no text, or holds a NUL")]
    Name,
}

impl From<Malformed> for CertificateError {
    fn from(_: Malformed) -> Self {
        Self::Der
    }
}

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0C;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const BMP_STRING: u8 = 0x1E;
const SET: u8 = 0x31;
const VERSION: u8 = 0xA0;
const EXTENSIONS: u8 = 0xA3;
const ALT_EMAIL: u8 = 0x81;
const ALT_DNS: u8 = 0x82;
const ALT_URI: u8 = 0x86;
const ALT_IP: u8 = 0x87;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1D, 0x11];

impl PeerCertificate {
    /// A client of which a trusted proxy says that it has shown a certificate of that name.
    pub fn named(common_name: String) -> Self {
        Self { common_name: Some(common_name), ..Self::default() }
    }

    /// Reads an X.509 certificate.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        // Certificate: TBSCertificate first (RFC 5280, 4.1).
        let mut fields = Der(Der(Der(der).expect(SEQUENCE)?).expect(SEQUENCE)?);
        fields.optional(VERSION)?;
        let serial = fields.expect(INTEGER)?;
        for _algorithm_issuer_validity in 0..3 {
            fields.expect(SEQUENCE)?;
        }
        let subject = fields.expect(SEQUENCE)?;
        fields.expect(SEQUENCE)?;
        let mut subject_alt_names = Vec::new();
        while let Some((tag, value)) = fields.next()? {
            if tag == EXTENSIONS {
                subject_alt_names = alt_names(value)?;
            }
        }
        let leading_zeros = serial.iter().take_while(|byte| **byte == 0).count();
        Ok(Self {
            common_name: common_name(subject)?,
            subject: Some(distinguished_name(subject)?),
            subject_alt_names,
            serial: serial[leading_zeros..].to_vec(),
            der: der.to_vec(),
        })
    }
}

/// Name: a sequence of sets of (type, value).
fn common_name(name: &[u8]) -> Result<Option<String>, CertificateError> {
    let mut found = None;
    let mut sets = Der(name);
    while let Some((tag, set)) = sets.next()? {
        if tag != SET {
            return Err(CertificateError::Der);
        }
        let mut attributes = Der(set);
        while let Some((_, attribute)) = attributes.next()? {
            let mut parts = Der(attribute);
            if parts.expect(OID)? == COMMON_NAME {
                let (tag, value) = parts.next()?.ok_or(CertificateError::Der)?;
                found = Some(text(tag, value)?);
            }
        }
    }
    Ok(found)
}

/// Attribute types with a short name (RFC 4514, section 3).
const SHORT_NAMES: [(&[u8], &str); 9] = [
    (COMMON_NAME, "CN"),
    (&[0x55, 0x04, 0x07], "L"),
    (&[0x55, 0x04, 0x08], "ST"),
    (&[0x55, 0x04, 0x0A], "O"),
    (&[0x55, 0x04, 0x0B], "OU"),
    (&[0x55, 0x04, 0x06], "C"),
    (&[0x55, 0x04, 0x09], "STREET"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 0x01, 0x19], "DC"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 0x01, 0x01], "UID"),
];

/// A Name as text, the last set first (RFC 4514, section 2).
fn distinguished_name(name: &[u8]) -> Result<String, CertificateError> {
    let mut sets = Vec::new();
    let mut list = Der(name);
    while let Some((_, set)) = list.next()? {
        let mut attributes = Vec::new();
        let mut set = Der(set);
        while let Some((_, attribute)) = set.next()? {
            let mut parts = Der(attribute);
            let oid = parts.expect(OID)?;
            let (tag, value) = parts.next()?.ok_or(CertificateError::Der)?;
            attributes.push(match SHORT_NAMES.iter().find(|(known, _)| *known == oid) {
                Some((_, name)) => format!("{name}={}", escaped(&text(tag, value)?)),
                None => format!("{}={}", dotted(oid), hex_value(tag, value)),
            });
        }
        sets.push(attributes.join("+"));
    }
    sets.reverse();
    Ok(sets.join(","))
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for (at, c) in text.char_indices() {
        let at_start = at == 0 && matches!(c, ' ' | '#');
        let at_end = at + c.len_utf8() == text.len() && c == ' ';
        if at_start || at_end || matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn dotted(oid: &[u8]) -> String {
    let mut numbers: Vec<u64> = Vec::new();
    let mut number: u64 = 0;
    for byte in oid {
        number = (number << 7) | u64::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            numbers.push(std::mem::take(&mut number));
        }
    }
    let first = numbers.first().copied().unwrap_or(0);
    let root = (first / 40).min(2);
    let rest = numbers.iter().skip(1).map(u64::to_string);
    [root.to_string(), (first - root * 40).to_string()].into_iter().chain(rest).collect::<Vec<_>>().join(".")
}

/// `#` and the value's DER, hexadecimal.
fn hex_value(tag: u8, value: &[u8]) -> String {
    let mut out = String::from("#");
    let length = value.len().to_be_bytes();
    let significant = length.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    let header: Vec<u8> = if value.len() < 0x80 {
        vec![tag, significant.first().copied().unwrap_or(0)]
    } else {
        [&[tag, 0x80 | significant.len() as u8], significant.as_slice()].concat()
    };
    for byte in header.iter().chain(value) {
        // Writing to a String does not fail.
        let _ok = write!(out, "{byte:02x}");
    }
    out
}

fn alt_names(extensions: &[u8]) -> Result<Vec<SubjectAltName>, CertificateError> {
    let mut found = Vec::new();
    let mut list = Der(Der(extensions).expect(SEQUENCE)?);
    while let Some((_, extension)) = list.next()? {
        let mut parts = Der(extension);
        if parts.expect(OID)? != SUBJECT_ALT_NAME {
            continue;
        }
        parts.optional(BOOLEAN)?;
        let mut names = Der(Der(parts.expect(OCTET_STRING)?).expect(SEQUENCE)?);
        while let Some((tag, value)) = names.next()? {
            match tag {
                ALT_DNS => found.push(SubjectAltName::Dns(text(IA5_STRING, value)?)),
                ALT_EMAIL => found.push(SubjectAltName::Email(text(IA5_STRING, value)?)),
                ALT_URI => found.push(SubjectAltName::Uri(text(IA5_STRING, value)?)),
                ALT_IP => found.push(SubjectAltName::Ip(address(value)?)),
                _ => {}
            }
        }
    }
    Ok(found)
}

fn address(value: &[u8]) -> Result<IpAddr, CertificateError> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Ok(v4.into());
    }
    <[u8; 16]>::try_from(value).map(IpAddr::from).map_err(|_| CertificateError::Der)
}

/// A name ends up as a user name: what another reader could take for a different one (a NUL cuts it) is refused.
fn text(tag: u8, value: &[u8]) -> Result<String, CertificateError> {
    let text = match tag {
        UTF8_STRING => std::str::from_utf8(value).map_err(|_| CertificateError::Name)?.to_owned(),
        PRINTABLE_STRING | IA5_STRING if value.is_ascii() => value.iter().map(|byte| char::from(*byte)).collect(),
        // In practice Latin-1, whose code points are Unicode's.
        TELETEX_STRING => value.iter().map(|byte| char::from(*byte)).collect(),
        BMP_STRING if value.len().is_multiple_of(2) => {
            let units: Vec<u16> = value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            String::from_utf16(&units).map_err(|_| CertificateError::Name)?
        }
        _ => return Err(CertificateError::Name),
    };
    if text.contains('\0') { Err(CertificateError::Name) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use rcgen::string::{BmpString, PrintableString, TeletexString};
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType, SerialNumber};

    use super::*;

    fn certificate(common_names: Vec<DnValue>, names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "not this one");
        for name in common_names {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names = names;
        params.serial_number = Some(SerialNumber::from(vec![0xFF, 0x00, 0x01]));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn common_names_of_every_string_type_are_read() {
        let cases = [
            (DnValue::Utf8String("gerät-1".into()), "gerät-1"),
            (DnValue::PrintableString(PrintableString::try_from("device 1").unwrap()), "device 1"),
            (DnValue::TeletexString(TeletexString::try_from("device-1").unwrap()), "device-1"),
            (DnValue::BmpString(BmpString::try_from("gerät-1").unwrap()), "gerät-1"),
        ];
        for (value, expected) in cases {
            let parsed = PeerCertificate::parse(&certificate(vec![value], Vec::new())).unwrap();
            assert_eq!(parsed.common_name.as_deref(), Some(expected));
            assert_eq!(parsed.serial, [0xFF, 0x00, 0x01]);
        }
        let nameless = PeerCertificate::parse(&certificate(Vec::new(), Vec::new())).unwrap();
        assert_eq!((nameless.common_name, nameless.subject_alt_names), (None, Vec::new()));
    }

    #[test]
    fn a_name_that_a_nul_would_cut_is_refused() {
        let der = certificate(vec![DnValue::Utf8String("admin\0.example".into())], Vec::new());
        assert_eq!(PeerCertificate::parse(&der), Err(CertificateError::Name));
    }

    #[test]
    fn alternative_names_are_read_in_order() {
        let names = vec![
            SanType::DnsName("a.example".try_into().unwrap()),
            SanType::Rfc822Name("a@example.com".try_into().unwrap()),
            SanType::URI("urn:dev:1".try_into().unwrap()),
            SanType::IpAddress("192.0.2.1".parse().unwrap()),
            SanType::IpAddress("2001:db8::1".parse().unwrap()),
        ];
        let expected = [
            SubjectAltName::Dns("a.example".into()),
            SubjectAltName::Email("a@example.com".into()),
            SubjectAltName::Uri("urn:dev:1".into()),
            SubjectAltName::Ip("192.0.2.1".parse().unwrap()),
            SubjectAltName::Ip("2001:db8::1".parse().unwrap()),
        ];
        assert_eq!(PeerCertificate::parse(&certificate(Vec::new(), names)).unwrap().subject_alt_names, expected);
    }

    #[test]
    fn malformed_ones_are_refused_without_a_panic() {
        let der =
            certificate(vec![DnValue::Utf8String("device-1".into())], vec![SanType::URI("urn:x".try_into().unwrap())]);
        for cut in 0..der.len() {
            assert!(PeerCertificate::parse(&der[..cut]).is_err(), "{cut} bytes");
        }
        for at in 0..der.len() {
            for flip in [0x01, 0x80, 0xFF] {
                let mut bad = der.clone();
                bad[at] ^= flip;
                // Whatever it reads, it ends.
                let _ = PeerCertificate::parse(&bad);
            }
        }
    }
}
