//! `weir init`

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use data_encoding::BASE32_NOPAD;

use super::Exit;
use super::print::print;
use crate::auth::PasswordHash;
use crate::random;

/// The user that the password file has.
const USER: &str = "admin";

/// Random bytes of the password: 160 bits.
const PASSWORD_BYTES: usize = 20;

/// Write a directory of declarations to start from: an endpoint with a password and an access list.
///
/// DIR gets an endpoint on 127.0.0.1:1883, its authentication with one user and a generated password, an access list, a
/// .gitignore for secrets, and the schema for editors. A workflow for GitHub that judges and plans each change goes to
/// .github/workflows at the top of DIR's git repository; without one, at the top of the current directory where DIR is
/// below it, otherwise into DIR.
///
/// Nothing is overwritten. Exits with 0, or with 1 where something is there already.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weir init\n  weir init /srv/mqtt/endpoints.d --no-workflow\n  \
    weir init && weir run --endpoints endpoints.d")]
pub(super) struct Args {
    /// The directory of declarations; it is created if necessary
    #[arg(value_name = "DIR", default_value = "endpoints.d")]
    directory: PathBuf,
    /// Write no .github/workflows/weir.yaml
    #[arg(long)]
    no_workflow: bool,
}

/// A file to write.
struct NewFile {
    path: PathBuf,
    text: String,
    mode: u32,
    meaning: &'static str,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let directory = args.directory;
    let shown = shown(&directory);
    let password = BASE32_NOPAD.encode(&random::bytes::<PASSWORD_BYTES>()?).to_lowercase();
    let mut files = starter(&directory, &password)?;
    if !args.no_workflow {
        files.push(workflow(&directory)?);
    }
    refuse_what_is_there(&directory, &files)?;
    for file in &files {
        write(file).with_context(|| format!("{}: cannot be written", file.path.display()))?;
    }
    let width = files.iter().map(|file| file.path.display().to_string().len()).max().unwrap_or_default();
    let mut text = String::new();
    for file in &files {
        text.push_str(&format!("wrote {:width$}  {}\n", file.path.display().to_string(), file.meaning));
    }
    text.push_str(&format!(
        "\nUser {USER}, password {password}\nThe password is shown only now. weir passwd {shown}/users.passwd {USER} sets another.\n\n\
         Next, in one terminal:\n  weir run --endpoints {shown}\n\
         in a second one:\n  export WEIR_URL=mqtt://{USER}:{password}@127.0.0.1:1883\n  weir sub -t 'hello/#' -v\n\
         in a third one:\n  export WEIR_URL=mqtt://{USER}:{password}@127.0.0.1:1883\n  weir pub -t hello/world -m 'it works'\n\
         Before you commit a change:\n  weir validate --strict {shown}\n  weir plan {shown} --against http://127.0.0.1:8080\n"
    ));
    print(&text)?;
    Ok(Exit::Success)
}

/// The directory as a shell takes it.
fn shown(directory: &Path) -> String {
    let text = directory.display().to_string();
    let text = if text.len() > 1 { text.trim_end_matches('/').to_owned() } else { text };
    let plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    let text = if text.starts_with('-') { format!("./{text}") } else { text };
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn starter(directory: &Path, password: &str) -> anyhow::Result<Vec<NewFile>> {
    let hash = PasswordHash::create(password.as_bytes())?;
    let file = |name: &str, text: String, mode: u32, meaning: &'static str| NewFile {
        path: directory.join(name),
        text,
        mode,
        meaning,
    };
    Ok(vec![
        file("mqtt.yaml", include_str!("mqtt.yaml").to_owned(), 0o666, "the endpoint"),
        file("auth.yaml", include_str!("auth.yaml").to_owned(), 0o666, "authentication of its clients"),
        file("acl.yaml", include_str!("acl.yaml").to_owned(), 0o666, "access to topics"),
        file("users.passwd", format!("{USER}:{hash}\n"), 0o600, "users and passwords (not in git)"),
        file(".gitignore", include_str!("gitignore").to_owned(), 0o666, "keeps secrets out of git"),
        file(".schema.json", weir_declare::config::SCHEMA.to_owned(), 0o666, "the schema, for editors"),
    ])
}

/// The workflow, in the root of the repository that it is for.
fn workflow(directory: &Path) -> anyhow::Result<NewFile> {
    let current = std::env::current_dir().context("the current directory")?;
    let absolute = real(&std::path::absolute(directory).with_context(|| directory.display().to_string())?);
    let repository = absolute.ancestors().find(|path| path.join(".git").exists());
    let top = match repository {
        Some(repository) => repository,
        None if absolute.starts_with(&current) => &current,
        None => &absolute,
    };
    let within = absolute.strip_prefix(top).unwrap_or(Path::new(""));
    let within = if within.as_os_str().is_empty() { ".".to_owned() } else { within.display().to_string() };
    let Some(yaml) = (!within.contains(['"', '\\', '\n', '\'', '$', '`', '*', '?', '[', ' '])).then_some(within) else {
        bail!("{}: the workflow cannot name this directory; --no-workflow leaves it out", directory.display());
    };
    let pattern = if yaml == "." { "**".to_owned() } else { format!("{yaml}/**") };
    let path = top.join(".github/workflows/weir.yaml");
    Ok(NewFile {
        path: path.strip_prefix(&current).map(Path::to_owned).unwrap_or(path),
        text: include_str!("workflow.yaml").replace("PATTERN", &pattern).replace("DIRECTORY", &yaml),
        mode: 0o666,
        meaning: "judges and plans each change, on GitHub",
    })
}

/// A path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|each| Some((each, each.canonicalize().ok()?)));
    match existing {
        Some((existing, real)) => path.strip_prefix(existing).map_or_else(|_| real.clone(), |rest| real.join(rest)),
        None => path.to_owned(),
    }
}

fn refuse_what_is_there(directory: &Path, files: &[NewFile]) -> anyhow::Result<()> {
    let mut there: Vec<String> = files
        .iter()
        .filter(|file| file.path.symlink_metadata().is_ok())
        .map(|file| file.path.display().to_string())
        .collect();
    match fs::read_dir(directory) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.with_context(|| directory.display().to_string())?.path();
                let is_document = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
                let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                if is_document && !is_hidden && !files.iter().any(|file| file.path == path) {
                    there.push(path.display().to_string());
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| directory.display().to_string()),
    }
    there.sort();
    if there.is_empty() {
        return Ok(());
    }
    let are = if there.len() == 1 { "is" } else { "are" };
    bail!("{} {are} there already, and nothing is overwritten; name another directory, or move them", there.join(", "))
}

fn write(file: &NewFile) -> io::Result<()> {
    if let Some(parent) = file.path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut new = OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&file.path)?;
    new.write_all(file.text.as_bytes())?;
    new.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_shown_as_a_shell_takes_it() {
        for (path, expected) in [
            ("endpoints.d", "endpoints.d"),
            ("a/b/", "a/b"),
            ("my files", "'my files'"),
            ("it's", "'it'\\''s'"),
            ("-x", "./-x"),
            ("/", "/"),
        ] {
            assert_eq!(shown(Path::new(path)), expected);
        }
    }
}
