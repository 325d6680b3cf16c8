//! The flags that say what documents may refer to, and remarks about references that need them.

use std::path::{Component, Path, PathBuf};

use weir_declare::config::{
    Auth, Authenticator, Bridge, Diagnostic, DocumentIdentity, Endpoint, FileRef, HeaderValue, Kind, Loaded, Origin,
    SecretRef, Severity,
};

use crate::apply::FileSystem;
use crate::references::{AllowedFiles, AllowedVariables, DIRECTORIES};

/// What documents may refer to beside what every broker allows.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct ReferenceArgs {
    /// A directory whose files documents may refer to, and symbolic links among the documents may lead to, beside the
    /// documents' own directory, /etc/weir, /run/secrets and /run/credentials; may be repeated
    #[arg(long = "allow-files", env = "WEIR_ALLOW_FILES", value_name = "DIR", value_delimiter = ',')]
    pub(super) allow_files: Vec<PathBuf>,
    /// An environment variable that documents may refer to as env:NAME, beside those that begin with WEIR_SECRET_;
    /// PREFIX* for all that begin with PREFIX; may be repeated
    #[arg(long = "allow-env", env = "WEIR_ALLOW_ENV", value_name = "NAME", value_delimiter = ',')]
    pub(super) allow_env: Vec<String>,
}

/// The directories that `WEIR_ALLOW_FILES` names, for verbs without the flag.
pub(super) fn linked_directories() -> Vec<PathBuf> {
    let text = std::env::var("WEIR_ALLOW_FILES").unwrap_or_default();
    text.split(',').filter(|each| !each.is_empty()).map(PathBuf::from).collect()
}

impl ReferenceArgs {
    /// What a broker with the documents at `paths` would read.
    pub(super) fn file_system(&self, paths: &[PathBuf]) -> FileSystem {
        FileSystem {
            files: AllowedFiles::new(&roots(paths), &self.allow_files, Vec::new()),
            variables: self.variables(),
        }
    }

    fn variables(&self) -> AllowedVariables {
        AllowedVariables::new(self.allow_env.clone(), Vec::new())
    }

    /// A remark for each reference that a broker with these flags would refuse; judged by names, without the file system.
    pub(super) fn remarks(&self, loaded: &Loaded, paths: &[PathBuf]) -> Vec<Diagnostic> {
        let mut directories = roots(paths);
        directories.extend(self.allow_files.iter().cloned());
        directories.extend(DIRECTORIES.iter().map(PathBuf::from));
        let directories = directories.iter().map(|each| normal(each)).collect();
        let mut remarks = Remarks { loaded, directories, variables: self.variables(), found: Vec::new() };
        for bridge in loaded.declared.bridges.values() {
            remarks.bridge(bridge);
        }
        for auth in loaded.declared.auths.values() {
            remarks.auth(auth);
        }
        for endpoint in loaded.declared.endpoints.values() {
            remarks.interceptors(endpoint);
            let Some(ssl) = &endpoint.ssl_config else { continue };
            let id = DocumentIdentity::new(Kind::Endpoint, endpoint.name.clone());
            let own = [("certFile", Some(&ssl.cert_file)), ("keyFile", Some(&ssl.key_file))];
            let trust = [("caFile", ssl.ca_file.as_ref()), ("crlFile", ssl.crl_file.as_ref())];
            for (field, file) in own.into_iter().chain(trust).filter_map(|(field, file)| Some((field, file?))) {
                remarks.file(&id, &endpoint.origin, &format!("/endpoint/sslConfig/{field}"), file);
            }
        }
        remarks.found
    }
}

/// The directories of the documents: files are relative to them.
fn roots(paths: &[PathBuf]) -> Vec<PathBuf> {
    let root = |path: &PathBuf| {
        if path.is_dir() { path.clone() } else { path.parent().map(Path::to_path_buf).unwrap_or_default() }
    };
    let absolute =
        |path: PathBuf| std::path::absolute(if path.as_os_str().is_empty() { Path::new(".") } else { &path });
    paths.iter().map(root).filter_map(|path| absolute(path).ok()).collect()
}

/// The path without `.` and `..`, by its text alone.
fn normal(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()).components() {
        match component {
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

/// The help where a document names what programs register.
const NONE_REGISTERED: &str = "`weir run` registers none: there the endpoint does not start";

struct Remarks<'a> {
    loaded: &'a Loaded,
    directories: Vec<PathBuf>,
    variables: AllowedVariables,
    found: Vec<Diagnostic>,
}

impl Remarks<'_> {
    fn bridge(&mut self, bridge: &Bridge) {
        let id = DocumentIdentity::new(Kind::Bridge, bridge.name.clone());
        let tls = &bridge.tls;
        for (field, file) in [("caFile", &tls.ca_file), ("certFile", &tls.cert_file), ("keyFile", &tls.key_file)] {
            if let Some(file) = file {
                self.file(&id, &bridge.origin, &format!("/bridge/tls/{field}"), file);
            }
        }
        if let Some(secret) = &bridge.password {
            self.secret(&id, &bridge.origin, "/bridge/password", secret);
        }
    }

    fn interceptors(&mut self, endpoint: &Endpoint) {
        let id = DocumentIdentity::new(Kind::Endpoint, endpoint.name.clone());
        for (at, name) in endpoint.interceptors.iter().enumerate() {
            let message = format!("the program that embeds the broker must register the interceptor `{name}`");
            self.add(&id, &format!("/endpoint/interceptors/{at}"), message, NONE_REGISTERED);
        }
    }

    fn auth(&mut self, auth: &Auth) {
        let id = DocumentIdentity::new(Kind::Auth, auth.name.clone());
        for (at, each) in auth.chain.iter().enumerate() {
            let mut file = |key: &str, file: Option<&FileRef>| {
                if let Some(file) = file {
                    self.file(&id, &auth.origin, &format!("/auth/chain/{at}/{key}"), file);
                }
            };
            match each {
                Authenticator::PasswordFile(each) => file("passwordFile", Some(&each.file)),
                Authenticator::Scram(each) => file("scram", Some(&each.file)),
                Authenticator::Jwt(each) => {
                    file("jwt/keyFile", each.key_file.as_ref());
                    file("jwt/jwksFile", each.jwks_file.as_ref());
                }
                Authenticator::Http(each) => {
                    file("http/caFile", each.ca_file.as_ref());
                    for (name, value) in &each.headers {
                        if let HeaderValue::Secret(secret) = value {
                            self.secret(&id, &auth.origin, &format!("/auth/chain/{at}/http/headers/{name}"), secret);
                        }
                    }
                }
                Authenticator::Custom(each) => {
                    let message =
                        format!("the program that embeds the broker must register the authenticator `{}`", each.name);
                    let pointer = format!("/auth/chain/{at}/custom/name");
                    self.add(&id, &pointer, message, NONE_REGISTERED);
                }
                Authenticator::ClientCertificate(_) | Authenticator::Anonymous(_) => {}
            }
        }
    }

    fn secret(&mut self, id: &DocumentIdentity, origin: &Origin, pointer: &str, secret: &SecretRef) {
        match secret {
            SecretRef::File(file) => self.file(id, origin, pointer, file),
            SecretRef::Env(name) if !self.variables.allows(name) => {
                let message = format!("a broker reads env:{name} only where it is started with --allow-env {name}");
                self.add(id, pointer, message, "variables that begin with WEIR_SECRET_ need no flag");
            }
            SecretRef::Env(_) => {}
        }
    }

    fn file(&mut self, id: &DocumentIdentity, origin: &Origin, pointer: &str, file: &FileRef) {
        let path = normal(&origin.resolve(file));
        if !self.directories.iter().any(|directory| path.starts_with(directory)) {
            let directory = path.parent().unwrap_or(&path).display();
            let message =
                format!("a broker reads {} only where it is started with --allow-files {directory}", path.display());
            self.add(id, pointer, message, "files below the documents' directory and /etc/weir need no flag");
        }
    }

    fn add(&mut self, id: &DocumentIdentity, pointer: &str, message: String, help: &str) {
        let diagnostic = self.loaded.last_good.diagnostic(id, Severity::Note, "reference", pointer, message);
        self.found.extend(diagnostic.map(|each| Diagnostic { help: Some(help.to_owned()), ..each }));
    }
}
