//! etcd-client compiles its .proto files when it is built, and so asks every user for a protoc. This crate takes the place of
//! tonic-prost-build there, and copies what that generated once of exactly those files: `generated`.
//!
//! To make it anew for another version of etcd-client, prost or tonic: build without `[patch.crates-io]` and with protoc, and
//! copy the files from `OUT_DIR` of etcd-client.

use std::path::Path;
use std::{env, fs, io};

/// The version of etcd-client that the code is of.
const ETCD_CLIENT: &str = "0.21.1";
const GENERATED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/generated");

/// The part of tonic-prost-build's builder that etcd-client uses.
pub struct Builder(());

pub fn configure() -> Builder {
    Builder(())
}

impl Builder {
    /// Servers are never generated.
    #[must_use]
    pub fn build_server(self, _: bool) -> Self {
        self
    }

    /// Writes the code of etcd-client into its `OUT_DIR`. The arguments are ignored.
    ///
    /// # Errors
    /// Another crate or another version asks for it, or with servers; or a file cannot be copied.
    pub fn compile_protos<P: AsRef<Path>>(self, _: &[P], _: &[P]) -> io::Result<()> {
        let variable = |name: &str| env::var(name).map_err(io::Error::other);
        let (name, version) = (variable("CARGO_PKG_NAME")?, variable("CARGO_PKG_VERSION")?);
        if (name.as_str(), version.as_str()) != ("etcd-client", ETCD_CLIENT) {
            let why =
                format!("tools/tonic-prost-build has the code of etcd-client {ETCD_CLIENT}, not of {name} {version}");
            return Err(io::Error::other(why));
        }
        if env::var_os("CARGO_FEATURE_BUILD_SERVER").is_some() {
            return Err(io::Error::other("tools/tonic-prost-build has no code of servers"));
        }
        println!("cargo:rerun-if-changed={GENERATED}");
        let out = variable("OUT_DIR")?;
        for entry in fs::read_dir(GENERATED)? {
            let entry = entry?;
            fs::copy(entry.path(), Path::new(&out).join(entry.file_name()))?;
        }
        Ok(())
    }
}
