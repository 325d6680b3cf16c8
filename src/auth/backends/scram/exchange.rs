//! The messages of RFC 5802, section 7.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::record::{ScramRecord, sha256, sign};
use super::saslprep::saslprep;

/// Longer than any client's message; the answer repeats its nonce.
const MAX_MESSAGE_BYTES: usize = 4096;

/// `client-first-message`.
pub(super) struct ClientFirst {
    /// Prepared.
    pub(super) username: String,
    /// `n,,` with the text between the commas.
    gs2_header: String,
    bare: String,
    nonce: String,
}

impl ClientFirst {
    /// `None`: malformed, or it wants channel binding, or to act as another user.
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(data).ok().filter(|text| text.len() <= MAX_MESSAGE_BYTES)?;
        let mut parts = text.splitn(3, ',');
        let (flag, authzid, bare) = (parts.next()?, parts.next()?, parts.next()?);
        // `y`: the client could bind the channel and has seen that we do not offer it.
        if !matches!(flag, "n" | "y") {
            return None;
        }
        let mut attributes = bare.split(',');
        // A leading `m=` is an extension that must be understood, and is not.
        let username = name(attributes.next()?.strip_prefix("n=")?)?;
        let nonce = attributes.next()?.strip_prefix("r=").filter(|nonce| is_printable(nonce))?;
        let acts_as = authzid.strip_prefix("a=").map(name);
        if !(authzid.is_empty() || acts_as == Some(Some(username.clone()))) {
            return None;
        }
        Some(Self {
            gs2_header: format!("{flag},{authzid},"),
            bare: bare.to_owned(),
            nonce: nonce.to_owned(),
            username,
        })
    }
}

/// A `saslname`, prepared (RFC 5802, section 5.1). `None`: no user can have this name.
fn name(text: &str) -> Option<String> {
    saslprep(&unescape(text)?).ok().map(Cow::into_owned)
}

/// `=2C` is a comma, `=3D` an equals sign; nothing else is escaped.
fn unescape(text: &str) -> Option<String> {
    let mut pieces = text.split('=');
    let mut plain = pieces.next()?.to_owned();
    for piece in pieces {
        let (sign, rest) = match piece.split_at_checked(2)? {
            ("2C", rest) => (',', rest),
            ("3D", rest) => ('=', rest),
            _ => return None,
        };
        plain.push(sign);
        plain.push_str(rest);
    }
    (!plain.is_empty()).then_some(plain)
}

fn is_printable(nonce: &str) -> bool {
    !nonce.is_empty() && nonce.bytes().all(|byte| (0x21..=0x7E).contains(&byte))
}

/// A challenge that was sent: what a valid `client-final-message` must match.
pub(super) struct Challenge {
    record: ScramRecord,
    channel: String,
    nonce: String,
    /// The first two thirds of AuthMessage, each with its comma.
    auth_message_prefix: String,
}

/// `server-first-message`.
pub(super) fn challenge(first: &ClientFirst, record: ScramRecord, server_nonce: &str) -> (Vec<u8>, Challenge) {
    let nonce = format!("{}{server_nonce}", first.nonce);
    let message = format!("r={nonce},s={},i={}", STANDARD.encode(&record.salt), record.iterations);
    let auth_message_prefix = format!("{},{message},", first.bare);
    let channel = STANDARD.encode(&first.gs2_header);
    (message.into_bytes(), Challenge { record, channel, nonce, auth_message_prefix })
}

impl Challenge {
    /// Verifies `client-final-message`; returns `server-final-message` where the proof is right.
    pub(super) fn verify(&self, data: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(data).ok().filter(|text| text.len() <= MAX_MESSAGE_BYTES)?;
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        let mut attributes = without_proof.split(',');
        let channel = attributes.next()?.strip_prefix("c=")?;
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let proof: [u8; 32] = STANDARD.decode(proof).ok()?.try_into().ok()?;
        let message = format!("{}{without_proof}", self.auth_message_prefix);
        let mut client_key = sign(&self.record.stored_key, message.as_bytes());
        for (byte, proof) in client_key.iter_mut().zip(proof) {
            *byte ^= proof;
        }
        let proven = sha256(&client_key).ct_eq(&self.record.stored_key);
        if !bool::from(proven) || channel != self.channel || nonce != self.nonce {
            return None;
        }
        let signature = sign(&self.record.server_key, message.as_bytes());
        Some(format!("v={}", STANDARD.encode(signature)).into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn sent_challenge() -> (String, Challenge) {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let record = ScramRecord::derive(b"pencil", &salt, NonZeroU32::new(4096).unwrap());
        let first = ClientFirst::parse(FIRST.as_bytes()).unwrap();
        let (message, sent) = challenge(&first, record, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
        (String::from_utf8(message).unwrap(), sent)
    }

    /// RFC 7677, section 3.
    #[test]
    fn the_rfcs_own_exchange_succeeds() {
        let (server_first, challenge) = sent_challenge();
        assert_eq!(
            server_first,
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let server_final = challenge.verify(FINAL.as_bytes()).unwrap();
        assert_eq!(server_final, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn malformed_final_messages_fail() {
        let (_, challenge) = sent_challenge();
        let cases = [
            FINAL.replace("p=dH", "p=dI"),
            FINAL.replace("c=biws", "c=eSws"),
            FINAL.replace("hNlF$k0", "hNlF$k1"),
            FINAL.replace(",p=", ",x=1,p="),
            FINAL.replace(",p=", ",q="),
            "c=biws,p=".into(),
            String::new(),
        ];
        for case in cases {
            assert_eq!(challenge.verify(case.as_bytes()), None, "{case}");
        }
    }

    #[test]
    fn first_messages_are_read_strictly() {
        let cases = [
            (FIRST, Some("user")),
            ("y,,n=user,r=abc", Some("user")),
            ("n,a=user,n=user,r=abc", Some("user")),
            ("n,,n=a=2Cb=3Dc,r=abc,x=future", Some("a,b=c")),
            ("n,,n=I\u{AD}X,r=abc", Some("IX")),
            ("n,a=\u{2168},n=IX,r=abc", Some("IX")),
            ("n,,n=a\u{7},r=abc", None),
            ("n,,n=\u{AD},r=abc", None),
            ("p=tls-exporter,,n=user,r=abc", None),
            ("n,a=root,n=user,r=abc", None),
            ("n,,m=1,n=user,r=abc", None),
            ("n,,n=,r=abc", None),
            ("n,,n=a=2c,r=abc", None),
            ("n,,n=a=,r=abc", None),
            ("n,,n=user,r=", None),
            ("n,,n=user,r=a b", None),
            ("n,,n=user", None),
            ("n=user,r=abc", None),
            ("", None),
        ];
        for (message, expected) in cases {
            let first = ClientFirst::parse(message.as_bytes());
            assert_eq!(first.as_ref().map(|first| first.username.as_str()), expected, "{message}");
        }
        assert!(ClientFirst::parse(&[0xFF; 10]).is_none());
    }
}
