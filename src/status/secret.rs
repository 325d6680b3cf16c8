//! A secret that is only ever referred to: `file:PATH` or `env:NAME`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Minimum length in bytes: a shorter secret can be guessed over the network.
const BYTES_MIN: usize = 16;

/// Where a secret is; it is read when it is needed, and never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    File(PathBuf),
    Environment(String),
}

/// The text is not a reference to a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither file:PATH nor env:NAME; give a reference to the secret, not the secret")]
pub struct SecretReferenceError;

impl FromStr for Secret {
    type Err = SecretReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Environment(name.to_owned())),
            // The text may be the secret itself, so it is not repeated.
            _ => Err(SecretReferenceError),
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
    #[error("{secret}: the secret has {bytes} bytes, and needs at least {BYTES_MIN} (`openssl rand -hex 32`)")]
    Short { secret: Secret, bytes: usize },
}

impl Secret {
    /// Reads the secret, without white space around it.
    ///
    /// # Errors
    /// It does not exist, is not UTF-8, or is too short.
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
    fn only_references_to_secrets_are_accepted() {
        assert_eq!("file:/run/token".parse(), Ok(Secret::File("/run/token".into())));
        assert_eq!("env:TOKEN".parse(), Ok(Secret::Environment("TOKEN".to_owned())));
        for text in ["", "hunter2", "file:", "env:", "http://x"] {
            let error = text.parse::<Secret>().unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_read_without_white_space_and_a_short_one_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let secret = Secret::File(file.path().to_owned());
        assert!(secret.read().is_err());
        std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
        assert_eq!(secret.read().unwrap(), "0123456789abcdef");
        assert!(Secret::File("/nowhere".into()).read().is_err());
    }
}
