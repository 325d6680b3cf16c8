//! `weir passwd`

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::Exit;
use super::print::{Format, print};
use crate::auth::{PasswordFile, PasswordHash, ScramRecord, check_scram_file, saslprep};

/// MQTT's longest password, bytes.
const PASSWORD_BYTES_MAX: usize = 65_535;

/// Set or delete a user's password in a file for `passwordFile` or `scram`
///
/// The password is read from the terminal without echo, or is the first line of standard input. The file is created if
/// necessary and replaced atomically: a broker that reads it meanwhile sees the old or the new one.
///
/// Exits with 0, or with 1 where nothing was changed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weir passwd devices.passwd sensor-7\n  weir passwd --scram devices.scram sensor-7 < password.txt\n  weir passwd --delete devices.passwd sensor-7"
)]
pub(super) struct Args {
    /// The password file
    file: PathBuf,
    /// The username, as clients send it
    user: String,
    /// Delete the user
    #[arg(long, short = 'D')]
    delete: bool,
    /// Write a SCRAM-SHA-256 record, for `scram`; name and password are prepared with SASLprep
    #[arg(long, conflicts_with = "delete")]
    scram: bool,
    /// `json`: `{"file": ..., "user": ..., "outcome": "added"|"changed"|"deleted"}`
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    if args.user.is_empty()
        || args.user.contains(':')
        || args.user.starts_with('#')
        || args.user.contains(char::is_control)
    {
        bail!("a user name has no colon and no control character, and does not begin with #");
    }
    let shown = args.file.display().to_string();
    let old = read(&args.file)?;
    let scram = args.scram || args.delete && check_scram_file(old.as_bytes()).is_ok();
    let user = if scram {
        let name = saslprep(&args.user).map_err(|why| anyhow::anyhow!("the user name {:?}: {why}", args.user))?;
        User { name, prepared: true }
    } else {
        User { name: args.user.as_str().into(), prepared: false }
    };
    let known = old.lines().any(|line| user.has(line));
    if args.delete && !known {
        bail!("{shown}: no user named {:?}", args.user);
    }
    let record = match (args.delete, args.scram) {
        (true, _) => None,
        (false, scram) => {
            check(&old, scram, &shown)?;
            let password = ask_password(&args.user)?;
            let record = if scram {
                ScramRecord::create(&password).map(|record| record.to_string()).map_err(anyhow::Error::from)
            } else {
                PasswordHash::create(&password).map(|hash| hash.to_string()).map_err(anyhow::Error::from)
            };
            Some(record?)
        }
    };
    replace(&args.file, &edited(&old, &user, record.as_deref())).with_context(|| shown.clone())?;
    let done = if args.delete {
        "deleted"
    } else if known {
        "changed"
    } else {
        "added"
    };
    match args.format {
        Format::Human => eprintln!("{shown}: {done} {}", user.name),
        Format::Json => {
            print(&format!("{:#}\n", serde_json::json!({"file": shown, "user": user.name, "outcome": done})))?;
        }
    }
    Ok(Exit::Success)
}

/// The file's text; empty where there is none.
fn read(path: &Path) -> anyhow::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// A file that the broker would refuse is not made worse.
fn check(text: &str, scram: bool, shown: &str) -> anyhow::Result<()> {
    if text.lines().all(|line| line.is_empty() || line.starts_with('#')) {
        return Ok(());
    }
    let checked =
        if scram { check_scram_file(text.as_bytes()) } else { PasswordFile::parse(text.as_bytes()).map(|_| ()) };
    checked.map_err(|error| anyhow::Error::msg(error.in_file(shown)))
}

/// Whose line it is.
struct User<'a> {
    name: Cow<'a, str>,
    /// As names of SCRAM are: lines that are spelt otherwise are the same user's.
    prepared: bool,
}

impl User<'_> {
    fn has(&self, line: &str) -> bool {
        let Some((name, _)) = line.split_once(':') else { return false };
        name == self.name || self.prepared && saslprep(name).is_ok_and(|name| name == self.name)
    }
}

/// `text` with the user's line replaced, taken out, or added at the end. Other lines stay as they are.
fn edited(text: &str, user: &User<'_>, record: Option<&str>) -> String {
    let line = record.map(|record| format!("{}:{record}\n", user.name));
    let mut out = String::new();
    let mut written = false;
    for old in text.lines() {
        if !user.has(old) {
            out.push_str(old);
            out.push('\n');
        } else if !written {
            out.push_str(line.as_deref().unwrap_or_default());
            written = true;
        }
    }
    if !written {
        out.push_str(line.as_deref().unwrap_or_default());
    }
    out
}

/// Writes beside the file, then renames over it. A new file is for its owner only.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    // Through a symlink, so that the link stays.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mode = fs::metadata(&target).map_or(0o600, |meta| meta.permissions().mode() & 0o7777);
    let name = target.file_name().context("no file name")?.to_string_lossy();
    let beside = target.with_file_name(format!(".{name}.{}", std::process::id()));
    remove_leftovers(&target, &name);
    let written = write_new(&beside, text, mode).and_then(|()| fs::rename(&beside, &target));
    if let Err(error) = written {
        // The temporary file has no value; the first error is the one to report.
        let _left = fs::remove_file(&beside);
        return Err(error.into());
    }
    // The new name is to be there after a power cut too.
    let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(File::open(directory)?.sync_all()?)
}

/// Removes temporary files of processes that died while they wrote. A failure is ignored.
fn remove_leftovers(target: &Path, name: &str) {
    let entries = target.parent().and_then(|directory| fs::read_dir(directory).ok()).into_iter().flatten().flatten();
    for entry in entries {
        let file = entry.file_name();
        let suffix = file.to_str().and_then(|file| file.strip_prefix('.')?.strip_prefix(name)?.strip_prefix('.'));
        let Some(pid) = suffix.and_then(|suffix| suffix.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists() {
            let _left = fs::remove_file(entry.path());
        }
    }
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn ask_password(user: &str) -> anyhow::Result<Vec<u8>> {
    let password = if io::stdin().is_terminal() {
        let first = ask_unseen(&format!("Password for {user}: "))?;
        if first != ask_unseen("Again: ")? {
            bail!("the two are not the same; nothing was changed");
        }
        first
    } else {
        read_line(&mut io::stdin().lock())?
    };
    if password.is_empty() {
        bail!("an empty password would admit every client that knows the name; nothing was changed");
    }
    if password.len() > PASSWORD_BYTES_MAX {
        bail!("MQTT carries at most {PASSWORD_BYTES_MAX} bytes of password");
    }
    Ok(password)
}

fn read_line(input: &mut impl BufRead) -> anyhow::Result<Vec<u8>> {
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line)?;
    if line.ends_with(b"\n") {
        line.pop();
    }
    if line.ends_with(b"\r") {
        line.pop();
    }
    Ok(line)
}

/// Reads a line from the terminal, which does not show it.
fn ask_unseen(prompt: &str) -> anyhow::Result<Vec<u8>> {
    let terminal = File::open("/dev/tty").context("/dev/tty")?;
    eprint!("{prompt}");
    let shown = tcgetattr(&terminal)?;
    let mut unseen = shown.clone();
    unseen.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Flush, &unseen)?;
    let line = read_line(&mut io::BufReader::new(&terminal));
    tcsetattr(&terminal, OptionalActions::Flush, &shown)?;
    eprintln!();
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_whole_and_nothing_is_left_beside_it() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("passwords");
        fs::write(&path, "bob:1\n").unwrap();
        // Of one that died, of one that had this process's number, and of another file.
        let dead = (1..u32::MAX).rev().find(|pid| !Path::new("/proc").join(pid.to_string()).exists()).unwrap();
        for left in
            [format!(".passwords.{dead}"), format!(".passwords.{}", std::process::id()), ".passwords.old".into()]
        {
            fs::write(tmp.path().join(left), "bo").unwrap();
        }
        replace(&path, "bob:2\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "bob:2\n");
        let mut names: Vec<_> = fs::read_dir(tmp.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".passwords.old", "passwords"]);
        // A rename over a directory fails when all is written.
        let directory = tmp.path().join("directory");
        fs::create_dir(&directory).unwrap();
        assert!(replace(&directory, "bob:3\n").is_err());
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 3);
    }

    #[test]
    fn only_the_line_of_the_user_changes() {
        let text = "# people\nbob:1\nalice:2\nbobby:3";
        let cases = [
            ("alice", Some("9"), "# people\nbob:1\nalice:9\nbobby:3\n"),
            ("bob", None, "# people\nalice:2\nbobby:3\n"),
            ("carol", Some("9"), "# people\nbob:1\nalice:2\nbobby:3\ncarol:9\n"),
            ("bo", None, "# people\nbob:1\nalice:2\nbobby:3\n"),
        ];
        for (user, record, expected) in cases {
            assert_eq!(edited(text, &User { name: user.into(), prepared: false }, record), expected, "{user}");
        }
        // However it is spelt, it is one user of SCRAM.
        let accented = User { name: "jos\u{E9}".into(), prepared: true };
        assert_eq!(edited("# x\njose\u{301}:1\nann:2\n", &accented, Some("9")), "# x\njos\u{E9}:9\nann:2\n");
    }
}
