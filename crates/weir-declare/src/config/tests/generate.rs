//! Generates random documents from the schema, mostly valid ones. Also a module of the integration tests, which check the
//! documents with another validator.

use serde_json::{Map, Value, json};

use super::config::{Kind, schema};

fn deref(part: &'static Value) -> &'static Value {
    let target = part.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
    target.and_then(|pointer| schema().pointer(pointer)).unwrap_or(part)
}

/// A generator of documents. The same seed gives the same documents.
pub(super) struct Generator {
    state: u64,
    /// The percentage of wrong values.
    wrong_percent: u64,
}

impl Generator {
    pub(super) fn new(seed: u64, wrong_percent: u64) -> Self {
        Self { state: seed, wrong_percent }
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % (bound.max(1) as u64)) as usize
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let other = self.below(at + 1);
            items.swap(at, other);
        }
    }

    /// A document of a random kind.
    pub(super) fn document(&mut self) -> Value {
        let kind = *self.pick(&Kind::ALL);
        self.document_of(kind)
    }

    /// A document of `kind`.
    pub(super) fn document_of(&mut self, kind: Kind) -> Value {
        let mut document = Map::new();
        if self.percent(20) {
            let version = if self.is_wrong() { "weir/v2" } else { "weir/v1" };
            document.insert("apiVersion".into(), version.into());
        }
        document.insert(kind.key().into(), self.value(deref(&schema()["properties"][kind.key()])));
        Value::Object(document)
    }

    fn is_wrong(&mut self) -> bool {
        self.percent(self.wrong_percent)
    }

    fn value(&mut self, part: &'static Value) -> Value {
        if self.is_wrong() {
            let wrong = [json!(null), json!(true), json!(7), json!(-1), json!(1.5), json!("x"), json!([]), json!({})];
            return self.pick(&wrong).clone();
        }
        if let Some(options) = part.get("enum").and_then(Value::as_array) {
            return self.pick(options).clone();
        }
        if let Some(inner) = part.get("allOf").and_then(|parts| parts.get(0)) {
            return self.value(deref(inner));
        }
        let several = part.get("type").and_then(Value::as_array);
        let kind = several.map_or(part.get("type"), |kinds| Some(self.pick(kinds))).and_then(Value::as_str);
        match kind {
            Some("integer") => self.integer(part),
            Some("number") => self.pick(&[json!(0), json!(1), json!(0.25)]).clone(),
            Some("boolean") => json!(self.percent(50)),
            Some("array") => self.array(part),
            Some("object") => self.object(part),
            _ => self.string(part),
        }
    }

    fn integer(&mut self, part: &Value) -> Value {
        let bound = |key: &str, otherwise: i64| part.get(key).and_then(Value::as_i64).unwrap_or(otherwise);
        let (min, max) = (bound("minimum", 0), bound("maximum", 1000));
        let within = min + (self.next() % (max - min + 1) as u64) as i64;
        match self.below(6) {
            0 => min.into(),
            1 => max.into(),
            2 => part.get("default").cloned().unwrap_or(min.into()),
            3 if self.is_wrong() => (max + 1).into(),
            4 if self.is_wrong() => (min - 1).into(),
            _ => within.into(),
        }
    }

    fn array(&mut self, part: &'static Value) -> Value {
        let items = part.get("items").map_or(&Value::Null, deref);
        let count = self.below(4);
        let mut values: Vec<Value> = (0..count).map(|_| self.value(items)).collect();
        if !self.is_wrong() && part.get("uniqueItems").is_some() {
            values.dedup();
            values.truncate(1);
        }
        Value::Array(values)
    }

    fn object(&mut self, part: &'static Value) -> Value {
        let mut object = Map::new();
        let names: Vec<&String> =
            part.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys).collect();
        let required = |name: &str| {
            let required = part.get("required").and_then(Value::as_array);
            let otherwise = part.pointer("/else/required").and_then(Value::as_array);
            required.into_iter().chain(otherwise).flatten().any(|wanted| wanted == name)
        };
        let one_of = part.get("maxProperties") == Some(&json!(1));
        let chosen = self.below(names.len());
        let often = 100 / (names.len() as u64).max(3);
        for (at, name) in names.into_iter().enumerate() {
            let wanted = if one_of { at == chosen } else { required(name) || self.percent(often) };
            if wanted && !self.is_wrong() {
                let value = self.value(deref(&part["properties"][name.as_str()]));
                object.insert(name.clone(), value);
            }
        }
        if part.get("additionalProperties").is_some_and(Value::is_object) {
            for _ in 0..self.below(3) {
                let key = *self.pick(&["zone", "a b", "Authorization", "中", "x-y", "yes", "1"]);
                object.insert(
                    key.into(),
                    self.pick(&[json!("eu"), json!("file:token"), json!("no"), json!("~")]).clone(),
                );
            }
        } else if self.is_wrong() {
            object.insert("unknown".into(), json!(1));
        }
        Value::Object(object)
    }

    fn string(&mut self, part: &Value) -> Value {
        let format = part.get("format").and_then(Value::as_str).unwrap_or_default();
        let (good, bad): (&[&str], &[&str]) = match format {
            "weir-name" => {
                (&["a", "eu/tenant-a", "b.c", "Ä", "x@y+z"], &["", "a b", "/a", "a//b", "../a", "a:b", "a#"])
            }
            "weir-host" => (
                &["0.0.0.0", "127.0.0.1", "::", "[::1]", "2001:db8::5", "unix:/run/x.sock", "10.0.0.5"],
                &["localhost", "1.2.3", "*", "unix:x", "a.example.com", "0.0.0.0:1883"],
            ),
            "weir-cidr" => (
                &["10.0.0.0/8", "192.0.2.7", "0.0.0.0/0", "2001:db8::/32", "::1", "127.0.0.1/32"],
                &["10.0.0.0/33", "lan", "10.0.0.0/", "::/129", "10.0.0/8"],
            ),
            "weir-file" => (&["a.pem", "tls/b.pem", "/etc/x", "ü.pem", "../c"], &["", "a\nb", "-----BEGIN X"]),
            "weir-secret" => (&["file:a", "env:A_B", "file:/run/secret"], &["hunter2", "env:1A", "env:", "file:"]),
            "weir-topic-filter" => {
                (&["#", "a/#", "+/b", "a/+/c", "$SYS/#", "a", "/", "${clientid}/x"], &["", "a#", "#/a", "a+/b", "a/##"])
            }
            "weir-topic" => (&["a", "a/b/", "$SYS/x", "中"], &["", "a/#", "+"]),
            "weir-bridge-address" => (
                &["mqtt://a", "mqtts://a.example.com:8883", "mqtt://[::1]:1883", "mqtt://10.0.0.1/"],
                &["a", "tcp://a", "mqtt://", "mqtt://u@h"],
            ),
            "weir-unix-mode" => (&["0660", "600"], &["0999", "rw", "06600"]),
            "weir-http-url" => (&["http://127.0.0.1:9000/auth", "https://a/b?c=d"], &["a", "ftp://a", "http://u:p@h/"]),
            "date-time" => (&["2027-01-01T00:00:00Z", "2026-02-28T23:59:59.5+01:00"], &["tomorrow", "2027-01-01"]),
            _ => return self.plain_string(part),
        };
        let text = if self.is_wrong() { *self.pick(bad) } else { *self.pick(good) };
        text.into()
    }

    fn plain_string(&mut self, part: &Value) -> Value {
        let examples: Vec<Value> = part.get("examples").and_then(Value::as_array).cloned().unwrap_or_default();
        let pattern = part.get("pattern").and_then(Value::as_str).unwrap_or_default();
        let known =
            [("^/", "/ws"), ("^https?://", "https://a.example.com"), ("^(\\*\\.)?", "*.example.com"), ("^0?", "0600")];
        if let Some((_, text)) = known.iter().find(|(start, _)| pattern.starts_with(start)) {
            return if self.is_wrong() { "x y".into() } else { (*text).into() };
        }
        if !examples.is_empty() && self.percent(70) {
            return self.pick(&examples).clone();
        }
        let texts =
            ["a", "tenant-a/", "yes", "0x1f", "~", "- a", "a: b", "# c", "\"'", "中文", "1.5", "2026-01-01", "x y"];
        let controls = ["line\nbreak", "\u{7}", "tab\t", "\u{2028}", "a\\b"];
        if pattern.is_empty() && self.percent(30) {
            (*self.pick(&controls)).into()
        } else {
            (*self.pick(&texts)).into()
        }
    }
}
