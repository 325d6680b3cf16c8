//! `weir store`

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::Exit;
use super::print::{Format, print};
use super::progress::Progress;
use crate::store::records::{self, OpenedStore};
use weir_broker::{RecordBatch, RecordKey, StoredSession, append_record};

/// The form of an export, in its first line.
const EXPORT_VERSION: u32 = 1;
/// Bytes of records per commit of an import.
const COMMIT_BYTES: usize = 4 << 20;

/// Inspect, export or import a data directory's store of durable sessions
///
/// The broker must not be running on it: a running broker shows its store in its metrics (`weir_store_...`). A commit
/// that a crash cut short is removed, as at the next start.
///
/// Exits with 0, or with 1 where the store does not exist, is in use, or is damaged.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: StoreVerb,
}

#[derive(Debug, clap::Subcommand)]
enum StoreVerb {
    /// Show its size and its records
    Inspect {
        /// The broker's --data-dir
        data_dir: PathBuf,
        /// List every session with the number of waiting messages
        #[arg(long)]
        sessions: bool,
        #[arg(long, value_enum, default_value_t = Format::Human)]
        format: Format,
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
        #[arg(long, value_enum, default_value_t = Format::Human)]
        format: Format,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExportHeader {
    weir_store: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportLine {
    /// For the reader of an export; the key has it too.
    kind: String,
    key: String,
    value: String,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    match args.verb {
        StoreVerb::Inspect { data_dir, sessions, format } => {
            is_there(&data_dir)?;
            let found = inspect(&records::open(&data_dir)?, sessions)?;
            print(&match format {
                Format::Human => found.to_text(),
                Format::Json => format!("{:#}\n", serde_json::to_value(&found)?),
            })?;
            Ok(Exit::Success)
        }
        StoreVerb::Export { data_dir } => {
            is_there(&data_dir)?;
            export(&records::open(&data_dir)?)
        }
        StoreVerb::Import { data_dir, format } => {
            std::fs::create_dir_all(&data_dir).with_context(|| data_dir.display().to_string())?;
            let count = Progress::during("importing records", || import(records::open(&data_dir)?))?;
            print(&match format {
                Format::Human => format!("{count} records\n"),
                Format::Json => format!("{:#}\n", serde_json::json!({"records": count})),
            })?;
            Ok(Exit::Success)
        }
    }
}

/// An inspection must not create a store.
fn is_there(data_dir: &std::path::Path) -> anyhow::Result<()> {
    if !records::is_store(data_dir) {
        bail!("{}: there is no store; it is made by `weir run --data-dir`", data_dir.display());
    }
    Ok(())
}

fn kind(key: RecordKey) -> &'static str {
    key.kind().map_or("unknown", |kind| kind.label())
}

/// The content of a store.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Inspected {
    files: u64,
    bytes: u64,
    live_bytes: u64,
    live_records: u64,
    /// Of a commit that a crash cut short.
    cut_off_bytes: u64,
    /// By kind.
    records: BTreeMap<&'static str, RecordCounts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sessions: Option<Vec<SessionView>>,
}

#[derive(Debug, Default, Serialize)]
struct RecordCounts {
    count: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionView {
    namespace: String,
    client_id: String,
    endpoint: String,
    waiting_messages: u64,
    /// After its connection; `None`: never.
    expiry_s: Option<u32>,
}

fn inspect(store: &OpenedStore, sessions: bool) -> anyhow::Result<Inspected> {
    let size = store.log.size();
    let mut records: BTreeMap<&str, RecordCounts> = BTreeMap::new();
    let mut owed: BTreeMap<u64, u64> = BTreeMap::new();
    for (key, value) in store.stored.records() {
        let of_kind = records.entry(kind(*key)).or_default();
        (of_kind.count, of_kind.bytes) = (of_kind.count + 1, of_kind.bytes + value.len() as u64);
        if kind(*key) == "delivery" {
            *owed.entry(key.parent().0).or_default() += 1;
        }
    }
    let stored = store.stored.records().iter().filter(|(key, _)| kind(*key) == "session");
    let read = stored.map(|(key, value)| {
        let Some(session) = StoredSession::read(value) else {
            bail!("the record {key:?} cannot be understood: it is damaged, or of a newer version");
        };
        let StoredSession { namespace, client_id, endpoint, expiry_s, .. } = session;
        Ok(SessionView {
            namespace: namespace.to_owned(),
            client_id: client_id.to_owned(),
            endpoint: endpoint.to_owned(),
            waiting_messages: owed.get(&key.parent().0).copied().unwrap_or(0),
            expiry_s: (expiry_s != u32::MAX).then_some(expiry_s),
        })
    });
    Ok(Inspected {
        files: size.files,
        bytes: size.bytes,
        live_bytes: size.live_bytes,
        live_records: size.live_records,
        cut_off_bytes: store.torn_bytes,
        records,
        sessions: Some(read.collect::<anyhow::Result<_>>()?).filter(|_| sessions),
    })
}

impl Inspected {
    fn to_text(&self) -> String {
        let mut text = format!(
            "files         {}\nbytes         {}\nlive bytes    {}\nlive records  {}\n",
            self.files, self.bytes, self.live_bytes, self.live_records
        );
        if self.cut_off_bytes > 0 {
            text.push_str(&format!("cut off       {} bytes of a commit that a crash cut short\n", self.cut_off_bytes));
        }
        for (kind, RecordCounts { count, bytes }) in &self.records {
            text.push_str(&format!("{kind:<14}{count} ({bytes} bytes)\n"));
        }
        if let Some(sessions) = &self.sessions {
            text.push('\n');
            text.extend(sessions.iter().map(SessionView::to_text));
        }
        text
    }
}

impl SessionView {
    fn to_text(&self) -> String {
        let Self { namespace, client_id, endpoint, waiting_messages, expiry_s } = self;
        let expiry = match expiry_s {
            None => "never expires".to_owned(),
            Some(seconds) => format!("expires {seconds} s after its connection"),
        };
        format!("{namespace:?} {client_id:?} of {endpoint}: {waiting_messages} messages wait, {expiry}\n")
    }
}

fn export(store: &OpenedStore) -> anyhow::Result<Exit> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    writeln!(out, "{}", serde_json::to_string(&ExportHeader { weir_store: EXPORT_VERSION })?)?;
    let progress = Progress::start("exporting records", Some(store.stored.records().len() as u64));
    for (n, (key, value)) in store.stored.records().iter().enumerate() {
        progress.set(n as u64);
        let key_bytes = STANDARD.encode(key.to_bytes());
        let line = ExportLine { kind: kind(*key).to_owned(), key: key_bytes, value: STANDARD.encode(value) };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
    out.flush()?;
    Ok(Exit::Success)
}

fn import(mut store: OpenedStore) -> anyhow::Result<usize> {
    if store.log.size().live_records > 0 {
        bail!("the store is not empty: an import would mix two brokers' sessions; give it an empty directory");
    }
    let mut lines = io::stdin().lock().lines();
    let first = lines.next().context("standard input is empty; give it what `weir store export` wrote")??;
    let header: ExportHeader = serde_json::from_str(&first).context("line 1: not an export of weir's store")?;
    if header.weir_store > EXPORT_VERSION {
        bail!("the export is of a newer weir (form {}, this one knows {EXPORT_VERSION})", header.weir_store);
    }
    let (mut bytes, mut count) = (Vec::new(), 0_usize);
    for (number, line) in lines.enumerate() {
        let at = || format!("line {}: not a record of an export", number + 2);
        let line: ExportLine = serde_json::from_str(&line?).with_context(at)?;
        let key: [u8; RecordKey::BYTES] =
            STANDARD.decode(&line.key).ok().and_then(|key| key.try_into().ok()).with_context(at)?;
        let value = STANDARD.decode(&line.value).with_context(at)?;
        append_record(&mut bytes, RecordKey::from_bytes(key), Some(&value));
        count += 1;
        if bytes.len() >= COMMIT_BYTES {
            commit(&mut store, std::mem::take(&mut bytes))?;
        }
    }
    commit(&mut store, bytes)?;
    Ok(count)
}

fn commit(store: &mut OpenedStore, bytes: Vec<u8>) -> anyhow::Result<()> {
    store.log.commit(&[RecordBatch::new(1, bytes)])?;
    Ok(())
}
