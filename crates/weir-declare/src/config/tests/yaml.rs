//! YAML: the types of scalars, and what the parser refuses.

use serde_json::{Value, json};

use super::super::yaml;

/// The values of the documents of `text`, or the codes of its errors.
fn parsed(text: &str) -> Result<Vec<Value>, Vec<&'static str>> {
    let documents =
        yaml::parse(text.as_bytes()).map_err(|errors| errors.iter().map(|error| error.code).collect::<Vec<_>>())?;
    Ok(documents.into_iter().map(|document| document.value).collect())
}

#[test]
fn plain_scalars_have_the_types_of_yaml_1_2() {
    let cases = [
        ("~", json!(null)),
        ("Null", json!(null)),
        ("nULL", json!("nULL")),
        ("True", json!(true)),
        ("yes", json!("yes")),
        ("off", json!("off")),
        ("12", json!(12)),
        ("+12", json!(12)),
        ("-0", json!(0)),
        ("0777", json!("0777")),
        ("-00", json!("-00")),
        ("0o17", json!(15)),
        ("0o8", json!("0o8")),
        ("0b101", json!(5)),
        ("0x1F", json!(31)),
        ("-0x1f", json!(-31)),
        ("0x-5", json!("0x-5")),
        ("0x0123456789abcdef0123456789abcdef0123", json!("0x0123456789abcdef0123456789abcdef0123")),
        ("18446744073709551615", json!(u64::MAX)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("1e3", json!(1000)),
        ("1000.0", json!(1000)),
        (".5", json!(0.5)),
        ("1e400", json!("1e400")),
        ("inf", json!("inf")),
        ("1_000", json!("1_000")),
        ("12:30", json!("12:30")),
        ("2026-01-01", json!("2026-01-01")),
        ("'12'", json!("12")),
        ("\"~\"", json!("~")),
    ];
    for (text, value) in cases {
        assert_eq!(parsed(&format!("a: {text}\n")), Ok(vec![json!({ "a": value })]), "{text}");
    }
}

#[test]
fn unusable_scalars_and_keys_are_refused() {
    let cases = [
        ("a: .inf", "not-a-number"),
        ("a: -.INF", "not-a-number"),
        ("a: .nan", "not-a-number"),
        ("a: 18446744073709551616", "number-too-large"),
        ("a: -9223372036854775809", "number-too-large"),
        ("a: 0x10000000000000000", "number-too-large"),
        ("1883: a", "key-not-a-string"),
        ("true: a", "key-not-a-string"),
        ("~: a", "key-not-a-string"),
        (": a", "key-not-a-string"),
        ("{a: |\n b}", "syntax"),
    ];
    for (text, code) in cases {
        assert_eq!(parsed(text), Err(vec![code]), "{text}");
    }
}

#[test]
fn all_errors_of_a_file_are_reported() {
    assert_eq!(parsed("1: .inf\na: 1\na: 2\n"), Err(vec!["key-not-a-string", "not-a-number", "duplicate-key"]));
}

#[test]
fn a_block_scalar_ends_without_a_line_break_where_the_file_does() {
    let cases = [
        ("a: |\n  x", "x"),
        ("a: |\n  x\n", "x\n"),
        ("a: |\n  x\n  ", "x\n"),
        ("a: |\n  x\n ", "x\n"),
        ("a: |\n  x\n# c", "x\n"),
        ("a: |-\n  x\n", "x"),
        ("a: |+\n  x\n\n", "x\n\n"),
        ("a: >\n  x\n  y", "x y"),
        ("a: >+\n  x\n\n  y", "x\ny"),
        ("a: |+\n\n  ", "\n"),
    ];
    for (text, value) in cases {
        assert_eq!(parsed(text), Ok(vec![json!({ "a": value })]), "{text:?}");
    }
}

#[test]
fn documents_without_content_are_left_out() {
    assert_eq!(parsed("---\n# nothing\n---\na: 1\n---\n~\n---\n[]\n"), Ok(vec![json!({"a": 1}), json!([])]));
}
