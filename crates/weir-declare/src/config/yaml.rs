//! Bytes to JSON values and the position of everything in them, within bounds and without surprises.
//!
//! Two passes. The first, over saphyr-parser's events, finds the positions and refuses what is hostile or ambiguous: deep
//! nesting, duplicate keys, anchors, aliases, tags, merge keys. The second, `serde_yaml`, makes the values. Both must see
//! the same structure.

use std::borrow::Cow;
use std::collections::HashSet;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};
use serde::Deserialize;
use serde_json::{Map, Number, Value};

use super::Position;

/// Bytes of a file.
pub const FILE_SIZE_MAX: usize = 256 * 1024;
/// Mappings and sequences within each other.
pub const DEPTH_MAX: usize = 64;

/// A document as written.
#[derive(Debug, Clone)]
pub(super) struct ParsedDocument {
    pub(super) value: Value,
    pub(super) node: SourceNode,
}

/// Where a value and all that is in it stands.
#[derive(Debug, Clone)]
pub(super) struct SourceNode {
    pub(super) at: Position,
    pub(super) children: Children,
}

/// What is in a value.
#[derive(Debug, Clone)]
pub(super) enum Children {
    Scalar,
    Seq(Vec<SourceNode>),
    Map(Vec<Entry>),
}

/// A field: its key and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: Box<str>,
    pub(super) key_at: Position,
    pub(super) node: SourceNode,
}

/// Why bytes are no documents.
#[derive(Debug, Clone)]
pub(super) struct YamlError {
    pub(super) at: Position,
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl YamlError {
    fn new(at: Position, code: &'static str, message: impl Into<String>) -> Self {
        Self { at, code, message: message.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl SourceNode {
    /// The field called `key`, where this is a mapping that has it.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.children {
            Children::Map(entries) => entries.iter().find(|entry| &*entry.key == key),
            _ => None,
        }
    }

    /// The item at `index`, where this is a sequence that has it.
    pub(super) fn item(&self, index: usize) -> Option<&SourceNode> {
        match &self.children {
            Children::Seq(items) => items.get(index),
            _ => None,
        }
    }
}

/// The documents of a file; empty ones left out.
///
/// # Errors
/// Every problem found until parsing had to stop; none of the file's documents is known then.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<ParsedDocument>, Vec<YamlError>> {
    let text = decode(bytes).map_err(|problem| vec![problem])?;
    let text = tabs_to_spaces(text);
    let nodes = positions(&text)?;
    values(&text, nodes).map_err(|problem| vec![problem])
}

/// JSON may be indented by tabs, which YAML's parsers refuse even where its grammar does not.
fn tabs_to_spaces(text: &str) -> Cow<'_, str> {
    if !text.trim_start().starts_with(['{', '[']) || !text.contains('\t') {
        return Cow::Borrowed(text);
    }
    let (mut quoted, mut escaped) = (false, false);
    let spaced = text.chars().map(|c| {
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        if c == '\t' && !quoted { ' ' } else { c }
    });
    Cow::Owned(spaced.collect())
}

/// The bytes as text, without a byte order mark.
fn decode(bytes: &[u8]) -> Result<&str, YamlError> {
    if bytes.len() > FILE_SIZE_MAX {
        let message = format!("the file has more than {FILE_SIZE_MAX} bytes");
        return Err(YamlError::new(Position::START, "file-too-large", message)
            .help("split it: a directory is read recursively, a file per endpoint is common"));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(YamlError::new(Position::START, "encoding", "the file is UTF-16").help("save it as UTF-8"));
    }
    let bytes = bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let at = position_after(&String::from_utf8_lossy(valid));
        YamlError::new(at, "encoding", "the file is not UTF-8 from here on").help("save it as UTF-8")
    })?;
    let forbidden = |c: char| (c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}')) || c == '\u{feff}';
    if let Some((index, c)) = text.char_indices().find(|&(_, c)| forbidden(c)) {
        let at = position_after(text.get(..index).unwrap_or_default());
        let message = format!("control character U+{:04X}", u32::from(c));
        return Err(
            YamlError::new(at, "control-character", message).help("remove it, or write it \"\\u....\" in quotes")
        );
    }
    Ok(text)
}

/// The position of the character that follows `text`.
fn position_after(text: &str) -> Position {
    let mut at = Position::START;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\n' || (c == '\r' && chars.peek() != Some(&'\n')) {
            at.line += 1;
            at.col = 1;
        } else if c != '\r' {
            at.col += 1;
        }
    }
    at
}

fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn position(span: Span) -> Position {
    // What spans lines is shown by its beginning.
    let len = if span.end.line() == span.start.line() { span.len().max(1) } else { 1 };
    Position { len: to_u32(len), ..position_of(span.start) }
}

fn position_of(mark: Marker) -> Position {
    Position { line: to_u32(mark.line()), col: to_u32(mark.col() + 1), len: 1 }
}

/// A collection that is being read.
struct OpenCollection {
    at: Position,
    children: Children,
    /// A mapping's key that waits for its value.
    key: Option<(Box<str>, Position)>,
    keys: HashSet<Box<str>>,
}

/// The first pass: the nodes of every document that is not empty.
fn positions(text: &str) -> Result<Vec<SourceNode>, Vec<YamlError>> {
    let mut reader = TreeBuilder { open: Vec::new(), documents: Vec::new(), problems: Vec::new() };
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        match next {
            Ok((event, span)) => {
                if reader.event(event, span).is_err() {
                    break;
                }
            }
            Err(error) => {
                reader.problems.push(syntax(text, &error));
                break;
            }
        }
    }
    if reader.problems.is_empty() { Ok(reader.documents) } else { Err(reader.problems) }
}

struct TreeBuilder {
    open: Vec<OpenCollection>,
    documents: Vec<SourceNode>,
    problems: Vec<YamlError>,
}

impl TreeBuilder {
    /// Takes one event.
    ///
    /// # Errors
    /// Reading must stop; the problem is noted.
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), ()> {
        let at = position(span);
        match event {
            Event::Alias(_) => self.refuse_alias(at),
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_extras(at, anchor, tag.is_some());
                self.scalar(&text, style, at);
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_extras(at, anchor, tag.is_some());
                return self.begin(at, Children::Seq(Vec::new()));
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_extras(at, anchor, tag.is_some());
                return self.begin(at, Children::Map(Vec::new()));
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.add(SourceNode { at: open.at, children: open.children });
                }
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn begin(&mut self, at: Position, children: Children) -> Result<(), ()> {
        if self.open.len() >= DEPTH_MAX {
            self.problems.push(too_deep(at));
            return Err(());
        }
        if self.expects_key() {
            self.problems.push(
                YamlError::new(at, "key-not-a-string", "a key must be a string, not a mapping or a sequence")
                    .help("if this is a template, render it first; else quote what begins with `{` or `[`"),
            );
            return Err(());
        }
        self.open.push(OpenCollection { at, children, key: None, keys: HashSet::new() });
        Ok(())
    }

    fn expects_key(&self) -> bool {
        self.open.last().is_some_and(|open| matches!(open.children, Children::Map(_)) && open.key.is_none())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, at: Position) {
        if !self.expects_key() {
            // A document without content is null; it declares nothing.
            let is_null = style == ScalarStyle::Plain && matches!(text, "" | "~" | "null" | "Null" | "NULL");
            if !(self.open.is_empty() && is_null) {
                self.refuse_huge_number(text, style, at);
                self.add(SourceNode { at, children: Children::Scalar });
            }
            return;
        }
        if text == "<<" && style == ScalarStyle::Plain {
            self.problems.push(
                YamlError::new(at, "merge-key", "merge keys (`<<`) are not supported")
                    .help("write the fields out, or put what all endpoints share into `defaults`"),
            );
        }
        let Some(open) = self.open.last_mut() else { return };
        if !open.keys.insert(text.into()) {
            let first = match &open.children {
                Children::Map(entries) => entries.iter().find(|entry| &*entry.key == text).map(|entry| entry.key_at),
                _ => None,
            };
            let first = first.map(|at| format!(", first on line {}", at.line)).unwrap_or_default();
            let message = format!("`{text}` is given twice{first}");
            self.problems.push(YamlError::new(at, "duplicate-key", message).help("keep one of them"));
        }
        open.key = Some((text.into(), at));
    }

    /// The second pass would end at it, and say less.
    fn refuse_huge_number(&mut self, text: &str, style: ScalarStyle, at: Position) {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        let is_number = style == ScalarStyle::Plain && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if is_number && text.parse::<i64>().is_err() && text.parse::<u64>().is_err() {
            let problem = YamlError::new(at, "number-too-large", "the number is too large to mean anything here");
            self.problems.push(problem.help("quote it, if it is meant as text"));
        }
    }

    fn add(&mut self, node: SourceNode) {
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return;
        };
        match &mut open.children {
            Children::Seq(items) => items.push(node),
            Children::Map(entries) => {
                if let Some((key, key_at)) = open.key.take() {
                    entries.push(Entry { key, key_at, node });
                }
            }
            Children::Scalar => {}
        }
    }

    fn refuse_alias(&mut self, at: Position) {
        self.refuse_anchor(at);
        // The alias stands for a key or a value all the same.
        if self.expects_key() {
            if let Some(open) = self.open.last_mut() {
                open.key = Some(("*".into(), at));
            }
        } else {
            self.add(SourceNode { at, children: Children::Scalar });
        }
    }

    /// The first is enough: where there is one, there are many.
    fn refuse_anchor(&mut self, at: Position) {
        if self.problems.iter().all(|problem| problem.code != "anchor") {
            self.problems.push(
                YamlError::new(at, "anchor", "anchors (`&`) and aliases (`*`) are not supported")
                    .help("write the value out, or quote it if it is meant to begin with `&` or `*`"),
            );
        }
    }

    fn refuse_extras(&mut self, at: Position, anchor: usize, tagged: bool) {
        if anchor != 0 {
            self.refuse_anchor(at);
        }
        if tagged {
            self.problems.push(
                YamlError::new(at, "tag", "tags (`!`) are not supported")
                    .help("leave the tag out; quote the value if it is meant to begin with `!`"),
            );
        }
    }
}

fn too_deep(at: Position) -> YamlError {
    YamlError::new(at, "too-deep", format!("more than {DEPTH_MAX} mappings and sequences within each other"))
}

/// A scanner's error in the words of who wrote the file.
fn syntax(text: &str, error: &ScanError) -> YamlError {
    let at = position_of(*error.marker());
    if error.info() == "recursion limit exceeded" {
        return too_deep(at);
    }
    let line = |number: u32| text.lines().nth(number.saturating_sub(1) as usize).unwrap_or_default();
    for number in [at.line, at.line.saturating_sub(1)] {
        let line = line(number);
        if ["<<<<<<<", "=======", ">>>>>>>"].iter().any(|mark| line.starts_with(mark)) {
            let at = Position { line: number, col: 1, len: 7 };
            return YamlError::new(at, "merge-conflict", "an unresolved merge conflict").help("resolve it in git");
        }
        let indent: &str = line.get(..line.len() - line.trim_start().len()).unwrap_or_default();
        if let Some(tab) = indent.find('\t') {
            let at = Position { line: number, col: to_u32(tab) + 1, len: 1 };
            return YamlError::new(at, "tab", "a tab in the indentation").help("YAML is indented by spaces");
        }
    }
    let problem = YamlError::new(at, "syntax", format!("this is not YAML: {}", error.info()));
    match error.info() {
        "mapping values are not allowed in this context" => {
            problem.help("a second `: ` in one line; quote the value, or indent the key like its neighbours")
        }
        "simple key expected" | "simple key expect ':'" => problem.help("a `key: value` needs its colon and a space"),
        "while parsing a block mapping, did not find expected key" => {
            problem.help("indent fields of one mapping alike; begin list items with `- `")
        }
        info if info.contains("flow mapping") => problem.help("a `{` is not closed, or a comma is missing"),
        info if info.contains("flow sequence") => problem.help("a `[` is not closed, or a comma is missing"),
        info if info.contains("quoted scalar") => problem.help("a quote is not closed, or text follows it"),
        _ => problem,
    }
}

/// The second pass: the values, one for each of `nodes`.
fn values(text: &str, nodes: Vec<SourceNode>) -> Result<Vec<ParsedDocument>, YamlError> {
    if nodes.is_empty() {
        return Ok(Vec::new());
    }
    let mut nodes = nodes.into_iter();
    let mut parsed = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_yaml::Value::deserialize(document).map_err(|error| {
            let at = error.location().map_or(Position::START, |at| Position {
                line: to_u32(at.line()),
                col: to_u32(at.column()),
                len: 1,
            });
            YamlError::new(at, "syntax", format!("this is not YAML: {error}"))
        })?;
        if value.is_null() {
            continue;
        }
        let node = nodes.next().ok_or_else(|| disagreement(Position::START))?;
        let value = json(value, &node)?;
        parsed.push(ParsedDocument { value, node });
    }
    nodes.next().map_or(Ok(parsed), |left| Err(disagreement(left.at)))
}

fn disagreement(at: Position) -> YamlError {
    YamlError::new(at, "ambiguous", "YAML parsers disagree about what this means").help("write it more plainly")
}

/// A value with string keys and finite numbers, of the structure that `node` has.
fn json(value: serde_yaml::Value, node: &SourceNode) -> Result<Value, YamlError> {
    match (value, &node.children) {
        (serde_yaml::Value::Null, Children::Scalar) => Ok(Value::Null),
        (serde_yaml::Value::Bool(b), Children::Scalar) => Ok(Value::Bool(b)),
        (serde_yaml::Value::String(text), Children::Scalar) => Ok(Value::String(text)),
        (serde_yaml::Value::Number(number), Children::Scalar) => number_of(&number, node.at),
        (serde_yaml::Value::Sequence(items), Children::Seq(nodes)) if items.len() == nodes.len() => items
            .into_iter()
            .zip(nodes)
            .map(|(item, node)| json(item, node))
            .collect::<Result<_, _>>()
            .map(Value::Array),
        (serde_yaml::Value::Mapping(fields), Children::Map(entries)) if fields.len() == entries.len() => {
            let mut object = Map::with_capacity(fields.len());
            for ((key, value), entry) in fields.into_iter().zip(entries) {
                let serde_yaml::Value::String(key) = key else {
                    let message = format!("a key must be a string; YAML reads `{}` as something else", entry.key);
                    return Err(YamlError::new(entry.key_at, "key-not-a-string", message).help("quote it"));
                };
                if key != *entry.key {
                    return Err(disagreement(entry.key_at));
                }
                object.insert(key, json(value, &entry.node)?);
            }
            Ok(Value::Object(object))
        }
        _ => Err(disagreement(node.at)),
    }
}

/// Numbers without a fraction become integers: `1000.0` and `1e3` mean 1000.
fn number_of(number: &serde_yaml::Number, at: Position) -> Result<Value, YamlError> {
    if let Some(n) = number.as_u64() {
        return Ok(n.into());
    }
    if let Some(n) = number.as_i64() {
        return Ok(n.into());
    }
    let float = number.as_f64().filter(|float| float.is_finite());
    let float = float.ok_or_else(|| YamlError::new(at, "not-a-number", "`.inf` and `.nan` mean nothing here"))?;
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    if float.fract() == 0.0 && float.abs() < EXACT {
        #[allow(clippy::cast_possible_truncation)] // whole and below 2^53
        return Ok((float as i64).into());
    }
    Number::from_f64(float).map(Value::Number).ok_or_else(|| disagreement(at))
}
