//! EMQ X's `acl.conf`: Erlang terms, `{allow, {user, "dashboard"}, subscribe, ["$SYS/#"]}.`

use std::path::Path;

use serde_json::{Map, Value, json};

use super::ImportError;
use super::draft::{Draft, DraftDocument};
use super::mosquitto_acl::with_placeholders;
use crate::config::Kind;

/// An Erlang term of a rule.
#[derive(Debug, Clone, PartialEq)]
enum Term {
    Atom(String),
    Text(String),
    Number(i64),
    Tuple(Vec<Term>),
    List(Vec<Term>),
}

/// Imports the rules of an `acl.conf`.
///
/// # Errors
/// `text` is not a list of Erlang terms.
pub(super) fn import(text: &str) -> Result<Draft, ImportError> {
    let mut draft = Draft::default();
    let mut document = DraftDocument::new(Kind::Acl, "default");
    let rules = rules(text, None, &mut document, &mut draft)?;
    if rules.is_empty() && draft.has_omissions() {
        return Ok(draft);
    }
    let last = rules.last().and_then(Value::as_object);
    if last.is_none_or(|last| last.len() > 1) {
        document.add_decision(
            "noMatch: EMQ X takes it from acl_nomatch in emqx.conf, which is allow unless changed; here it is deny",
        );
    }
    document.set("rules", rules);
    draft.add(document);
    Ok(draft)
}

/// The rules of an `acl.conf`; those that cannot be imported are recorded. `named`: the file, if it is not the imported file
/// itself.
///
/// # Errors
/// `text` is not a list of Erlang terms.
pub(super) fn rules(
    text: &str,
    named: Option<&Path>,
    document: &mut DraftDocument,
    draft: &mut Draft,
) -> Result<Vec<Value>, ImportError> {
    let mut rules = Vec::new();
    for (line, term) in &TermReader::new(text).terms()? {
        match rules_of(term) {
            Ok(found) => rules.extend(found),
            Err(error) => {
                if matches!(term, Term::Tuple(parts) if parts.first() == Some(&Term::Atom("deny".into()))) {
                    document.add_decision(format!("a deny rule is missing here: {}", term_text(term)));
                }
                match named {
                    Some(path) => {
                        let what = format!("{}:{line}: {}", path.display(), term_text(term));
                        draft.omit(None, what, error.to_string());
                    }
                    None => draft.omit(Some(*line), term_text(term), error.to_string()),
                }
            }
        }
    }
    Ok(rules)
}

/// Why a rule cannot be imported.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UnsupportedRule(String);

impl From<&str> for UnsupportedRule {
    fn from(reason: &str) -> Self {
        Self(reason.to_owned())
    }
}

/// The rules of a term. A term with alternatives gives several.
fn rules_of(term: &Term) -> Result<Vec<Value>, UnsupportedRule> {
    let Term::Tuple(parts) = term else { return Err("not a rule".into()) };
    let (Some(Term::Atom(permission)), subject) = (parts.first(), parts.get(1)) else {
        return Err("not a rule".into());
    };
    if permission != "allow" && permission != "deny" {
        return Err(UnsupportedRule(format!("neither allow nor deny, but {permission}")));
    }
    let mut rule = Map::new();
    rule.insert("permission".into(), permission.as_str().into());
    if let Some(action) = parts.get(2) {
        insert_action(&mut rule, action)?;
    }
    let topics = parts.get(3).map(topics_of).transpose()?;
    let alternatives = subject.map_or_else(|| Ok(vec![Map::new()]), conditions)?;
    let merged = alternatives.into_iter().map(|conditions| {
        let mut merged = rule.clone();
        merged.extend(conditions);
        merged.extend(topics.iter().map(|topics| ("topics".to_owned(), topics.clone())));
        Value::Object(merged)
    });
    Ok(merged.collect())
}

fn insert_action(rule: &mut Map<String, Value>, action: &Term) -> Result<(), UnsupportedRule> {
    let (name, options) = match action {
        Term::Atom(name) => (name, None),
        Term::Tuple(parts) => match parts.as_slice() {
            [Term::Atom(name), Term::List(options)] => (name, Some(options)),
            _ => return Err("its action is not supported".into()),
        },
        _ => return Err("its action is not supported".into()),
    };
    match name.as_str() {
        "publish" | "subscribe" => drop(rule.insert("action".into(), name.as_str().into())),
        "pubsub" | "all" => {}
        other => return Err(UnsupportedRule(format!("action {other} is not supported"))),
    }
    for option in options.into_iter().flatten() {
        match option {
            Term::Tuple(pair) => match pair.as_slice() {
                [Term::Atom(key), Term::Number(qos)] if key == "qos" => drop(rule.insert("qos".into(), json!([qos]))),
                [Term::Atom(key), Term::Atom(flag)] if key == "retain" && (flag == "true" || flag == "false") => {
                    rule.insert("retain".into(), (flag == "true").into());
                }
                [Term::Atom(key), Term::Atom(all)] if (key == "retain" || key == "qos") && all == "all" => {}
                _ => return Err("the options of its action are not supported".into()),
            },
            _ => return Err("the options of its action are not supported".into()),
        }
    }
    Ok(())
}

fn topics_of(topics: &Term) -> Result<Value, UnsupportedRule> {
    let Term::List(topics) = topics else { return Err("its topics are not a list".into()) };
    let topic = |text: &str| with_placeholders(text).map_err(UnsupportedRule::from);
    let topics: Result<Vec<Value>, UnsupportedRule> = topics
        .iter()
        .map(|term| match term {
            Term::Text(text) => Ok(topic(text)?.into()),
            Term::Tuple(pair) => match pair.as_slice() {
                [Term::Atom(eq), Term::Text(text)] if eq == "eq" => Ok(json!({ "eq": topic(text)? })),
                _ => Err("one of its topics is not supported".into()),
            },
            _ => Err("one of its topics is not supported".into()),
        })
        .collect();
    topics.map(Value::Array)
}

/// The conditions of a rule's second part: alternatives, each a set of conditions.
fn conditions(subject: &Term) -> Result<Vec<Map<String, Value>>, UnsupportedRule> {
    let one = |field: &str, value: &str| vec![[(field.to_owned(), Value::from(value))].into_iter().collect()];
    match subject {
        Term::Atom(all) if all == "all" => Ok(vec![Map::new()]),
        Term::Tuple(pair) => match pair.as_slice() {
            [Term::Atom(key), Term::Text(text)] => match key.as_str() {
                "user" | "username" => Ok(one("username", text)),
                "client" | "clientid" => Ok(one("clientId", text)),
                "ipaddr" => Ok(one("ipaddr", text)),
                other => Err(UnsupportedRule(format!("condition {other} is not supported"))),
            },
            [Term::Atom(key), Term::Atom(all)] if all == "all" && key != "ipaddr" => Ok(vec![Map::new()]),
            [Term::Atom(key), Term::List(addresses)] if key == "ipaddrs" => {
                let texts = addresses.iter().map(|address| match address {
                    Term::Text(text) => Ok(one("ipaddr", text)),
                    _ => Err(UnsupportedRule::from("one of its addresses is not supported")),
                });
                Ok(texts.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
            }
            [Term::Atom(key), Term::Tuple(re)] if matches!(re.first(), Some(Term::Atom(re)) if re == "re") => {
                match (key.as_str(), re.get(1)) {
                    ("client" | "clientid", Some(Term::Text(pattern))) => {
                        let glob = glob_of(pattern);
                        glob.map(|glob| one("clientId", &glob)).ok_or_else(|| {
                            UnsupportedRule(format!("no glob matches the same as the regular expression {pattern:?}"))
                        })
                    }
                    _ => Err("a regular expression; Weir matches usernames exactly, client ids by * and ?".into()),
                }
            }
            [Term::Atom(key), Term::List(parts)] if key == "and" => all_of(parts),
            [Term::Atom(key), Term::List(parts)] if key == "or" => {
                Ok(parts.iter().map(conditions).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
            }
            _ => Err("its subject is not supported".into()),
        },
        _ => Err("its subject is not supported".into()),
    }
}

/// Every combination of the parts' alternatives.
fn all_of(parts: &[Term]) -> Result<Vec<Map<String, Value>>, UnsupportedRule> {
    let mut combined = vec![Map::new()];
    for part in parts {
        let alternatives = conditions(part)?;
        let mut next = Vec::new();
        for known in &combined {
            for further in &alternatives {
                let clash = further.iter().any(|(key, value)| known.get(key).is_some_and(|other| other != value));
                if clash {
                    return Err("it has two conditions on one field".into());
                }
                let mut both: Map<String, Value> = known.clone();
                both.extend(further.clone());
                next.push(both);
            }
        }
        combined = next;
    }
    Ok(combined)
}

/// Translates `^sensor_.*$` to `sensor_*`. `None`: no glob matches the same.
fn glob_of(pattern: &str) -> Option<String> {
    let (from_start, pattern) = pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest));
    let (to_end, pattern) = pattern.strip_suffix('$').map_or((false, pattern), |rest| (true, rest));
    let inner = pattern.replace(".*", "*");
    if inner.contains(['.', '+', '?', '[', ']', '(', ')', '{', '}', '|', '\\', '^', '$']) || inner.is_empty() {
        return None;
    }
    let glob = format!("{}{inner}{}", if from_start { "" } else { "*" }, if to_end { "" } else { "*" });
    Some(glob.replace("**", "*"))
}

fn term_text(term: &Term) -> String {
    let list = |terms: &[Term]| terms.iter().map(term_text).collect::<Vec<_>>().join(", ");
    match term {
        Term::Atom(atom) => atom.clone(),
        Term::Text(text) => format!("{text:?}"),
        Term::Number(number) => number.to_string(),
        Term::Tuple(terms) => format!("{{{}}}", list(terms)),
        Term::List(terms) => format!("[{}]", list(terms)),
    }
}

/// Parses terms, each terminated by a full stop.
struct TermReader<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> TermReader<'a> {
    /// Nesting depth of terms.
    const DEPTH_MAX: usize = 32;

    fn new(text: &'a str) -> Self {
        Self { rest: text, line: 1 }
    }

    fn error(&self, message: impl Into<String>) -> ImportError {
        ImportError::Malformed { line: self.line, message: message.into() }
    }

    fn terms(mut self) -> Result<Vec<(usize, Term)>, ImportError> {
        let mut terms = Vec::new();
        loop {
            self.skip();
            if self.rest.is_empty() {
                return Ok(terms);
            }
            let line = self.line;
            let term = self.term(0)?;
            self.skip();
            if !self.consume(".") {
                return Err(self.error(format!("a full stop is missing after the term of line {line}")));
            }
            terms.push((line, term));
        }
    }

    /// Skips white space and comments.
    fn skip(&mut self) {
        loop {
            let trimmed = self.rest.trim_start();
            let skipped = self.rest.len() - trimmed.len();
            self.line += self.rest.get(..skipped).unwrap_or_default().matches('\n').count();
            self.rest = trimmed;
            if !trimmed.starts_with('%') {
                return;
            }
            self.rest = trimmed.find('\n').and_then(|end| trimmed.get(end..)).unwrap_or_default();
        }
    }

    fn consume(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn term(&mut self, depth: usize) -> Result<Term, ImportError> {
        if depth > Self::DEPTH_MAX {
            return Err(self.error("terms are nested too deeply"));
        }
        self.skip();
        if self.consume("{") {
            return self.items("}", depth).map(Term::Tuple);
        }
        if self.consume("[") {
            return self.items("]", depth).map(Term::List);
        }
        if self.consume("<<\"") {
            let text = self.quoted('"')?;
            if !self.consume(">>") {
                return Err(self.error("`>>` is missing"));
            }
            return Ok(Term::Text(text));
        }
        if self.consume("\"") {
            return self.quoted('"').map(Term::Text);
        }
        if self.consume("'") {
            return self.quoted('\'').map(Term::Atom);
        }
        let end =
            self.rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '@' | '-'))).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        if word.is_empty() {
            return Err(self.error(format!("this is not acl.conf: {:?}", self.rest.lines().next().unwrap_or_default())));
        }
        self.rest = rest;
        Ok(word.parse().map_or_else(|_| Term::Atom(word.to_owned()), Term::Number))
    }

    fn items(&mut self, close: &str, depth: usize) -> Result<Vec<Term>, ImportError> {
        let mut items = Vec::new();
        loop {
            self.skip();
            if self.consume(close) {
                return Ok(items);
            }
            if !items.is_empty() && !self.consume(",") {
                return Err(self.error(format!("`,` or `{close}` is missing")));
            }
            items.push(self.term(depth + 1)?);
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, ImportError> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => text.extend(chars.next().map(|(_, escaped)| escaped)),
                '\n' => break,
                c if c == quote => {
                    self.rest = self.rest.get(at + c.len_utf8()..).unwrap_or_default();
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        Err(self.error("a quote is not closed"))
    }
}
