//! Names and times of X.509 certificates.
//!
//! TLS has verified a client's certificate before it is read here.

use std::net::IpAddr;

use data_encoding::HEXLOWER;
use time::OffsetDateTime;
use x509_parser::asn1_rs::{Any, Tag, ToDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{
    OID_DOMAIN_COMPONENT, OID_USERID, OID_X509_COMMON_NAME, OID_X509_COUNTRY_NAME, OID_X509_LOCALITY_NAME,
    OID_X509_ORGANIZATION_NAME, OID_X509_ORGANIZATIONAL_UNIT, OID_X509_STATE_OR_PROVINCE_NAME, OID_X509_STREET_ADDRESS,
    Oid,
};
use x509_parser::prelude::{FromDer, X509Error};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

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
    /// The whole certificate, DER; empty if a proxy has verified it.
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

/// Why a certificate cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("not an X.509 certificate in DER: {0}")]
    Malformed(String),
    #[error("a name in it is not text, or contains a NUL")]
    Name,
}

impl From<X509Error> for CertificateError {
    fn from(error: X509Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl PeerCertificate {
    /// A certificate that a trusted proxy has verified; the proxy passes on only the common name.
    pub fn named(common_name: String) -> Self {
        Self { common_name: Some(common_name), ..Self::default() }
    }

    /// Reads an X.509 certificate.
    ///
    /// # Errors
    /// It is malformed, or a name in it cannot be used as a user name.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        let subject = certificate.subject();
        let common_name = subject.iter_common_name().last().map(|attribute| text(attribute.attr_value()));
        let serial = certificate.raw_serial();
        let leading_zeros = serial.iter().take_while(|byte| **byte == 0).count();
        Ok(Self {
            common_name: common_name.transpose()?,
            subject: Some(distinguished_name(subject)?),
            subject_alt_names: alt_names(&certificate)?,
            serial: serial[leading_zeros..].to_vec(),
            der: der.to_vec(),
        })
    }
}

/// The first and the last moment at which a certificate is valid.
///
/// # Errors
/// It is malformed.
pub fn validity(der: &[u8]) -> Result<(OffsetDateTime, OffsetDateTime), CertificateError> {
    let certificate = parse(der)?;
    let validity = certificate.validity();
    Ok((validity.not_before.to_datetime(), validity.not_after.to_datetime()))
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    let parsed = X509Certificate::from_der(der);
    parsed.map(|(_, certificate)| certificate).map_err(|error| CertificateError::Malformed(error.to_string()))
}

/// Attribute types with a short name (RFC 4514, section 3).
const SHORT_NAMES: [(Oid<'_>, &str); 9] = [
    (OID_X509_COMMON_NAME, "CN"),
    (OID_X509_LOCALITY_NAME, "L"),
    (OID_X509_STATE_OR_PROVINCE_NAME, "ST"),
    (OID_X509_ORGANIZATION_NAME, "O"),
    (OID_X509_ORGANIZATIONAL_UNIT, "OU"),
    (OID_X509_COUNTRY_NAME, "C"),
    (OID_X509_STREET_ADDRESS, "STREET"),
    (OID_DOMAIN_COMPONENT, "DC"),
    (OID_USERID, "UID"),
];

/// A Name as text, the last set first (RFC 4514, section 2). `X509Name`'s own `Display` neither reverses nor escapes.
fn distinguished_name(name: &X509Name<'_>) -> Result<String, CertificateError> {
    let mut sets = Vec::new();
    for set in name.iter_rdn() {
        let attributes: Vec<String> = set.iter().map(attribute).collect::<Result<_, _>>()?;
        sets.push(attributes.join("+"));
    }
    sets.reverse();
    Ok(sets.join(","))
}

/// `type=value`; for a type without a short name, the value is `#` and its DER in hexadecimal.
fn attribute(attribute: &AttributeTypeAndValue<'_>) -> Result<String, CertificateError> {
    let (oid, value) = (attribute.attr_type(), attribute.attr_value());
    match SHORT_NAMES.iter().find(|(known, _)| known == oid) {
        Some((_, name)) => Ok(format!("{name}={}", escaped(&text(value)?))),
        None => {
            let der = value.to_der_vec().map_err(|error| CertificateError::Malformed(error.to_string()))?;
            Ok(format!("{oid}=#{}", HEXLOWER.encode(&der)))
        }
    }
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

fn alt_names(certificate: &X509Certificate<'_>) -> Result<Vec<SubjectAltName>, CertificateError> {
    let Some(extension) = certificate.subject_alternative_name()? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => found.push(SubjectAltName::Dns(ascii(name)?)),
            GeneralName::RFC822Name(name) => found.push(SubjectAltName::Email(ascii(name)?)),
            GeneralName::URI(name) => found.push(SubjectAltName::Uri(ascii(name)?)),
            GeneralName::IPAddress(bytes) => found.push(SubjectAltName::Ip(address(bytes)?)),
            GeneralName::Invalid(..) => return Err(CertificateError::Name),
            _ => {}
        }
    }
    Ok(found)
}

fn address(bytes: &[u8]) -> Result<IpAddr, CertificateError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    let v6 = <[u8; 16]>::try_from(bytes);
    v6.map(IpAddr::from).map_err(|_| CertificateError::Malformed(format!("an IP address of {} bytes", bytes.len())))
}

/// The text of a name. A name becomes a user name: one that another reader could take for a different one (a NUL cuts it)
/// is refused.
fn text(value: &Any<'_>) -> Result<String, CertificateError> {
    let text = match value.tag() {
        Tag::Utf8String => std::str::from_utf8(value.data).map_err(|_| CertificateError::Name)?.to_owned(),
        Tag::PrintableString | Tag::Ia5String if value.data.is_ascii() => latin1(value.data),
        // In practice Latin-1.
        Tag::T61String => latin1(value.data),
        Tag::BmpString if value.data.len().is_multiple_of(2) => {
            let units: Vec<u16> =
                value.data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            String::from_utf16(&units).map_err(|_| CertificateError::Name)?
        }
        _ => return Err(CertificateError::Name),
    };
    if text.contains('\0') { Err(CertificateError::Name) } else { Ok(text) }
}

/// Latin-1's code points are Unicode's.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// An IA5String, which the parser has taken for UTF-8.
fn ascii(name: &str) -> Result<String, CertificateError> {
    if name.is_ascii() && !name.contains('\0') { Ok(name.to_owned()) } else { Err(CertificateError::Name) }
}

#[cfg(test)]
mod tests {
    use rcgen::string::{BmpString, PrintableString, TeletexString};
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType, SerialNumber, date_time_ymd};

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
    fn a_name_with_a_nul_is_refused() {
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
    fn malformed_certificates_are_refused_without_a_panic() {
        let der =
            certificate(vec![DnValue::Utf8String("device-1".into())], vec![SanType::URI("urn:x".try_into().unwrap())]);
        for cut in 0..der.len() {
            assert!(PeerCertificate::parse(&der[..cut]).is_err(), "{cut} bytes");
        }
        for at in 0..der.len() {
            for flip in [0x01, 0x80, 0xFF] {
                let mut bad = der.clone();
                bad[at] ^= flip;
                let _result = PeerCertificate::parse(&bad); // whatever it is, there is no panic
            }
        }
    }

    #[test]
    fn a_subject_is_written_in_the_form_of_rfc_4514() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, " Example, Inc.");
        params.distinguished_name.push(DnType::CustomDnType(vec![1, 2, 3, 4]), "x");
        params.distinguished_name.push(DnType::CommonName, "device 7");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let subject = PeerCertificate::parse(certificate.der()).unwrap().subject;
        assert_eq!(subject.as_deref(), Some("CN=device 7,1.2.3.4=#0c0178,O=\\ Example\\, Inc."));
    }

    #[test]
    fn times_before_and_after_2050_are_read() {
        for (from, to) in [((1999, 12, 31), (2049, 12, 31)), ((2020, 2, 29), (2050, 1, 1))] {
            let mut params = CertificateParams::new(vec!["a".to_owned()]).unwrap();
            params.not_before = date_time_ymd(from.0, from.1, from.2);
            params.not_after = date_time_ymd(to.0, to.1, to.2);
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            assert_eq!(validity(certificate.der()).unwrap(), (params.not_before, params.not_after));
        }
        assert!(validity(b"no certificate").is_err());
    }
}
