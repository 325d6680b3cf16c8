//! Files that declarations refer to: certificates, keys, password files. Inputs like the documents themselves.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use weir_declare::reconcile::{FileDigest, Files};

/// Bytes of one file: a password file of a million users is about 100 MiB.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Where referenced files are read; a simulation has its own.
pub trait ReadFiles: Send + 'static {
    /// The whole content.
    ///
    /// # Errors
    /// Why it cannot be read, as a phrase.
    fn read(&mut self, path: &Path) -> Result<Vec<u8>, String>;
}

/// The file system.
#[derive(Debug, Default)]
pub struct FileSystem;

impl ReadFiles for FileSystem {
    fn read(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        let say = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => "no such file".to_owned(),
            std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => e.to_string(),
        };
        let meta = std::fs::metadata(path).map_err(say)?;
        if !meta.is_file() {
            return Err("not a file".to_owned());
        }
        let mut bytes = Vec::new();
        File::open(path).map_err(say)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(say)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("larger than {FILE_BYTES_MAX} bytes"));
        }
        Ok(bytes)
    }
}

/// What was read in one pass: digest and content belong together, so that what is compared is what is loaded.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) digests: Files,
    bytes: BTreeMap<PathBuf, Result<Arc<[u8]>, Arc<str>>>,
}

impl Contents {
    /// Reads every path.
    pub(super) fn read<'a>(reader: &mut impl ReadFiles, paths: impl Iterator<Item = &'a PathBuf>) -> Self {
        let mut contents = Self::default();
        for path in paths {
            let bytes: Result<Arc<[u8]>, Arc<str>> = reader.read(path).map(Arc::from).map_err(Arc::from);
            let digest: FileDigest = match &bytes {
                Ok(bytes) => Ok(hex(&Sha256::digest(bytes))),
                Err(message) => Err(Arc::clone(message)),
            };
            contents.digests.insert(path.clone(), digest);
            contents.bytes.insert(path.clone(), bytes);
        }
        contents
    }

    /// A file's content.
    pub(super) fn get(&self, path: &Path) -> Result<Arc<[u8]>, String> {
        match self.bytes.get(path) {
            Some(Ok(bytes)) => Ok(Arc::clone(bytes)),
            Some(Err(message)) => Err(format!("{}: {message}", path.display())),
            None => Err(format!("{}: was not read", path.display())),
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> Arc<str> {
    Arc::from(HEXLOWER.encode(bytes))
}
