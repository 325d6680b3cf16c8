//! `weir store`

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::Exit;
use crate::broker::{Key, RecordBatch, StoredSession, append_record};
use crate::store::records::{self, OpenedStore};

/// The form of an export, in its first line.
const EXPORT_VERSION: u32 = 1;
/// Bytes of records per commit of an import.
const COMMIT_BYTES: usize = 4 << 20;

/// Look into a data directory's store of durable sessions, back it up, bring it back
///
/// The broker must not be running on it: what a running one holds is in its metrics (`weir_store_...`). A commit that a
/// crash cut short is cut off, as the next start would.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// What it holds
    Inspect {
        /// The broker's --data-dir
        data_dir: PathBuf,
        /// List every session with what waits for it
        #[arg(long)]
        sessions: bool,
    },
    /// Write all records to standard output, one line of JSON each
    Export {
        /// The broker's --data-dir
        data_dir: PathBuf,
    },
    /// Read an export from standard input into a store that is empty
    Import {
        /// The broker's --data-dir
        data_dir: PathBuf,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Header {
    weir_store: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// For whoever reads it; the key says it too.
    kind: String,
    key: String,
    value: String,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    match args.verb {
        Verb::Inspect { data_dir, sessions } => {
            is_there(&data_dir)?;
            inspect(&records::open(&data_dir)?, sessions)
        }
        Verb::Export { data_dir } => {
            is_there(&data_dir)?;
            export(&records::open(&data_dir)?)
        }
        Verb::Import { data_dir } => {
            std::fs::create_dir_all(&data_dir).with_context(|| data_dir.display().to_string())?;
            import(records::open(&data_dir)?)
        }
    }
}

/// To look must not make one.
fn is_there(data_dir: &std::path::Path) -> anyhow::Result<()> {
    if !records::is_store(data_dir) {
        bail!("{}: there is no store; it is made by `weir run --data-dir`", data_dir.display());
    }
    Ok(())
}

fn kind(key: Key) -> &'static str {
    key.kind().map_or("unknown", |kind| kind.label())
}

fn inspect(store: &OpenedStore, sessions: bool) -> anyhow::Result<Exit> {
    let size = store.log.size();
    let mut out = io::stdout().lock();
    writeln!(out, "files         {}", size.files)?;
    writeln!(out, "bytes         {}", size.bytes)?;
    writeln!(out, "live bytes    {}", size.live_bytes)?;
    writeln!(out, "live records  {}", size.live_records)?;
    if store.torn_bytes > 0 {
        writeln!(out, "cut off       {} bytes of a commit that a crash cut short", store.torn_bytes)?;
    }
    let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut owed: BTreeMap<u64, usize> = BTreeMap::new();
    for (key, value) in store.stored.records() {
        let (count, bytes) = kinds.entry(kind(*key)).or_default();
        (*count, *bytes) = (*count + 1, *bytes + value.len());
        if kind(*key) == "delivery" {
            *owed.entry(key.owner().0).or_default() += 1;
        }
    }
    for (kind, (count, bytes)) in kinds {
        writeln!(out, "{kind:<14}{count} ({bytes} bytes)")?;
    }
    if sessions {
        writeln!(out)?;
        for (key, value) in store.stored.records().iter().filter(|(key, _)| kind(*key) == "session") {
            let Some(session) = StoredSession::read(value) else {
                bail!("the record {key:?} cannot be understood: it is damaged, or of a newer version");
            };
            let waiting = owed.get(&key.owner().0).copied().unwrap_or(0);
            let StoredSession { namespace, client_id, endpoint, .. } = session;
            let expiry = match session.expiry_s {
                u32::MAX => "never expires".to_owned(),
                seconds => format!("expires {seconds} s after its connection"),
            };
            writeln!(out, "{namespace:?} {client_id:?} of {endpoint}: {waiting} messages wait, {expiry}")?;
        }
    }
    Ok(Exit::Success)
}

fn export(store: &OpenedStore) -> anyhow::Result<Exit> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    writeln!(out, "{}", serde_json::to_string(&Header { weir_store: EXPORT_VERSION })?)?;
    for (key, value) in store.stored.records() {
        let key_bytes = STANDARD.encode(key.to_bytes());
        let line = Line { kind: kind(*key).to_owned(), key: key_bytes, value: STANDARD.encode(value) };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
    out.flush()?;
    Ok(Exit::Success)
}

fn import(mut store: OpenedStore) -> anyhow::Result<Exit> {
    if store.log.size().live_records > 0 {
        bail!("the store is not empty: an import would mix two brokers' sessions; give it an empty directory");
    }
    let mut lines = io::stdin().lock().lines();
    let first = lines.next().context("standard input is empty; give it what `weir store export` wrote")??;
    let header: Header = serde_json::from_str(&first).context("line 1: not an export of weir's store")?;
    if header.weir_store > EXPORT_VERSION {
        bail!("the export is of a newer weir (form {}, this one knows {EXPORT_VERSION})", header.weir_store);
    }
    let (mut bytes, mut count) = (Vec::new(), 0_usize);
    for (number, line) in lines.enumerate() {
        let at = || format!("line {}: not a record of an export", number + 2);
        let line: Line = serde_json::from_str(&line?).with_context(at)?;
        let key: [u8; Key::BYTES] =
            STANDARD.decode(&line.key).ok().and_then(|key| key.try_into().ok()).with_context(at)?;
        let value = STANDARD.decode(&line.value).with_context(at)?;
        append_record(&mut bytes, Key::from_bytes(key), Some(&value));
        count += 1;
        if bytes.len() >= COMMIT_BYTES {
            commit(&mut store, std::mem::take(&mut bytes))?;
        }
    }
    commit(&mut store, bytes)?;
    println!("{count} records");
    Ok(Exit::Success)
}

fn commit(store: &mut OpenedStore, bytes: Vec<u8>) -> anyhow::Result<()> {
    store.log.prepare(&[RecordBatch::new(1, bytes)]);
    Ok(store.log.write()?)
}
