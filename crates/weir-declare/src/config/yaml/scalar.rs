//! The values of plain scalars, as YAML 1.2's core schema has them.

use serde_json::{Number, Value};

use super::{Position, YamlError};

/// What makes a plain scalar unusable.
#[derive(Debug, Clone, Copy)]
pub(super) enum ScalarError {
    TooLarge,
    NotFinite,
}

impl ScalarError {
    pub(super) fn at(self, at: Position) -> YamlError {
        match self {
            Self::TooLarge => YamlError::new(at, "number-too-large", "the number does not fit into 64 bits")
                .help("quote it, if it is meant as text"),
            Self::NotFinite => YamlError::new(at, "not-a-number", "`.inf` and `.nan` are not allowed"),
        }
    }
}

/// The value of a plain scalar. Numbers without a fraction become integers: `1000.0` and `1e3` mean 1000.
pub(super) fn plain_scalar(text: &str) -> Result<Value, ScalarError> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF" => {
            return Err(ScalarError::NotFinite);
        }
        ".nan" | ".NaN" | ".NAN" => return Err(ScalarError::NotFinite),
        _ => {}
    }
    if let Some(number) = integer(text)? {
        return Ok(Value::Number(number));
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let begins_like_a_number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let float = if begins_like_a_number && !has_leading_zero(unsigned) { text.parse::<f64>().ok() } else { None };
    let Some(float) = float.filter(|float| float.is_finite()) else { return Ok(Value::String(text.to_owned())) };
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    if float.fract() == 0.0 && float.abs() < EXACT {
        #[allow(clippy::cast_possible_truncation)] // whole and below 2^53
        return Ok((float as i64).into());
    }
    Number::from_f64(float).map(Value::Number).ok_or(ScalarError::NotFinite)
}

/// The integer that `text` writes: decimal, `0x`, `0o` or `0b`, with or without a sign. `None`: it writes none.
fn integer(text: &str) -> Result<Option<Number>, ScalarError> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match unsigned.split_at_checked(2) {
        Some(("0x", digits)) => (16, digits),
        Some(("0o", digits)) => (8, digits),
        Some(("0b", digits)) => (2, digits),
        _ => (10, unsigned),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Ok(None);
    }
    let magnitude = match u128::from_str_radix(digits, radix) {
        Ok(magnitude) => u64::try_from(magnitude).map_err(|_| ScalarError::TooLarge)?,
        Err(_) if radix == 10 => return Err(ScalarError::TooLarge),
        Err(_) => return Ok(None), // a hash in hexadecimal, not a number
    };
    if radix == 10 && has_leading_zero(digits) {
        return Ok(None);
    }
    if !negative {
        return Ok(Some(magnitude.into()));
    }
    0_i64.checked_sub_unsigned(magnitude).map(|value| Some(value.into())).ok_or(ScalarError::TooLarge)
}

/// Whether digits begin with a zero that means nothing. YAML 1.2 reads such text as a string, not as octal.
fn has_leading_zero(digits: &str) -> bool {
    digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
}
