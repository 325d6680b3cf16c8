//! See [`scram`].

use std::num::NonZeroU32;

use super::exchange::{ClientFirst, challenge};
use super::record::ScramRecord;

/// A client's messages are parsed or rejected without a panic, and no final message is accepted without the right proof. The
/// first line of the bytes is the first message, the rest the final one.
#[cfg_attr(not(fuzzing), expect(unreachable_pub, reason = "`crate::fuzzing` exports it"))]
pub fn scram(bytes: &[u8]) {
    let split = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (first, rest) = bytes.split_at(split);
    let Some(first) = ClientFirst::parse(first) else { return };
    assert!(!first.username.is_empty());
    let iterations = NonZeroU32::MIN;
    let record = ScramRecord::derive(b"a password that no input holds", b"salt", iterations);
    let (message, challenge) = challenge(&first, record, "server-nonce");
    assert!(message.starts_with(b"r="));
    assert!(challenge.verify(rest.get(1..).unwrap_or_default()).is_none(), "accepted without the password");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutated_messages_are_parsed_or_rejected() {
        let messages = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO\nc=biws,r=rOprNGfwEbeRWgbNEkqOserver-nonce,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        scram(messages);
        for at in 0..messages.len() {
            for byte in [b',', b'=', b'\n', 0, 0xc3, 0xff] {
                let mut mutated = messages.to_vec();
                mutated[at] = byte;
                scram(&mutated);
                scram(&mutated[..at]);
            }
        }
    }
}
