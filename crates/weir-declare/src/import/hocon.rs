//! The part of HOCON that EMQX's files use, as a tree with line numbers: dotted and quoted keys, `=` and `:`, objects that
//! merge, lists, unquoted and quoted text, text between `"""`, comments, `include`.

use std::path::{Path, PathBuf};

use super::mosquitto_conf::beside;
use super::{ImportError, ImportFiles};

/// A value, and the line where it begins; no line in an included file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: Option<usize>,
    pub(super) value: Hocon,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Hocon {
    /// Text, quoted or not; numbers and booleans, too.
    Scalar(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// Nesting depth of values, and of included files.
const DEPTH_MAX: usize = 32;

/// Parses a file; files that it includes are relative to it.
///
/// # Errors
/// `text` is not HOCON, or has what EMQX's files do not use.
pub(super) fn parse(file: &Path, text: &str, files: &dyn ImportFiles) -> Result<Vec<(String, Node)>, ImportError> {
    Parser { rest: text, line: 1, file: file.to_owned(), files, included: 0 }.root()
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
    file: PathBuf,
    files: &'a dyn ImportFiles,
    /// How many files deep this one is included.
    included: usize,
}

impl Parser<'_> {
    fn error(&self, message: impl Into<String>) -> ImportError {
        let message = message.into();
        let message = if self.included == 0 { message } else { format!("{} (in {})", message, self.file.display()) };
        ImportError::Malformed { line: self.line, message }
    }

    fn node(&self, line: usize, value: Hocon) -> Node {
        Node { line: (self.included == 0).then_some(line), value }
    }

    fn root(mut self) -> Result<Vec<(String, Node)>, ImportError> {
        self.rest = self.rest.strip_prefix('\u{feff}').unwrap_or(self.rest);
        self.skip();
        let braced = self.consume("{");
        let fields = self.members(if braced { Some('}') } else { None }, 0)?;
        self.skip();
        if self.rest.is_empty() { Ok(fields) } else { Err(self.error("text follows the closing brace")) }
    }

    fn advance(&mut self, bytes: usize) {
        let (passed, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.line += passed.matches('\n').count();
        self.rest = rest;
    }

    fn consume(&mut self, token: &str) -> bool {
        let found = self.rest.starts_with(token);
        if found {
            self.advance(token.len());
        }
        found
    }

    /// Skips white space, line ends and comments.
    fn skip(&mut self) {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.advance(blank);
            if !self.rest.starts_with('#') && !self.rest.starts_with("//") {
                return;
            }
            self.advance(self.rest.find('\n').unwrap_or(self.rest.len()));
        }
    }

    /// Skips white space within the line.
    fn skip_blanks(&mut self) {
        let blank = self.rest.len() - self.rest.trim_start_matches([' ', '\t', '\r']).len();
        self.advance(blank);
    }

    /// Fields up to `close`, or the end of the text.
    fn members(&mut self, close: Option<char>, depth: usize) -> Result<Vec<(String, Node)>, ImportError> {
        let mut fields = Vec::new();
        let opened = self.line;
        loop {
            self.skip();
            while self.consume(",") {
                self.skip();
            }
            match (self.rest.chars().next(), close) {
                (None, None) => return Ok(fields),
                (None, Some(close)) => {
                    return Err(self.error(format!("`{close}` is missing; line {opened} opens what it would close")));
                }
                (Some(found), Some(close)) if found == close => {
                    self.advance(found.len_utf8());
                    return Ok(fields);
                }
                _ => {}
            }
            match self.included_fields()? {
                Some(included) => included.into_iter().for_each(|(key, node)| merge(&mut fields, key, node)),
                None => self.member(&mut fields, depth)?,
            }
        }
    }

    /// `include "file"`, `include file("file")`, `include required(file("file"))`.
    fn included_fields(&mut self) -> Result<Option<Vec<(String, Node)>>, ImportError> {
        let Some(after) = self.rest.strip_prefix("include").filter(|after| after.starts_with([' ', '\t'])) else {
            return Ok(None);
        };
        let statement = after.lines().next().unwrap_or_default().trim();
        if statement.starts_with(['=', ':', '{']) {
            return Ok(None);
        }
        let name = statement.split('"').nth(1).unwrap_or_default();
        if name.is_empty() {
            return Err(self.error("`include` names no file in quotes"));
        }
        if self.included >= DEPTH_MAX {
            return Err(self.error("files are included too deeply"));
        }
        let path = beside(&self.file, name);
        let text = self.files.read(&path).map_err(|error| self.error(format!("{}: {error}", path.display())))?;
        let parser = Parser { rest: &text, line: 1, file: path, files: self.files, included: self.included + 1 };
        let fields = parser.root()?;
        self.advance(self.rest.find('\n').unwrap_or(self.rest.len()));
        Ok(Some(fields))
    }

    fn member(&mut self, fields: &mut Vec<(String, Node)>, depth: usize) -> Result<(), ImportError> {
        let line = self.line;
        let path = self.path()?;
        self.skip_blanks();
        let appends = self.consume("+=");
        if !appends && !self.rest.starts_with('{') && !self.consume("=") && !self.consume(":") {
            return Err(self.error(format!("`=` is missing after `{}`", path.join("."))));
        }
        self.skip_blanks();
        let mut node = self.value(depth)?;
        if appends {
            let mut items = match find(fields, &path) {
                Some(Hocon::List(items)) => items.clone(),
                _ => Vec::new(),
            };
            items.push(node);
            node = self.node(line, Hocon::List(items));
        }
        let mut keys = path.into_iter().rev();
        let Some(last) = keys.next() else { return Ok(()) };
        let (key, node) =
            keys.fold((last, node), |(inner, node), key| (key, self.node(line, Hocon::Object(vec![(inner, node)]))));
        merge(fields, key, node);
        Ok(())
    }

    /// A dotted key.
    fn path(&mut self) -> Result<Vec<String>, ImportError> {
        let mut path = Vec::new();
        loop {
            if self.rest.starts_with('"') {
                path.push(self.quoted()?);
            } else {
                let is_key = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '$' | '@' | '/');
                let end = self.rest.find(|c: char| !is_key(c)).unwrap_or(self.rest.len());
                if end == 0 {
                    let shown = self.rest.lines().next().unwrap_or_default();
                    return Err(self.error(format!("a key is missing at {shown:?}")));
                }
                path.push(self.rest[..end].to_owned());
                self.advance(end);
            }
            if !self.consume(".") {
                return Ok(path);
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, ImportError> {
        if depth > DEPTH_MAX {
            return Err(self.error("values are nested too deeply"));
        }
        let line = self.line;
        if self.consume("{") {
            let fields = self.members(Some('}'), depth + 1)?;
            return Ok(self.node(line, Hocon::Object(fields)));
        }
        if self.consume("[") {
            return self.items(line, depth);
        }
        self.scalar(line)
    }

    fn items(&mut self, line: usize, depth: usize) -> Result<Node, ImportError> {
        let mut items = Vec::new();
        loop {
            self.skip();
            while self.consume(",") {
                self.skip();
            }
            if self.consume("]") {
                return Ok(self.node(line, Hocon::List(items)));
            }
            if self.rest.is_empty() {
                return Err(self.error(format!("`]` is missing; line {line} opens the list")));
            }
            items.push(self.value(depth + 1)?);
        }
    }

    /// Quoted and unquoted text up to the end of the value.
    fn scalar(&mut self, line: usize) -> Result<Node, ImportError> {
        let mut text = String::new();
        // Blanks at the end of unquoted text are not part of it.
        let mut quoted_len = 0;
        let mut any = false;
        loop {
            if self.rest.starts_with('"') {
                text.push_str(&self.quoted()?);
                quoted_len = text.len();
            } else if self.rest.starts_with("${") {
                return Err(self.error("substitutions like ${key} are not read; write the value"));
            } else {
                let before = text.chars().next_back();
                let Some(next) = self.rest.chars().next().filter(|&next| !ends_value(next, before, self.rest)) else {
                    break;
                };
                text.push(next);
                self.advance(next.len_utf8());
            }
            any = true;
        }
        if !any {
            return Err(self.error("a value is missing"));
        }
        text.truncate(text.trim_end().len().max(quoted_len));
        Ok(self.node(line, Hocon::Scalar(text)))
    }

    fn quoted(&mut self) -> Result<String, ImportError> {
        if self.consume("\"\"\"") {
            let Some(end) = self.rest.find("\"\"\"") else { return Err(self.error("`\"\"\"` is not closed")) };
            // Further quotes before the last three are part of the text.
            let further = self.rest[end + 3..].bytes().take_while(|&byte| byte == b'"').count();
            let text = self.rest[..end + further].to_owned();
            self.advance(end + further + 3);
            return Ok(without_indent(&text));
        }
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.advance(at + 1);
                    return Ok(text);
                }
                '\n' => break,
                '\\' => {
                    let escaped = chars.next().map(|(_, escaped)| escaped);
                    match escaped {
                        Some(plain @ ('"' | '\\' | '/')) => text.push(plain),
                        Some('n') => text.push('\n'),
                        Some('r') => text.push('\r'),
                        Some('t') => text.push('\t'),
                        Some('u') => {
                            let digits: String = chars.by_ref().take(4).map(|(_, digit)| digit).collect();
                            let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                            text.push(code.ok_or_else(|| self.error(format!("\\u{digits} is not a character")))?);
                        }
                        _ => return Err(self.error("a backslash that escapes nothing; write it twice")),
                    }
                }
                c => text.push(c),
            }
        }
        Err(self.error("a quote is not closed"))
    }
}

/// Whether an unquoted value ends before `next`. `//` within a word, as in a URL, is part of it.
fn ends_value(next: char, before: Option<char>, rest: &str) -> bool {
    let after_blank = before.is_none_or(char::is_whitespace);
    matches!(next, '\n' | ',' | '}' | ']' | '#' | '{' | '[') || after_blank && rest.starts_with("//")
}

/// EMQX's `"""~` text: its first and last line break and the common indentation are not part of it.
fn without_indent(text: &str) -> String {
    let Some(inner) = text.strip_prefix('~') else { return text.to_owned() };
    let inner = inner.strip_prefix("\r\n").or_else(|| inner.strip_prefix('\n')).unwrap_or(inner);
    let inner = inner.strip_suffix('~').unwrap_or(inner).trim_end_matches([' ', '\t']);
    let lines = || inner.lines().filter(|line| !line.trim().is_empty());
    let indent = lines().map(|line| line.len() - line.trim_start().len()).min().unwrap_or_default();
    let plain: Vec<&str> = inner.lines().map(|line| line.get(indent..).unwrap_or_default()).collect();
    plain.join("\n")
}

/// Sets a field; objects of the same key merge, and other values replace each other.
fn merge(fields: &mut Vec<(String, Node)>, key: String, node: Node) {
    let known = fields.iter_mut().find(|(known, _)| *known == key);
    match (known, node) {
        (Some((_, Node { value: Hocon::Object(known), .. })), Node { value: Hocon::Object(further), .. }) => {
            further.into_iter().for_each(|(key, node)| merge(known, key, node));
        }
        (Some((_, known)), node) => *known = node,
        (None, node) => fields.push((key, node)),
    }
}

fn find<'a>(fields: &'a [(String, Node)], path: &[String]) -> Option<&'a Hocon> {
    let (first, rest) = path.split_first()?;
    let value = &fields.iter().find(|(key, _)| key == first)?.1.value;
    match value {
        _ if rest.is_empty() => Some(value),
        Hocon::Object(inner) => find(inner, rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    struct OneFile;

    impl ImportFiles for OneFile {
        fn read(&self, path: &Path) -> io::Result<String> {
            match path.to_str() {
                Some("dir/more.conf") => Ok("a.included = yes\n".to_owned()),
                Some("dir/bad.conf") => Ok("\nx".to_owned()),
                _ => Err(io::Error::from(io::ErrorKind::NotFound)),
            }
        }

        fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
            Ok(Vec::new())
        }
    }

    /// A tree in one line.
    fn shown(value: &Hocon) -> String {
        match value {
            Hocon::Scalar(text) => format!("{text:?}"),
            Hocon::List(items) => {
                format!("[{}]", items.iter().map(|item| shown(&item.value)).collect::<Vec<_>>().join(", "))
            }
            Hocon::Object(fields) => {
                let fields = fields.iter().map(|(key, node)| format!("{key}: {}", shown(&node.value)));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn parsed(text: &str) -> Result<String, String> {
        parse(Path::new("dir/emqx.conf"), text, &OneFile)
            .map(|fields| shown(&Hocon::Object(fields)))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_forms_of_emqx_files_are_read() {
        #[rustfmt::skip] // a table
        let cases = [
            ("", "{}"),
            ("{a = 1, b: 2}", r#"{a: "1", b: "2"}"#),
            ("a.b.c = x y \n# comment\n// comment\n", r#"{a: {b: {c: "x y"}}}"#),
            ("a { b = 1 }\na.c = 2\na { b = 3 }", r#"{a: {b: "3", c: "2"}}"#),
            ("a = {x = 1}\na = 2", r#"{a: "2"}"#),
            ("a = [1, \"two\"\n {b = 3}\n [4] ]", r#"{a: ["1", "two", {b: "3"}, ["4"]]}"#),
            ("a = [1]\na += 2\nb += 3", r#"{a: ["1", "2"], b: ["3"]}"#),
            ("\"a.b\".c = \"q # \\\"\\u00e9\\n\"", "{a.b: {c: \"q # \\\"é\\n\"}}"),
            ("bind = 0.0.0.0:1883 # comment", r#"{bind: "0.0.0.0:1883"}"#),
            ("url = http://h/p // comment", r#"{url: "http://h/p"}"#),
            ("a = \"\"\"one\ntwo\"\"\"\nb = 1", "{a: \"one\\ntwo\", b: \"1\"}"),
            ("a = \"\"\"~\n    x\n      y\n  ~\"\"\"", "{a: \"x\\n  y\"}"),
            ("sql = \"\"\"SELECT * FROM \"t/#\"\"\"\"\nb = 1", "{sql: \"SELECT * FROM \\\"t/#\\\"\", b: \"1\"}"),
            ("include \"more.conf\"\na.own = 1", r#"{a: {included: "yes", own: "1"}}"#),
            ("include file(\"more.conf\")", r#"{a: {included: "yes"}}"#),
            ("include = 1", r#"{include: "1"}"#),
        ];
        for (text, expected) in cases {
            assert_eq!(parsed(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_hocon_is_refused_with_its_line() {
        let deep = format!("a = {}", "[".repeat(100));
        #[rustfmt::skip] // a table
        let cases = [
            ("a = 1\nb", "line 2: `=` is missing after `b`"),
            ("a =\nb = 1", "line 1: a value is missing"),
            ("a {\n b = 1\n", "line 3: `}` is missing; line 1 opens what it would close"),
            ("\na = [1,\n2", "line 3: `]` is missing; line 2 opens the list"),
            ("a = \"x\n", "line 1: a quote is not closed"),
            ("a = \"\"\"x\n", "line 1: `\"\"\"` is not closed"),
            ("a = \"\\x\"", "line 1: a backslash that escapes nothing; write it twice"),
            ("a = \"\\uD800\"", "line 1: \\uD800 is not a character"),
            ("a = ${b}", "line 1: substitutions like ${key} are not read; write the value"),
            ("{a = 1} b = 2", "line 1: text follows the closing brace"),
            ("= 1", "line 1: a key is missing at \"= 1\""),
            ("include more", "line 1: `include` names no file in quotes"),
            ("\ninclude \"none.conf\"", "line 2: dir/none.conf: entity not found"),
            ("include \"bad.conf\"", "line 2: `=` is missing after `x` (in dir/bad.conf)"),
            (&deep, "line 1: values are nested too deeply"),
        ];
        for (text, expected) in cases {
            assert_eq!(parsed(text), Err(expected.to_owned()), "{text}");
        }
    }
}
