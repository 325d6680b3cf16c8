//! Bytes to JSON values, and the position of each value and key.
//!
//! One pass over saphyr-parser's events. It refuses what is hostile or ambiguous: deep nesting, duplicate keys,
//! anchors, aliases, tags and merge keys. Plain scalars have the types of YAML 1.2's core schema: `no`, `on` and `0777`
//! are strings.

mod scalar;

use std::borrow::Cow;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};
use serde_json::{Map, Value};

use self::scalar::plain_scalar;
use super::Position;

/// Bytes of a file.
pub const FILE_SIZE_MAX: usize = 256 * 1024;
/// Nesting depth of mappings and sequences.
pub const DEPTH_MAX: usize = 64;

/// A document: its value, and the positions in it.
#[derive(Debug, Clone)]
pub(super) struct ParsedDocument {
    pub(super) value: Value,
    pub(super) node: SourceNode,
}

/// The position of a value and of everything in it.
#[derive(Debug, Clone)]
pub(super) struct SourceNode {
    pub(super) at: Position,
    pub(super) children: Children,
}

/// The positions in a value.
#[derive(Debug, Clone)]
pub(super) enum Children {
    Scalar,
    Seq(Vec<SourceNode>),
    Map(Vec<MappingEntry>),
}

/// A field: its key and the position of its value.
#[derive(Debug, Clone)]
pub(super) struct MappingEntry {
    pub(super) key: Box<str>,
    pub(super) key_at: Position,
    pub(super) node: SourceNode,
}

/// Why a file cannot be parsed.
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
    /// The field `key` of a mapping.
    pub(super) fn entry(&self, key: &str) -> Option<&MappingEntry> {
        match &self.children {
            Children::Map(entries) => entries.iter().find(|entry| &*entry.key == key),
            _ => None,
        }
    }

    /// The item at `index` of a sequence.
    pub(super) fn item(&self, index: usize) -> Option<&SourceNode> {
        match &self.children {
            Children::Seq(items) => items.get(index),
            _ => None,
        }
    }
}

/// The documents of a file, without empty ones.
///
/// # Errors
/// Every error up to the point where parsing had to stop. No document of the file is known then.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<ParsedDocument>, Vec<YamlError>> {
    parse_text(decode(bytes).map_err(|error| vec![error])?)
}

/// Why a text is not one YAML document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidYaml {
    /// The text is not YAML.
    #[error("line {line}: {message}")]
    Syntax {
        /// The line, from 1.
        line: u32,
        /// What is wrong.
        message: String,
    },
    /// It has so many documents where one is expected.
    #[error("it has {0} documents, not one")]
    SeveralDocuments(usize),
}

/// The values of the documents of a file, without empty ones.
///
/// # Errors
/// `bytes` have errors: each with its line, column and message.
pub fn parse_file_documents(bytes: &[u8]) -> Result<Vec<Value>, Vec<(Position, String)>> {
    let documents =
        parse(bytes).map_err(|errors| errors.into_iter().map(|error| (error.at, error.message)).collect::<Vec<_>>())?;
    Ok(documents.into_iter().map(|document| document.value).collect())
}

/// The value of a text of one YAML or JSON document, of any size; null: it has none.
///
/// # Errors
/// `text` has errors, or several documents.
pub fn parse_yaml(text: &str) -> Result<Value, InvalidYaml> {
    let mut documents = parse_documents(text)?;
    match documents.len() {
        0 | 1 => Ok(documents.pop().unwrap_or_default()),
        count => Err(InvalidYaml::SeveralDocuments(count)),
    }
}

/// The values of a text's YAML or JSON documents, of any size, without empty ones.
///
/// # Errors
/// `text` has errors.
pub fn parse_documents(text: &str) -> Result<Vec<Value>, InvalidYaml> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = parse_text(text).map_err(first_of)?;
    Ok(documents.into_iter().map(|document| document.value).collect())
}

fn first_of(errors: Vec<YamlError>) -> InvalidYaml {
    let first = errors.into_iter().next();
    let (line, message) = first.map_or_else(Default::default, |error| (error.at.line, error.message));
    InvalidYaml::Syntax { line, message }
}

fn parse_text(text: &str) -> Result<Vec<ParsedDocument>, Vec<YamlError>> {
    let text = tabs_to_spaces(text);
    let unterminated_end = (!text.ends_with(['\n', '\r'])).then(|| text.chars().count());
    let mut builder = TreeBuilder { unterminated_end, ..TreeBuilder::default() };
    let mut parser = Parser::new_from_str(&text);
    while let Some(next) = parser.next_event() {
        match next {
            Ok((event, span)) => {
                if builder.event(event, span).is_err() {
                    break;
                }
            }
            Err(error) => {
                builder.errors.push(syntax(&text, &error));
                break;
            }
        }
    }
    if builder.errors.is_empty() { Ok(builder.documents) } else { Err(builder.errors) }
}

/// Replaces tabs outside of quotes in JSON by spaces: YAML parsers refuse tabs as indentation.
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

/// Decodes a file: size, encoding, control characters. Removes a byte order mark.
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
        YamlError::new(at, "encoding", "the file is not UTF-8 from this position on").help("save it as UTF-8")
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
    // A value of several lines is shown by its first character.
    let len = if span.end.line() == span.start.line() { span.len().max(1) } else { 1 };
    Position { len: to_u32(len), ..position_of(span.start) }
}

fn position_of(mark: Marker) -> Position {
    Position { line: to_u32(mark.line()), col: to_u32(mark.col() + 1), len: 1 }
}

/// A collection whose end has not been seen.
struct OpenCollection {
    at: Position,
    value: Value,
    children: Children,
    /// A mapping's key whose value has not been seen.
    key: Option<(Box<str>, Position)>,
}

/// Builds values and positions from the parser's events.
#[derive(Default)]
struct TreeBuilder {
    /// The number of characters of a text that does not end in a line break.
    unterminated_end: Option<usize>,
    open: Vec<OpenCollection>,
    documents: Vec<ParsedDocument>,
    errors: Vec<YamlError>,
}

impl TreeBuilder {
    /// Handles one event.
    ///
    /// # Errors
    /// Parsing must stop; `errors` holds the reason.
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), ()> {
        let at = position(span);
        match event {
            Event::Alias(_) => self.refuse_alias(at),
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_anchor_and_tag(at, anchor, tag.is_some());
                self.scalar(self.without_added_break(&text, style, span), style, at);
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_anchor_and_tag(at, anchor, tag.is_some());
                return self.begin(at, Value::Array(Vec::new()), Children::Seq(Vec::new()));
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_anchor_and_tag(at, anchor, tag.is_some());
                return self.begin(at, Value::Object(Map::new()), Children::Map(Vec::new()));
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(OpenCollection { at, value, children, .. }) = self.open.pop() {
                    self.add(value, SourceNode { at, children });
                }
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn begin(&mut self, at: Position, value: Value, children: Children) -> Result<(), ()> {
        if self.open.len() >= DEPTH_MAX {
            self.errors.push(too_deep(at));
            return Err(());
        }
        if self.expects_key() {
            self.errors.push(
                YamlError::new(at, "key-not-a-string", "a key must be a string, not a mapping or a sequence")
                    .help("if this is a template, render it first; else quote what begins with `{` or `[`"),
            );
            return Err(());
        }
        self.open.push(OpenCollection { at, value, children, key: None });
        Ok(())
    }

    fn expects_key(&self) -> bool {
        self.open.last().is_some_and(|open| matches!(open.children, Children::Map(_)) && open.key.is_none())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, at: Position) {
        if style == ScalarStyle::Plain && text.starts_with(['|', '>']) {
            let message = "this is not YAML: a block scalar within `{...}` or `[...]`";
            self.errors.push(YamlError::new(at, "syntax", message).help("quote the text"));
        }
        let value = match style {
            ScalarStyle::Plain => plain_scalar(text),
            _ => Ok(Value::String(text.to_owned())),
        };
        if self.expects_key() {
            self.key(text, style, matches!(value, Ok(Value::String(_))), at);
            return;
        }
        let value = value.unwrap_or_else(|error| {
            self.errors.push(error.at(at));
            Value::Null
        });
        // A document without content is null; it declares nothing.
        if !(self.open.is_empty() && value.is_null()) {
            self.add(value, SourceNode { at, children: Children::Scalar });
        }
    }

    /// The text of a scalar. The parser ends a block scalar with a line break even where the file ends without one.
    fn without_added_break<'a>(&self, text: &'a str, style: ScalarStyle, span: Span) -> &'a str {
        let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
        let ends_file = self.unterminated_end == Some(span.end.index()) && span.end.col() >= span.start.col();
        let has_content = text.contains(|c| c != '\n');
        if is_block && ends_file && has_content { text.strip_suffix('\n').unwrap_or(text) } else { text }
    }

    fn key(&mut self, text: &str, style: ScalarStyle, is_string: bool, at: Position) {
        if text == "<<" && style == ScalarStyle::Plain {
            self.errors.push(
                YamlError::new(at, "merge-key", "merge keys (`<<`) are not supported")
                    .help("write the fields out, or put what all endpoints share into `defaults`"),
            );
        } else if !is_string {
            let message = format!("a key must be a string; YAML reads `{text}` as something else");
            self.errors.push(YamlError::new(at, "key-not-a-string", message).help("quote it"));
        }
        let Some(open) = self.open.last_mut() else { return };
        if let Children::Map(entries) = &open.children
            && open.value.get(text).is_some()
        {
            let first = entries.iter().find(|entry| &*entry.key == text);
            let first = first.map(|entry| format!(", first on line {}", entry.key_at.line)).unwrap_or_default();
            let message = format!("`{text}` is given twice{first}");
            self.errors.push(YamlError::new(at, "duplicate-key", message).help("keep one of them"));
        }
        open.key = Some((text.into(), at));
    }

    /// Adds a complete value to the collection that it stands in.
    fn add(&mut self, value: Value, node: SourceNode) {
        let Some(open) = self.open.last_mut() else {
            self.documents.push(ParsedDocument { value, node });
            return;
        };
        match (&mut open.value, &mut open.children) {
            (Value::Array(values), Children::Seq(nodes)) => {
                values.push(value);
                nodes.push(node);
            }
            (Value::Object(fields), Children::Map(entries)) => {
                if let Some((key, key_at)) = open.key.take() {
                    fields.insert(key.to_string(), value);
                    entries.push(MappingEntry { key, key_at, node });
                }
            }
            _ => debug_assert!(false, "a scalar holds nothing"),
        }
    }

    fn refuse_alias(&mut self, at: Position) {
        self.refuse_anchor(at);
        // An alias is a key or a value all the same.
        if self.expects_key() {
            if let Some(open) = self.open.last_mut() {
                open.key = Some(("*".into(), at));
            }
        } else {
            self.add(Value::Null, SourceNode { at, children: Children::Scalar });
        }
    }

    /// Reports the first anchor or alias of a file only: a file that has one mostly has many.
    fn refuse_anchor(&mut self, at: Position) {
        if self.errors.iter().all(|error| error.code != "anchor") {
            self.errors.push(
                YamlError::new(at, "anchor", "anchors (`&`) and aliases (`*`) are not supported")
                    .help("write the value out, or quote it if it is meant to begin with `&` or `*`"),
            );
        }
    }

    fn refuse_anchor_and_tag(&mut self, at: Position, anchor: usize, tagged: bool) {
        if anchor != 0 {
            self.refuse_anchor(at);
        }
        if tagged {
            self.errors.push(
                YamlError::new(at, "tag", "tags (`!`) are not supported")
                    .help("leave the tag out; quote the value if it is meant to begin with `!`"),
            );
        }
    }
}

fn too_deep(at: Position) -> YamlError {
    YamlError::new(at, "too-deep", format!("mappings and sequences are nested deeper than {DEPTH_MAX} levels"))
}

/// A syntax error of the parser, with the likely cause where one is known.
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
            return YamlError::new(at, "merge-conflict", "unresolved merge conflict").help("resolve it in git");
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
