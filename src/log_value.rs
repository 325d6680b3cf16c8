//! Values that a client chose, as log lines show them: a client must not decide how long a line is.

use std::borrow::Cow;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};

/// Bytes of a value that a log line shows; of a longer one its beginning.
const SHOWN_BYTES_MAX: usize = 64;
/// Bytes of the digest that tells long values with the same beginning apart.
const DIGEST_BYTES: usize = 8;

/// The text for a log line: whole up to 64 bytes, else its beginning, `...#` and 16 hexadecimal digits of its SHA-256,
/// which are the same in every line. Write it as a string field, which escapes control characters:
/// `client_id = &*log_value(client_id)`.
pub(crate) fn log_value(text: &str) -> Cow<'_, str> {
    if text.len() <= SHOWN_BYTES_MAX {
        return Cow::Borrowed(text);
    }
    let end = (0..=SHOWN_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let digest = digest(&SHA256, text.as_bytes());
    let digest = HEXLOWER.encode(digest.as_ref().get(..DIGEST_BYTES).unwrap_or_default());
    Cow::Owned(format!("{}...#{digest}", text.get(..end).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_at_a_character_and_keeps_a_digest() {
        assert_eq!(log_value(""), "");
        let whole = "x".repeat(64);
        assert_eq!(log_value(&whole), whole);
        let long = log_value(&"x".repeat(65_535)).into_owned();
        assert!(long.starts_with(&format!("{whole}...#")) && long.len() == 64 + 4 + 16, "{long}");
        assert_eq!(long, log_value(&"x".repeat(65_535)), "the same in every line");
        assert_ne!(long, log_value(&"x".repeat(65_534)));
        // Of a character of two bytes that begins at byte 63 nothing is shown.
        let cut = log_value(&format!("{}\u{e9}{}", "x".repeat(63), "y".repeat(10))).into_owned();
        assert!(cut.starts_with(&format!("{}...#", "x".repeat(63))), "{cut}");
    }
}
