//! From when to when a certificate holds.

use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::certificate::CertificateError;
use super::der::{Der, SEQUENCE};

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xA0;

/// When a certificate begins to hold, and when it ends, from its DER.
///
/// # Errors
/// It is no certificate, or its times are none.
pub fn validity(der: &[u8]) -> Result<(OffsetDateTime, OffsetDateTime), CertificateError> {
    let mut fields = Der(Der(Der(der).expect(SEQUENCE)?).expect(SEQUENCE)?);
    fields.optional(VERSION)?;
    fields.expect(INTEGER)?;
    for _algorithm_issuer in 0..2 {
        fields.expect(SEQUENCE)?;
    }
    let mut times = Der(fields.expect(SEQUENCE)?);
    let mut next = || -> Result<OffsetDateTime, CertificateError> {
        let (tag, value) = times.next()?.ok_or(CertificateError::Der)?;
        time_of(tag, value).ok_or(CertificateError::Der)
    };
    Ok((next()?, next()?))
}

/// UTCTime and GeneralizedTime as certificates have them: to the second, in UTC (RFC 5280, 4.1.2.5).
fn time_of(tag: u8, value: &[u8]) -> Option<OffsetDateTime> {
    let text = std::str::from_utf8(value).ok()?.strip_suffix('Z')?;
    let text = match tag {
        // Two digits from 50 on are of the twentieth century.
        UTC_TIME if text.get(..2)? >= "50" => format!("19{text}"),
        UTC_TIME => format!("20{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let format = format_description!("[year][month][day][hour][minute][second]");
    PrimitiveDateTime::parse(&text, format).ok().map(PrimitiveDateTime::assume_utc)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use time::macros::datetime;

    use super::validity;

    #[test]
    fn both_ways_to_write_a_time_are_read() {
        for (from, to) in [((1999, 12, 31), (2049, 12, 31)), ((2020, 2, 29), (2050, 1, 1))] {
            let mut params = CertificateParams::new(vec!["a".to_owned()]).unwrap();
            params.not_before = date_time_ymd(from.0, from.1, from.2);
            params.not_after = date_time_ymd(to.0, to.1, to.2);
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let (begins, ends) = validity(certificate.der()).unwrap();
            assert_eq!((begins, ends), (params.not_before, params.not_after));
        }
        assert!(validity(b"no certificate").is_err());
        assert_eq!(super::time_of(super::UTC_TIME, b"261121100000Z"), Some(datetime!(2026-11-21 10:00 UTC)));
        assert_eq!(super::time_of(super::UTC_TIME, b"261321100000Z"), None);
    }
}
