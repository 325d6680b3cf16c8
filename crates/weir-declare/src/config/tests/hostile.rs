//! Hostile files are refused quickly, with a position.

use std::fmt::Write as _;

use super::*;

#[test]
fn hostile_files_are_refused_with_a_code() {
    let deep = |open: &str, close: &str| format!("endpoint: {}{}", open.repeat(100), close.repeat(100));
    let block: String = (0..200).fold(String::new(), |mut text, depth| {
        let _infallible = writeln!(text, "{}a:", " ".repeat(depth));
        text
    });
    let cases = [
        (deep("[", "]"), "too-deep"),
        (deep("{a: ", "}"), "too-deep"),
        ("[".repeat(FILE_SIZE_MAX), "too-deep"),
        ("{a: ".repeat(60_000), "too-deep"),
        (block, "too-deep"),
        ("- ".repeat(130_000), "too-deep"),
        ("? ".repeat(130_000), "key-not-a-string"),
        ("x".repeat(FILE_SIZE_MAX + 1), "file-too-large"),
        ("endpoint: &a [*a]".into(), "anchor"),
        ("endpoint: !!binary aGk=".into(), "tag"),
        ("endpoint: {<<: {port: 1}}".into(), "merge-key"),
        ("endpoint: {port: 1, port: 2}".into(), "duplicate-key"),
        ("endpoint: {\"port\": 1, port: 2}".into(), "duplicate-key"),
        ("endpoint: {port: 1, \"p\\u006frt\": 2}".into(), "duplicate-key"),
        ("endpoint: \u{0}".into(), "control-character"),
        ("endpoint: \u{1b}[31m".into(), "control-character"),
    ];
    for (text, code) in cases {
        let loaded = first(&[("a.yaml", &text)]);
        let found = loaded.diagnostics.first().map(|diagnostic| diagnostic.code);
        assert_eq!(found, Some(code), "{}", text.chars().take(40).collect::<String>());
        assert!(loaded.declared.endpoints.is_empty());
    }
}

/// Loading a file of the largest size takes linear time. A quadratic pass over one of these files would take minutes.
#[test]
fn the_largest_files_are_loaded_in_linear_time() {
    let fill = |unit: &str| unit.repeat((FILE_SIZE_MAX - 100) / unit.len());
    let texts = [
        format!("endpoint: [{}]", fill("a,")),
        format!("endpoint: [{}]", fill("[],")),
        format!("endpoint: {{{}}}", fill("a, ")),
        format!("endpoint: \"{}\"", fill("\\\"")),
        format!("endpoint: |\n{}", fill(" \n")),
        format!("endpoint:\n{}", fill("# \n")),
        format!("endpoint: {}", fill("a b ")),
        fill("---\n"),
        fill("- a\n"),
        fill("%YAML 1.2\n"),
        (0..20_000).fold(String::from("endpoint:\n"), |mut text, n| {
            let _infallible = writeln!(text, "  k{n}: 1");
            text
        }),
        (0..9_000).fold(String::from("acl:\n rules:\n"), |mut text, n| {
            let _infallible = writeln!(text, " - {{permission: deny,username: {n}}}");
            text
        }),
    ];
    for text in texts {
        first(&[("a.yaml", &text)]);
    }
}

#[test]
fn positions_count_characters_not_bytes() {
    let cases = [
        ("endpoint: {port: 1, description: \"中文\", x: 1}", (1, 40)),
        ("\u{feff}endpoint: {port: 1, x: 1}", (1, 21)),
        ("endpoint:\r\n  port: 1\r\n  x: 1\r\n", (3, 3)),
        ("endpoint:\n  port: 1\n  description: |\n    a\n    b\n  x: 1", (6, 3)),
        ("{\n\t\"endpoint\": {\n\t\t\"port\": 1, \"description\": \"\\\"\\t\",\n\t\t\"x\": 1\n\t}\n}", (4, 3)),
    ];
    for (text, (line, col)) in cases {
        let loaded = first(&[("a.yaml", text)]);
        let at = loaded.diagnostics.iter().find(|diagnostic| diagnostic.code == "unknown-field").map(|d| d.position);
        assert_eq!(at, Some(Position { line, col, len: at.map_or(0, |at| at.len) }), "{text:?} {:?}", codes(&loaded));
    }
}
