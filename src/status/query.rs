//! A request's query, read strictly: a parameter that a path does not know is refused, not passed over.

use super::http::Problem;

/// The parameters of one request, decoded, each at most once.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(&'static str, String)>);

impl Query {
    /// Reads `raw` (what follows `?`), of which `known` names may occur.
    pub(super) fn parse(raw: Option<&str>, known: &'static [&'static str]) -> Result<Self, Problem> {
        let mut query = Self::default();
        for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).ok_or_else(|| undecodable(name))?;
            let value = decode(value).ok_or_else(|| undecodable(value))?;
            let Some(known_name) = known.iter().find(|each| **each == name) else {
                return Err(unknown(&name, known));
            };
            if query.get(known_name).is_some() {
                return Err(Problem::bad_request(format!("parameter {known_name} is given twice; give it once")));
            }
            query.0.push((known_name, value));
        }
        Ok(query)
    }

    /// The value as given, `None` where it is not.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(each, _)| *each == name).map(|(_, value)| value.as_str())
    }

    /// A TCP port.
    pub(super) fn port(&self) -> Result<Option<u16>, Problem> {
        let Some(value) = self.get("port") else { return Ok(None) };
        match parse_decimal(value).and_then(|port| u16::try_from(port).ok()) {
            Some(port) if port > 0 => Ok(Some(port)),
            _ => Err(Problem::bad_request(format!("port {value:?} is not a number from 1 to 65535"))),
        }
    }

    /// A whole number.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match parse_decimal(value) {
            Some(number) => Ok(Some(number)),
            None => Err(Problem::bad_request(format!("{name} {value:?} is not a whole number"))),
        }
    }

    /// `true` or `false`; `false` where it is not given.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Problem::bad_request(format!("{name}={other:?} is neither true nor false"))),
        }
    }

    /// How many to answer with: from 1 to `most`.
    pub(super) fn limit(&self, default: usize, most: usize) -> Result<usize, Problem> {
        let Some(value) = self.get("limit") else { return Ok(default) };
        match parse_decimal(value).and_then(|limit| usize::try_from(limit).ok()) {
            Some(limit) if (1..=most).contains(&limit) => Ok(limit),
            _ => Err(Problem::bad_request(format!("limit {value:?} is not a number from 1 to {most}"))),
        }
    }
}

/// Digits only: no sign, no space.
fn parse_decimal(value: &str) -> Option<u64> {
    value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok()).flatten()
}

fn unknown(name: &str, known: &[&str]) -> Problem {
    let closest = known.iter().max_by(|a, b| strsim::jaro(name, a).total_cmp(&strsim::jaro(name, b)));
    let hint = match closest {
        None => "this path has no parameters".to_owned(),
        Some(closest) if strsim::jaro(name, closest) > 0.7 => format!("did you mean {closest}?"),
        Some(_) => format!("its parameters are {}", known.join(", ")),
    };
    Problem::bad_request(format!("unknown parameter {name:?}; {hint}"))
}

fn undecodable(text: &str) -> Problem {
    Problem::bad_request(format!("{text:?} is not percent-encoded UTF-8"))
}

/// Percent-decoding, `+` for a space. `None` where the encoding or the UTF-8 is wrong.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["port", "name", "limit"];

    fn parse(raw: &str) -> Result<Query, Problem> {
        Query::parse(Some(raw), KNOWN)
    }

    #[test]
    fn values_are_decoded() {
        let query = parse("name=eu%2Ftenant+a&port=1883").unwrap();
        assert_eq!(query.get("name"), Some("eu/tenant a"));
        assert_eq!(query.port().unwrap(), Some(1883));
    }

    #[test]
    fn invalid_queries_are_refused_with_the_reason() {
        let message = |raw: &str| match parse(raw) {
            Err(problem) => problem.message,
            Ok(query) => query.port().unwrap_err().message,
        };
        assert_eq!(message("prot=1"), "unknown parameter \"prot\"; did you mean port?");
        assert_eq!(message("x=1"), "unknown parameter \"x\"; its parameters are port, name, limit");
        assert_eq!(message("port=1&port=2"), "parameter port is given twice; give it once");
        assert_eq!(message("name=%f"), "\"%f\" is not percent-encoded UTF-8");
        assert_eq!(message("name=%ff"), "\"%ff\" is not percent-encoded UTF-8");
        for port in ["0", "65536", "-1", "+1", "1e3", "", "99999999999999999999"] {
            assert!(parse(&format!("port={}", port.replace('+', "%2B"))).unwrap().port().is_err(), "{port}");
        }
    }
}
