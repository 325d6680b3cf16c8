//! The notation of raw bytes in scripts.
//!
//! `30 0a` hex; `'text'` its bytes; `s'text'` with two bytes of length; `t'topic'` the same, as a topic of this run;
//! `{ … }` with a variable byte integer of length; `[ … ]` with two bytes of length; `v5( … )` and `v3( … )` only in that
//! version; `( … )` grouping; `*N` the item before it N times.

use super::transport::Names;
use crate::wire::{Version, put_binary, put_variable_byte_integer};

/// Evaluates the notation.
pub fn evaluate(text: &str, version: Version, names: &Names) -> Result<Vec<u8>, String> {
    let mut parser = Parser { rest: text, version, names };
    let bytes = parser.items(None).map_err(|error| format!("{error} in bytes {text:?}"))?;
    Ok(bytes)
}

struct Parser<'a> {
    rest: &'a str,
    version: Version,
    names: &'a Names,
}

impl Parser<'_> {
    fn items(&mut self, end: Option<char>) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            let next = self.rest.chars().next();
            if next == end {
                self.rest = &self.rest[end.map_or(0, char::len_utf8)..];
                return Ok(bytes);
            }
            if next.is_none() {
                return Err(format!("{end:?} is missing"));
            }
            let item = self.item()?;
            let count = self.repetition()?;
            for _ in 0..count {
                bytes.extend_from_slice(&item);
            }
        }
    }

    fn item(&mut self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        if self.accept("v5(") {
            let inner = self.items(Some(')'))?;
            return Ok(if self.version.is_v5() { inner } else { bytes });
        }
        if self.accept("v3(") {
            let inner = self.items(Some(')'))?;
            return Ok(if self.version.is_v5() { bytes } else { inner });
        }
        if self.accept("(") {
            return self.items(Some(')'));
        }
        if self.accept("{") {
            let inner = self.items(Some('}'))?;
            put_variable_byte_integer(&mut bytes, inner.len() as u32);
            bytes.extend_from_slice(&inner);
            return Ok(bytes);
        }
        if self.accept("[") {
            put_binary(&mut bytes, &self.items(Some(']'))?);
            return Ok(bytes);
        }
        if self.accept("s'") {
            put_binary(&mut bytes, self.quoted()?.as_bytes());
            return Ok(bytes);
        }
        if self.accept("t'") {
            let topic = self.names.topic(self.quoted()?);
            put_binary(&mut bytes, topic.as_bytes());
            return Ok(bytes);
        }
        if self.accept("'") {
            return Ok(self.quoted()?.as_bytes().to_vec());
        }
        let digits = self.rest.get(..2).unwrap_or(self.rest);
        self.rest = &self.rest[digits.len()..];
        u8::from_str_radix(digits, 16).map(|byte| vec![byte]).map_err(|_| format!("{digits:?} is no hex byte"))
    }

    fn accept(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn quoted(&mut self) -> Result<&str, String> {
        let (text, rest) = self.rest.split_once('\'').ok_or("a quote is not closed")?;
        self.rest = rest;
        Ok(text)
    }

    fn repetition(&mut self) -> Result<usize, String> {
        if !self.accept("*") {
            return Ok(1);
        }
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        digits.parse().map_err(|_| format!("{digits:?} is no count"))
    }
}

#[test]
fn notation_is_evaluated() {
    let names = Names::new(Some("p"));
    let evaluate = |text, version| evaluate(text, version, &names);
    assert_eq!(evaluate("30 {s'ab' v5({}) 'hi'}", Version::V5), Ok(b"\x30\x07\0\x02ab\0hi".to_vec()));
    assert_eq!(evaluate("30 {s'ab' v5({}) 'hi'}", Version::V3_1_1), Ok(b"\x30\x06\0\x02abhi".to_vec()));
    assert_eq!(
        evaluate("00*3 (01 02)*2 t'x' [ff]", Version::V5),
        Ok(b"\0\0\0\x01\x02\x01\x02\0\x03p/x\0\x01\xff".to_vec())
    );
    assert!(evaluate("{00", Version::V5).is_err() && evaluate("zz", Version::V5).is_err());
}
