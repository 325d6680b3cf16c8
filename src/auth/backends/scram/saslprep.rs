//! SASLprep (RFC 4013): names and passwords that look the same are the same, however they were typed.

use std::borrow::Cow;

/// Why a name or password cannot be prepared. No variant holds any of its characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SaslprepError {
    #[error("it is empty after SASLprep (RFC 4013)")]
    Empty,
    #[error(
        "it holds characters that SASLprep (RFC 4013) forbids: controls, emoji and others that Unicode 3.2 does not know, \
         or a mix of directions of writing"
    )]
    Forbidden,
}

/// Prepares a user name or password as a stored string (RFC 5802, sections 2.2 and 5.1). ASCII stays as it is.
///
/// # Errors
/// See [`SaslprepError`].
pub fn saslprep(text: &str) -> Result<Cow<'_, str>, SaslprepError> {
    match stringprep::saslprep(text) {
        Ok(prepared) if prepared.is_empty() => Err(SaslprepError::Empty),
        Ok(prepared) => Ok(prepared),
        // The crate's message would repeat a character of the password.
        Err(_) => Err(SaslprepError::Forbidden),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords_are_prepared_by_rfc_4013() {
        let cases = [
            // RFC 4013, section 3.
            ("I\u{AD}X", Some("IX")),
            ("user", Some("user")),
            ("USER", Some("USER")),
            ("\u{AA}", Some("a")),
            ("\u{2168}", Some("IX")),
            ("\u{7}", None),
            ("\u{627}\u{31}", None),
            // 2.1: other spaces become one, some characters nothing.
            ("a\u{A0}b\u{3000}c", Some("a b c")),
            ("a\u{FE00}b", Some("ab")),
            // 2.2: NFKC, so that it does not matter how an accent was typed.
            ("jose\u{301}", Some("jos\u{E9}")),
            ("\u{FB01}ne", Some("fine")),
            // 2.3: prohibited output.
            ("a\0b", None),
            ("a\u{E000}", None),
            ("a\u{FFFD}", None),
            ("\u{202A}a", None),
            // 2.4: one direction of writing, first and last character too.
            ("\u{627}\u{628}", Some("\u{627}\u{628}")),
            ("\u{627}a\u{628}", None),
            // 2.5: what Unicode 3.2 does not know.
            ("\u{1F600}", None),
            // Nothing is left.
            ("", None),
            ("\u{AD}", None),
        ];
        for (text, expected) in cases {
            assert_eq!(saslprep(text).ok().as_deref(), expected, "{text:?}");
        }
    }
}
