//! See [`jwt`].

use super::claims::Claims;
use super::token::Token;

/// A token's signed part is a prefix of it, and the parts are what they are in the text; claims of any payload are read
/// without a panic, and rules in them compile.
#[cfg_attr(not(fuzzing), expect(unreachable_pub, reason = "`crate::fuzzing` exports it"))]
pub fn jwt(bytes: &[u8]) {
    if let Some(token) = Token::parse(bytes) {
        assert!(bytes.starts_with(token.signed) && bytes[token.signed.len()] == b'.');
        assert_eq!(bytes.iter().filter(|byte| **byte == b'.').count(), 2);
        let _ = Claims::parse(&token.payload);
    }
    let _ = Claims::parse(bytes);
    if let Ok(claim) = serde_json::from_slice(bytes) {
        let _ = super::rules(&claim);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutated_tokens_are_parsed_or_rejected() {
        let token = b"eyJhbGciOiJIUzI1NiIsImtpZCI6ImEifQ.eyJzdWIiOiJhIiwiZXhwIjoxfQ.AAAA";
        for at in 0..token.len() {
            for byte in [b'.', b'=', b'A', 0, 0xff] {
                let mut mutated = token.to_vec();
                mutated[at] = byte;
                jwt(&mutated);
                jwt(&mutated[..at]);
            }
        }
    }
}
