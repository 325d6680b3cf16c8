//! A token's compact form (RFC 7515, section 7.1): three parts in base64url.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// A token, split and not yet verified.
pub(super) struct Token<'a> {
    pub(super) algorithm: String,
    pub(super) key_id: Option<String>,
    /// `crit`: extensions that must be understood; none is.
    pub(super) has_critical: bool,
    /// Header and payload as they are signed.
    pub(super) signed: &'a [u8],
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// `None`: it does not look like a token.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let mut dots = text.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(at, _)| at);
        let (first, second, None) = (dots.next()?, dots.next()?, dots.next()) else { return None };
        let part = |from: usize, to: usize| URL_SAFE_NO_PAD.decode(text.get(from..to)?).ok();
        let header: Map<String, Value> = serde_json::from_slice(&part(0, first)?).ok()?;
        let word = |name: &str| header.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            algorithm: word("alg")?,
            key_id: word("kid"),
            has_critical: header.contains_key("crit"),
            signed: text.get(..second)?,
            payload: part(first + 1, second)?,
            signature: part(second + 1, text.len())?,
        })
    }
}
