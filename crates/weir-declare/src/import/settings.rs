//! A section of a configuration, whose settings are taken out one by one: what is left over is listed.

use super::draft::Draft;
use super::hocon::{Hocon, Node};

/// The settings of a section that were not read yet.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Where the section is; empty: it is the root.
    path: String,
    fields: Vec<(String, Node)>,
    /// Settings whose value has the wrong form: line, path, why.
    malformed: Vec<(Option<usize>, String, String)>,
}

/// A limit that may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// `infinity`, `disabled`, 0 where that means none.
    None,
    Of(u64),
}

impl Settings {
    pub(super) fn new(path: impl Into<String>, fields: Vec<(String, Node)>) -> Self {
        Self { path: path.into(), fields, malformed: Vec::new() }
    }

    /// The path of a setting.
    pub(super) fn path_of(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", key) => key.to_owned(),
            (path, "") => path.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    /// The names of the settings that are left.
    pub(super) fn keys(&self) -> Vec<String> {
        self.fields.iter().map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.fields.iter().any(|(known, _)| known == key)
    }

    fn take(&mut self, key: &str) -> Option<Node> {
        let at = self.fields.iter().position(|(known, _)| known == key)?;
        Some(self.fields.remove(at).1)
    }

    /// Takes the section `key`; without it, an empty one.
    pub(super) fn section(&mut self, key: &str) -> Settings {
        let path = self.path_of(key);
        match self.take(key) {
            None => Settings::new(path, Vec::new()),
            Some(Node { value: Hocon::Object(fields), .. }) => Settings::new(path, fields),
            Some(node) => {
                self.refuse(node.line, key, "not a section");
                Settings::new(path, Vec::new())
            }
        }
    }

    /// Takes a list of sections, or one section.
    pub(super) fn sections(&mut self, key: &str) -> Vec<Settings> {
        let path = self.path_of(key);
        let Some(node) = self.take(key) else { return Vec::new() };
        let items = match node.value {
            Hocon::List(items) => items,
            _ => vec![node],
        };
        let mut sections = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            match item.value {
                Hocon::Object(fields) => sections.push(Settings::new(format!("{path}.{}", index + 1), fields)),
                _ => self.refuse(item.line, key, "not a section"),
            }
        }
        sections
    }

    /// Takes the texts of a list.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        let Some(node) = self.take(key) else { return Vec::new() };
        let items = match node.value {
            Hocon::List(items) => items,
            Hocon::Scalar(text) => return text.split(',').map(|text| text.trim().to_owned()).collect(),
            Hocon::Object(_) => {
                self.refuse(node.line, key, "not a list");
                return Vec::new();
            }
        };
        let mut texts = Vec::new();
        for item in items {
            match item.value {
                Hocon::Scalar(text) => texts.push(text),
                _ => self.refuse(item.line, key, "an item is not a text"),
            }
        }
        texts
    }

    /// Takes a text that is not empty.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        let node = self.take(key)?;
        match node.value {
            Hocon::Scalar(text) => Some(text).filter(|text| !text.is_empty()),
            _ => {
                self.refuse(node.line, key, "not a text");
                None
            }
        }
    }

    fn parsed<T>(&mut self, key: &str, form: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let line = self.line_of(key);
        let text = self.text(key)?;
        let parsed = parse(&text);
        if parsed.is_none() {
            self.refuse(line, key, format!("{text:?} is not {form}"));
        }
        parsed
    }

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        self.parsed(key, "true or false", |text| match text {
            "true" | "on" => Some(true),
            "false" | "off" => Some(false),
            _ => None,
        })
    }

    /// Takes a number; `infinity`, `disabled` and `unlimited` are none.
    pub(super) fn number(&mut self, key: &str) -> Option<Limit> {
        self.limit(key, "a number", |text| text.parse().ok())
    }

    /// Takes a size like `15MB`, in bytes.
    pub(super) fn bytes(&mut self, key: &str) -> Option<Limit> {
        self.limit(key, "a size like 15MB", bytes)
    }

    /// Takes a duration like `1h30m`, in milliseconds.
    pub(super) fn millis(&mut self, key: &str) -> Option<Limit> {
        self.limit(key, "a duration like 1h30m", millis)
    }

    /// Takes a rate like `1000/s` or `1MB/10s`, by the second, rounded up.
    pub(super) fn rate(&mut self, key: &str) -> Option<Limit> {
        self.limit(key, "a rate like 1000/s", |text| {
            let (amount, period) = text.split_once('/').unwrap_or((text, "s"));
            let digits = period.find(|c: char| !c.is_ascii_digit())?;
            let period = if digits == 0 { millis(&format!("1{period}"))? } else { millis(period)? };
            Some((bytes(amount.trim())?.checked_mul(1000)?).div_ceil(period.max(1)))
        })
    }

    fn limit(&mut self, key: &str, form: &str, parse: impl FnOnce(&str) -> Option<u64>) -> Option<Limit> {
        self.parsed(key, form, |text| match text {
            "infinity" | "disabled" | "unlimited" => Some(Limit::None),
            text => parse(text).map(Limit::Of),
        })
    }

    pub(super) fn line_of(&self, key: &str) -> Option<usize> {
        self.fields.iter().find(|(known, _)| known == key)?.1.line
    }

    /// Records that a value could not be read.
    pub(super) fn refuse(&mut self, line: Option<usize>, key: &str, why: impl Into<String>) {
        self.malformed.push((line, self.path_of(key), why.into()));
    }

    /// Takes a setting out and records why it is not imported.
    pub(super) fn omit(&mut self, key: &str, why: impl Into<String>) {
        if let Some(node) = self.take(key) {
            self.refuse(node.line, key, why);
        }
    }

    /// Lists what is left over, with the reason that `reasons` has for its path or its last key.
    pub(super) fn finish(self, reasons: &[(&str, &str)], draft: &mut Draft) {
        for (line, what, why) in self.malformed {
            draft.omit(line, what, why);
        }
        for (key, node) in self.fields {
            let path = match self.path.as_str() {
                "" => key.clone(),
                path => format!("{path}.{key}"),
            };
            left_over(&path, &key, &node, reasons, draft);
        }
    }
}

fn left_over(path: &str, key: &str, node: &Node, reasons: &[(&str, &str)], draft: &mut Draft) {
    if let Some((_, reason)) = reasons.iter().find(|(known, _)| *known == key) {
        return draft.omit(node.line, path, *reason);
    }
    match &node.value {
        Hocon::Object(fields) => {
            for (key, node) in fields {
                left_over(&format!("{path}.{key}"), key, node, reasons, draft);
            }
        }
        _ => draft.omit(node.line, path, "not known"),
    }
}

/// `15MB`, `1048576`, `64kb`; EMQX's units are powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1 << 10,
        "mb" => 1 << 20,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// `1h30m`, `15s`, `500ms`, `1d`; a plain number is milliseconds.
fn millis(text: &str) -> Option<u64> {
    let (mut rest, mut sum) = (text.trim(), 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let factor = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            _ => return None,
        };
        sum = sum.checked_add(number.parse::<u64>().ok()?.checked_mul(factor)?)?;
        rest = after;
    }
    (!text.trim().is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        let node = Node { line: Some(1), value: Hocon::Scalar(text.to_owned()) };
        Settings::new("s", vec![("k".to_owned(), node)])
    }

    #[test]
    fn limits_have_the_forms_of_emqx() {
        let of = |number| Some(Limit::Of(number));
        for (text, expected) in
            [("15MB", of(15 << 20)), ("1kb", of(1024)), ("7", of(7)), ("infinity", Some(Limit::None)), ("1XB", None)]
        {
            assert_eq!(settings(text).bytes("k"), expected, "{text}");
        }
        for (text, expected) in [
            ("1h30m", of(5_400_000)),
            ("15s", of(15_000)),
            ("500ms", of(500)),
            ("100", of(100)),
            ("2w", of(1_209_600_000)),
            ("disabled", Some(Limit::None)),
            ("s", None),
            ("1x", None),
            ("99999999999999999999d", None),
        ] {
            assert_eq!(settings(text).millis("k"), expected, "{text}");
        }
        for (text, expected) in [
            ("1000/s", of(1000)),
            ("500/10s", of(50)),
            ("1MB/s", of(1 << 20)),
            ("90/1m", of(2)),
            ("7", of(7)),
            ("1/x", None),
            ("infinity", Some(Limit::None)),
        ] {
            assert_eq!(settings(text).rate("k"), expected, "{text}");
        }
        let mut wrong = settings("yes");
        assert_eq!(wrong.flag("k"), None);
        assert_eq!(wrong.malformed, [(Some(1), "s.k".to_owned(), "\"yes\" is not true or false".to_owned())]);
    }
}
