//! What a client's certificate says of it.
//!
//! TLS has verified the certificate by the time it is read here; only its names are taken out of the DER.

use std::net::IpAddr;

/// A client certificate that was verified against the endpoint's CA and CRL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerCertificate {
    /// The last common name of the subject.
    pub common_name: Option<String>,
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

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0C;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const BMP_STRING: u8 = 0x1E;
const SEQUENCE: u8 = 0x30;
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
        let common_name = common_name(fields.expect(SEQUENCE)?)?;
        fields.expect(SEQUENCE)?;
        let mut subject_alt_names = Vec::new();
        while let Some((tag, value)) = fields.next()? {
            if tag == EXTENSIONS {
                subject_alt_names = alt_names(value)?;
            }
        }
        let leading_zeros = serial.iter().take_while(|byte| **byte == 0).count();
        Ok(Self { common_name, subject_alt_names, serial: serial[leading_zeros..].to_vec(), der: der.to_vec() })
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
        BMP_STRING if value.len() % 2 == 0 => {
            let units: Vec<u16> = value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            String::from_utf16(&units).map_err(|_| CertificateError::Name)?
        }
        _ => return Err(CertificateError::Name),
    };
    if text.contains('\0') { Err(CertificateError::Name) } else { Ok(text) }
}

/// Walks the values of a DER sequence.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next tag and contents; `None` at the end.
    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, CertificateError> {
        let (tag, rest) = match self.0 {
            [] => return Ok(None),
            [tag, rest @ ..] => (*tag, rest),
        };
        let (length, rest) = match rest {
            [short @ 0..=0x7F, rest @ ..] => (usize::from(*short), rest),
            [0x81, length, rest @ ..] => (usize::from(*length), rest),
            [0x82, a, b, rest @ ..] => (usize::from(u16::from_be_bytes([*a, *b])), rest),
            [0x83, a, b, c, rest @ ..] => (u32::from_be_bytes([0, *a, *b, *c]) as usize, rest),
            _ => return Err(CertificateError::Der),
        };
        let (value, rest) = rest.split_at_checked(length).ok_or(CertificateError::Der)?;
        self.0 = rest;
        Ok(Some((tag, value)))
    }

    fn expect(&mut self, wanted: u8) -> Result<&'a [u8], CertificateError> {
        match self.next()? {
            Some((tag, value)) if tag == wanted => Ok(value),
            _ => Err(CertificateError::Der),
        }
    }

    fn optional(&mut self, wanted: u8) -> Result<Option<&'a [u8]>, CertificateError> {
        if self.0.first() == Some(&wanted) { self.expect(wanted).map(Some) } else { Ok(None) }
    }
}
