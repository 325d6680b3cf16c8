//! The formats that the schema names, beyond those of JSON Schema.

use std::fmt::Display;

use super::{Cidr, FileRef, Host, Name, RemoteAddress, SecretRef, UnixMode, check_filter, check_topic};

/// The problem of a text, as a phrase; `None`: the text has the format.
type Check = fn(&str) -> Option<String>;

/// Checks that a pattern cannot express, or whose message a pattern cannot give. The types of documents parse with the
/// same functions, so a text that the schema accepts always parses.
pub(super) const FORMATS: &[(&str, Check)] = &[
    ("weir-name", |text| problem(Name::parse(text))),
    ("weir-host", |text| problem(Host::parse(text))),
    ("weir-cidr", |text| problem(Cidr::parse(text))),
    ("weir-file", |text| problem(FileRef::parse(text))),
    ("weir-secret", |text| problem(SecretRef::parse(text))),
    ("weir-topic-filter", |text| problem(check_filter(text))),
    ("weir-topic", |text| problem(check_topic(text))),
    ("weir-bridge-address", |text| problem(RemoteAddress::parse(text))),
    ("weir-unix-mode", |text| problem(UnixMode::try_from(text.to_owned()))),
    ("weir-http-url", http_url_problem),
    ("date-time", |text| {
        let parsed = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
        parsed.is_err().then(|| format!("{text:?} is not a time"))
    }),
];

fn problem<T, E: Display>(parsed: Result<T, E>) -> Option<String> {
    parsed.err().map(|error| error.to_string())
}

fn http_url_problem(text: &str) -> Option<String> {
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else {
        return Some(format!("{text:?} is not an http:// or https:// address"));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Some("the address must not contain a username or a password; send them by `headers`".to_owned());
    }
    authority.is_empty().then(|| format!("{text:?} names no host"))
}

/// The problem of a text that the schema wants in `format`, as a phrase; `None`: there is none, or no such format.
pub(super) fn format_problem(format: &str, text: &str) -> Option<String> {
    FORMATS.iter().find(|(name, _)| *name == format).and_then(|(_, check)| check(text))
}
