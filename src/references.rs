//! What documents may refer to: files below declared directories, and declared environment variables. The author of a
//! document must not be able to read the broker's own secrets, or another program's, by naming them.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Directories that every broker allows, where they exist: its own, and those where orchestrators put secrets.
pub const DIRECTORIES: [&str; 4] = ["/etc/weir", "/run/secrets", "/var/run/secrets", "/run/credentials"];
/// Variables that every broker allows begin so.
pub const VARIABLE_PREFIX: &str = "WEIR_SECRET_";

/// The directories below which referenced files may lie.
#[derive(Debug, Clone)]
pub struct AllowedFiles {
    directories: Vec<PathBuf>,
    /// The broker's own files and directories: never allowed.
    own: Vec<PathBuf>,
}

/// Why a referenced file is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(
        "it lies in no directory that documents may refer to ({}); move it there, or start the broker with \
         --allow-files DIR", .0.iter().map(|each| each.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Outside(Vec<PathBuf>),
    #[error("it is the broker's own, and documents must not refer to it: name another file")]
    Own,
}

impl AllowedFiles {
    /// Files below `declared` and below [`DIRECTORIES`], except for `own`. The root directory counts only where it is in
    /// `explicit`.
    pub fn new(declared: &[PathBuf], explicit: &[PathBuf], own: Vec<PathBuf>) -> Self {
        let declared = declared.iter().filter(|each| each.canonicalize().is_ok_and(|real| real != Path::new("/")));
        let always = DIRECTORIES.iter().map(PathBuf::from);
        Self { directories: declared.chain(explicit).cloned().chain(always).collect(), own }
    }

    /// Opens a file for reading, where it lies in an allowed directory after all symbolic links are followed.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&self, path: &Path) -> Result<File, OpenError> {
        // A pipe must not keep the reader waiting.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
        self.check(&real_path(&file, path)?)?;
        Ok(file)
    }

    fn check(&self, real: &Path) -> Result<(), OpenError> {
        if self.own.iter().any(|own| is_below(real, own)) {
            return Err(OpenError::Own);
        }
        if self.directories.iter().any(|directory| is_below(real, directory)) {
            return Ok(());
        }
        Err(OpenError::Outside(self.directories.iter().filter(|each| each.is_dir()).cloned().collect()))
    }
}

/// Whether `real` is `directory`, or below it; links on the way to `directory` are followed now, for they may be swapped.
pub(crate) fn is_below(real: &Path, directory: &Path) -> bool {
    directory.canonicalize().is_ok_and(|directory| real.starts_with(directory))
}

/// The path of an open file without links: what was opened, whatever its name leads to meanwhile.
pub(crate) fn real_path(file: &File, path: &Path) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd as _;
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).or_else(|_| path.canonicalize())
}

/// The environment variables that documents may refer to.
#[derive(Debug, Clone, Default)]
pub struct AllowedVariables {
    /// Names, or prefixes that end in `*`.
    declared: Vec<String>,
    /// The broker's own variables: allowed only where they are declared by their whole name.
    own: Vec<String>,
}

/// Why a variable is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    #[error("the environment has no variable {0}")]
    NotSet(String),
    #[error(
        "documents may not refer to the environment variable {0}; call it {VARIABLE_PREFIX}..., or start the broker with \
         --allow-env {0}"
    )]
    NotAllowed(String),
}

impl AllowedVariables {
    /// Variables that begin with [`VARIABLE_PREFIX`], and those of `declared`.
    pub fn new(declared: Vec<String>, own: Vec<String>) -> Self {
        Self { declared, own }
    }

    /// Whether documents may refer to `name`.
    pub fn allows(&self, name: &str) -> bool {
        if name.starts_with(VARIABLE_PREFIX) || self.declared.iter().any(|declared| declared == name) {
            return true;
        }
        let is_own = name.starts_with("WEIR_") || name.starts_with("OTEL_") || self.own.iter().any(|own| own == name);
        let prefixes = self.declared.iter().filter_map(|declared| declared.strip_suffix('*'));
        !is_own && prefixes.into_iter().any(|prefix| name.starts_with(prefix))
    }

    /// A variable's value.
    ///
    /// # Errors
    /// It is not allowed, or not set.
    pub fn read(&self, name: &str) -> Result<String, VariableError> {
        if !self.allows(name) {
            return Err(VariableError::NotAllowed(name.to_owned()));
        }
        std::env::var(name).map_err(|_| VariableError::NotSet(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_outside_of_the_directories_and_the_brokers_own_are_refused_whatever_links_lead_there() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for directory in ["in/..2024", "out", "in/data"] {
            std::fs::create_dir_all(at(directory)).unwrap();
        }
        for file in ["in/..2024/a.pem", "out/b.pem", "in/status.token", "in/data/records"] {
            std::fs::write(at(file), "x").unwrap();
        }
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, at(name)).unwrap();
        link("..2024", "in/..data");
        link("..data/a.pem", "in/a.pem");
        link("../out/b.pem", "in/b.pem");
        link("status.token", "in/token");
        link("in", "swapped");
        let allowed = AllowedFiles::new(&[at("swapped")], &[], vec![at("in/status.token"), at("in/data")]);
        let open = |name: &str| allowed.open(&at(name)).map(drop);
        assert!(open("in/a.pem").is_ok(), "the links of a mounted ConfigMap stay in it");
        assert!(matches!(open("in/b.pem"), Err(OpenError::Outside(_))));
        assert!(matches!(open("in/../out/b.pem"), Err(OpenError::Outside(_))));
        for own in ["in/token", "in/status.token", "in/data/records"] {
            assert!(matches!(open(own), Err(OpenError::Own)), "{own}");
        }
        let message = open("out/b.pem").unwrap_err().to_string();
        assert!(message.contains("--allow-files"), "{message}");
        assert!(AllowedFiles::new(&[], &[at("out")], Vec::new()).open(&at("in/b.pem")).is_ok());
        let root = AllowedFiles::new(&["/".into()], &[], Vec::new());
        assert!(root.open(&at("out/b.pem")).is_err(), "a broker that was started in / allows nothing by that");
    }

    #[test]
    fn variables_are_allowed_by_prefix_or_name_and_the_brokers_own_only_by_name() {
        let default = AllowedVariables::default();
        assert!(
            default.allows("WEIR_SECRET_CLOUD") && !default.allows("CLOUD") && !default.allows("WEIR_ETCD_PASSWORD")
        );
        let declared = ["CLOUD", "APP_*", "*"].map(str::to_owned).to_vec();
        let own = vec!["TOKEN".to_owned()];
        let all = AllowedVariables::new(declared, own);
        assert!(all.allows("CLOUD") && all.allows("APP_X") && all.allows("ANY"));
        assert!(!all.allows("TOKEN") && !all.allows("WEIR_STATUS_BEARER_TOKEN") && !all.allows("OTEL_X"));
        assert!(AllowedVariables::new(vec!["TOKEN".to_owned()], vec!["TOKEN".to_owned()]).allows("TOKEN"));
        assert!(default.read("PATH").unwrap_err().to_string().contains("--allow-env PATH"));
    }
}
