//! The formats that the schema names, beyond those of JSON Schema.

use super::{Cidr, FileRef, Host, Name, RemoteAddress, SecretRef, UnixMode, check_filter, check_topic};

/// Checks a text; the error is a phrase.
type Check = fn(&str) -> Result<(), String>;

/// What a pattern cannot say, or says less well. The document's types parse with the same functions, so that what the
/// schema accepts parses.
pub(super) const FORMATS: &[(&str, Check)] = &[
    ("weir-name", |text| Name::parse(text).map(drop)),
    ("weir-host", |text| Host::parse(text).map(drop)),
    ("weir-cidr", |text| Cidr::parse(text).map(drop)),
    ("weir-file", |text| FileRef::parse(text).map(drop)),
    ("weir-secret", |text| SecretRef::parse(text).map(drop)),
    ("weir-topic-filter", check_filter),
    ("weir-topic", check_topic),
    ("weir-bridge-address", |text| RemoteAddress::parse(text).map(drop)),
    ("weir-unix-mode", |text| UnixMode::try_from(text.to_owned()).map(drop)),
    ("weir-http-url", check_http_url),
    ("date-time", |text| {
        let parsed = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
        parsed.map(drop).map_err(|_| format!("{text:?} is no time"))
    }),
];

fn check_http_url(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let rest = rest.ok_or_else(|| format!("{text:?} is no http:// or https:// address"))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("a user and a password do not belong into an address; send them by `headers`".into());
    }
    if authority.is_empty() { Err(format!("{text:?} names no host")) } else { Ok(()) }
}

/// What is wrong with a text of a format, as a phrase.
pub(super) fn format_problem(format: &str, text: &str) -> Option<String> {
    FORMATS.iter().find(|(name, _)| *name == format).and_then(|(_, check)| check(text).err())
}
