//! Files that declarations refer to: certificates, keys, password files. Inputs like the documents themselves.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::references::{AllowedFiles, AllowedVariables, OpenError, VariableError};
use weir_declare::reconcile::{FileDigest, FileDigests};

/// Bytes of one file: a password file of a million users is about 100 MiB.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Where referenced files are read; a simulation has its own.
pub trait ReadFiles: Send + 'static {
    /// The whole content.
    ///
    /// # Errors
    /// See [`FileError`].
    fn read(&mut self, path: &Path) -> Result<Vec<u8>, FileError>;

    /// The environment variables that documents may refer to.
    fn variables(&self) -> AllowedVariables {
        AllowedVariables::default()
    }
}

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error("no such file")]
    NotFound,
    #[error("permission denied")]
    PermissionDenied,
    #[error("not a file")]
    NotAFile,
    #[error("larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// Documents may not refer to it; the text says what to do.
    #[error("{0}")]
    NotAllowed(String),
    #[error("{0}")]
    Other(String),
}

impl FileError {
    /// What to do, where the text does not say so.
    pub(super) fn help(&self) -> Option<&'static str> {
        match self {
            Self::NotFound => Some("create it, readable by the user that the broker runs as"),
            Self::PermissionDenied => Some("let the user that the broker runs as read it and enter its directories"),
            Self::NotAFile => Some("name a file"),
            Self::TooLarge => Some("use a smaller file"),
            Self::NotAllowed(_) | Self::Other(_) => None,
        }
    }
}

impl From<OpenError> for FileError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Io(error) => error.into(),
            refused => Self::NotAllowed(refused.to_string()),
        }
    }
}

impl From<std::io::Error> for FileError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::NotFound,
            std::io::ErrorKind::PermissionDenied => Self::PermissionDenied,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// Why a declaration cannot be compiled with the files and variables that it refers to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CompileError {
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: FileError },
    #[error(transparent)]
    Variable(#[from] VariableError),
    /// TLS material or credentials that were read and cannot be used.
    #[error("{0}")]
    Content(String),
    /// The document names an extension that the program has not registered, or that is not built in.
    #[error("{0}")]
    Unregistered(String),
}

impl CompileError {
    pub(super) fn content(message: impl Into<String>) -> Self {
        Self::Content(message.into())
    }
}

/// The file system and the environment, as far as documents may refer to them.
#[derive(Debug, Clone)]
pub struct FileSystem {
    pub files: AllowedFiles,
    pub variables: AllowedVariables,
}

impl ReadFiles for FileSystem {
    fn read(&mut self, path: &Path) -> Result<Vec<u8>, FileError> {
        let file = self.files.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(FileError::NotAFile);
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(FileError::TooLarge);
        }
        Ok(bytes)
    }

    fn variables(&self) -> AllowedVariables {
        self.variables.clone()
    }
}

/// The files of one pass: digest and content are read together, so that the content loaded is the content compared.
#[derive(Debug, Default)]
pub(super) struct FileContents {
    pub(super) digests: FileDigests,
    bytes: BTreeMap<PathBuf, Result<Arc<[u8]>, FileError>>,
    variables: AllowedVariables,
}

impl FileContents {
    /// Reads every path.
    pub(super) fn read<'a>(reader: &mut impl ReadFiles, paths: impl Iterator<Item = &'a PathBuf>) -> Self {
        let mut contents = Self { variables: reader.variables(), ..Self::default() };
        for path in paths {
            let bytes: Result<Arc<[u8]>, FileError> = reader.read(path).map(Arc::from);
            let digest: FileDigest = match &bytes {
                Ok(bytes) => Ok(hex(&Sha256::digest(bytes))),
                Err(error) => Err(Arc::from(error.to_string())),
            };
            contents.digests.insert(path.clone(), digest);
            contents.bytes.insert(path.clone(), bytes);
        }
        contents
    }

    /// A variable of the environment.
    pub(super) fn variable(&self, name: &str) -> Result<String, CompileError> {
        Ok(self.variables.read(name)?)
    }

    /// A file's content. All files that a declaration refers to are read before it is compiled.
    pub(super) fn get(&self, path: &Path) -> Result<Arc<[u8]>, CompileError> {
        let found = self.bytes.get(path);
        debug_assert!(found.is_some(), "{} was not read", path.display());
        let unread = || FileError::Other("was not read".to_owned());
        let content = found.cloned().unwrap_or_else(|| Err(unread()));
        content.map_err(|error| CompileError::File { path: path.to_owned(), error })
    }
}

pub(super) fn hex(bytes: &[u8]) -> Arc<str> {
    Arc::from(HEXLOWER.encode(bytes))
}
