//! The certificate authorities that this system trusts.

/// Where systems keep the certificate authorities that they trust.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The certificate authorities that this system trusts (PEM), where it keeps any.
pub(crate) fn system_authorities() -> Option<Vec<u8>> {
    SYSTEM_AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok())
}
