//! What a client's certificate says of it.

use std::net::IpAddr;

/// A client certificate that was verified against the endpoint's CA and CRL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The last common name of the subject.
    pub common_name: Option<String>,
    pub subject_alt_names: Vec<SubjectAltName>,
    /// Big-endian, without leading zeros.
    pub serial: Vec<u8>,
    /// The end entity's certificate, DER.
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
