//! A secret that is only ever referred to: `file:PATH` or `env:NAME`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Bytes that a secret has at least: what is shorter can be guessed over the network.
const BYTES_MIN: usize = 16;

/// Where a secret is; it is read when it is needed, and never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    File(PathBuf),
    Environment(String),
}

impl FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Environment(name.to_owned())),
            // What stands there may be the secret itself: it is not repeated.
            _ => Err("neither file:PATH nor env:NAME; a secret is referred to, never given".to_owned()),
        }
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Environment(name) => write!(f, "env:{name}"),
        }
    }
}

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{secret}: {error}")]
    Unreadable { secret: Secret, error: String },
    #[error("{secret}: {bytes} bytes are too few; at least {BYTES_MIN} (`openssl rand -hex 32`)")]
    Short { secret: Secret, bytes: usize },
}

impl Secret {
    /// What it is, without white space around it.
    ///
    /// # Errors
    /// It is not there, is no text, or is too short to be one.
    pub fn read(&self) -> Result<String, SecretError> {
        let unreadable = |error: String| SecretError::Unreadable { secret: self.clone(), error };
        let text = match self {
            Self::File(path) => std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?,
            Self::Environment(name) => std::env::var(name).map_err(|error| unreadable(error.to_string()))?,
        };
        let text = text.trim();
        if text.len() < BYTES_MIN {
            return Err(SecretError::Short { secret: self.clone(), bytes: text.len() });
        }
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_referred_to_and_never_given() {
        assert_eq!("file:/run/token".parse(), Ok(Secret::File("/run/token".into())));
        assert_eq!("env:TOKEN".parse(), Ok(Secret::Environment("TOKEN".to_owned())));
        for text in ["", "hunter2", "file:", "env:", "http://x"] {
            let error = text.parse::<Secret>().unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_read_without_white_space_and_has_a_length() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let secret = Secret::File(file.path().to_owned());
        assert!(secret.read().is_err());
        std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
        assert_eq!(secret.read().unwrap(), "0123456789abcdef");
        assert!(Secret::File("/nowhere".into()).read().is_err());
    }
}
