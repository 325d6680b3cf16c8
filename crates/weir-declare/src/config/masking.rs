//! Masks the places of documents where credentials may stand in clear text: user information and queries of URLs, and
//! values of HTTP headers. References (`file:`, `env:`) stay.

use std::sync::Arc;

use serde_json::Value;

use super::{Auth, Authenticator, Declared, HeaderValue};

const MASK: &str = "***";

/// The text with user information and query of each URL masked.
pub fn mask_urls(text: &str) -> String {
    let mut parts = text.split("://");
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        clean.push_str("://");
        let end =
            part.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`')).unwrap_or(part.len());
        let (url, rest) = part.split_at(end);
        let (address, query) = match url.split_once('?') {
            Some((address, query)) => (address, Some(query)),
            None => (url, None),
        };
        let authority = address.find(['/', '#', ',', '}', ']']).unwrap_or(address.len());
        match address[..authority].rfind('@') {
            Some(at) => clean.extend([MASK, &address[at..]]),
            None => clean.push_str(address),
        }
        if let Some(query) = query {
            let end = query.find(['#', ',', '}', ']']).unwrap_or(query.len());
            clean.extend(["?", MASK, &query[end..]]);
        }
        clean.push_str(rest);
    }
    clean
}

/// Masks a document's body, or any value that holds documents.
pub fn mask_value(value: &mut Value) {
    match value {
        Value::String(text) if text.contains("://") => *text = mask_urls(text),
        Value::Array(items) => items.iter_mut().for_each(mask_value),
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match value {
                    Value::Object(headers) if name == "headers" => headers.values_mut().for_each(mask_header),
                    other => mask_value(other),
                }
            }
        }
        _ => {}
    }
}

fn mask_header(value: &mut Value) {
    if !value.as_str().is_some_and(is_reference) {
        *value = Value::from(MASK);
    }
}

fn is_reference(text: &str) -> bool {
    text.starts_with("file:") || text.starts_with("env:")
}

/// Masks text that holds documents as YAML or JSON: URLs, and the lines or braces of `headers`.
pub fn mask_text(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    // The indentation of a `headers:` line whose values follow.
    let mut headers: Option<usize> = None;
    for line in text.split_inclusive('\n') {
        // A diff's mark stands before the indentation.
        let body = line.strip_prefix(['+', '-', ' ']).unwrap_or(line);
        let indent = body.len() - body.trim_start_matches([' ', '-']).len();
        let content = body.trim();
        if headers.is_some_and(|parent| !content.is_empty() && indent <= parent) {
            headers = None;
        }
        if headers.is_some()
            && let Some((key, value)) = line.split_once(": ")
            && !is_reference(value.trim().trim_matches(['"', '\'']))
        {
            clean.push_str(key);
            clean.push_str(": ***\n");
            continue;
        }
        if content.trim_start_matches("- ") == "headers:" {
            headers = Some(indent);
        }
        clean.push_str(&mask_braces(line));
    }
    mask_urls(&clean)
}

/// Masks what stands in the braces after `headers:`.
fn mask_braces(line: &str) -> String {
    let mut clean = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("headers") {
        let (before, after) = rest.split_at(at + "headers".len());
        clean.push_str(before);
        rest = after;
        let opened = after.find('{').filter(|open| {
            after
                .get(..*open)
                .is_some_and(|between| between.chars().all(|c| matches!(c, '"' | '\\' | ':' | ' ' | '\'')))
        });
        if let Some(open) = opened {
            let close = after[open..].find('}').map_or(after.len(), |close| open + close);
            clean.push_str(&after[..=open]);
            clean.push_str(MASK);
            rest = &after[close..];
        }
    }
    clean.push_str(rest);
    clean
}

/// The declaration as a broker shows it: with the values masked that [`mask_value`] masks.
#[must_use]
pub fn masked(declared: &Declared) -> Declared {
    let mut shown = declared.clone();
    for auth in shown.auths.values_mut() {
        let holds = |each: &Authenticator| matches!(each, Authenticator::Http(_));
        if auth.chain.iter().any(holds) {
            *auth = Arc::new(masked_auth(auth));
        }
    }
    shown
}

fn masked_auth(auth: &Auth) -> Auth {
    let mut auth = auth.clone();
    for each in &mut auth.chain {
        if let Authenticator::Http(hook) = each {
            hook.url = Arc::from(mask_urls(&hook.url));
            for value in hook.headers.values_mut() {
                if let HeaderValue::Plain(text) = value {
                    *text = Arc::from(MASK);
                }
            }
        }
    }
    auth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_information_and_queries_of_urls_are_masked() {
        let cases = [
            ("{\"url\":\"http://ada:hunter2@auth.example.com/a@b\"}", "{\"url\":\"http://***@auth.example.com/a@b\"}"),
            ("https://example.com mqtts://x@y", "https://example.com mqtts://***@y"),
            ("http://a/b?key=hunter2&x#top, then", "http://a/b?***#top, then"),
            ("{url: http://a?k=1, method: GET}", "{url: http://a?***, method: GET}"),
            ("no url?", "no url?"),
        ];
        for (text, clean) in cases {
            assert_eq!(mask_urls(text), clean);
        }
    }

    #[test]
    fn header_values_are_masked_and_references_stay() {
        let mut value = serde_json::json!({"chain": [{"http": {"url": "https://a/?k=hunter2",
            "headers": {"authorization": "Bearer hunter2", "x-key": "file:key", "y": "env:Y"}}}]});
        mask_value(&mut value);
        let http = &value["chain"][0]["http"];
        assert_eq!(http["url"], "https://a/?***");
        assert_eq!(http["headers"], serde_json::json!({"authorization": "***", "x-key": "file:key", "y": "env:Y"}));
        let yaml = "@@\n   - http:\n       headers:\n+        authorization: Bearer hunter2\n         x: env:X\n       method: GET\n";
        let clean =
            "@@\n   - http:\n       headers:\n+        authorization: ***\n         x: env:X\n       method: GET\n";
        assert_eq!(mask_text(yaml), clean);
        let json = r#"{"http":{"headers":{"a":"hunter2"},"method":"GET"}} \"headers\":{\"a\":\"hunter2\"}"#;
        assert!(!mask_text(json).contains("hunter2") && mask_text(json).contains("GET"), "{}", mask_text(json));
    }
}
