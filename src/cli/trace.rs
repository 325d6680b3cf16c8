//! `weir trace`

use std::fmt::Write as _;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use super::print::{Format, print};
use super::{Exit, broker};
use crate::http_client::query_value;

/// Watch the packets of one client.
///
/// The client may be connected already or connect later; the trace does not affect it. The trace ends with --limit
/// packets, after ten minutes, or with Ctrl-C. Payloads are left out unless --payloads is given.
///
/// Exits with 0 at the end of the trace, with 1 where the broker does not answer or disconnects.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weir trace --client-id sensor-7\n  \
    weir trace --client-id sensor-7 --limit 20 --format json | jq -r 'select(.packet == \"PUBLISH\") | .topic'")]
pub(super) struct Args {
    /// The client to trace
    #[arg(long, value_name = "ID")]
    client_id: String,
    /// Only its connection to this endpoint (the same id may be in use under several mountpoints)
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// Show payloads, too: the first KiB of each
    #[arg(long)]
    payloads: bool,
    /// End after this number of packets
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// The broker's status address.
    #[arg(long, default_value = "http://127.0.0.1:8080", env = "WEIR_STATUS", value_name = "URL", value_parser = broker::status_url)]
    status: String,
    /// `json`: one object per line
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

/// Bytes of one event at most; a broker's are far smaller.
const EVENT_BYTES_MAX: usize = 1 << 20;

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut path = format!("/api/clients/trace?clientId={}&limit={}", query_value(&args.client_id), args.limit);
    if let Some(endpoint) = &args.endpoint {
        path.push_str(&format!("&name={}", query_value(endpoint)));
    }
    if args.payloads {
        path.push_str("&payloads=true");
    }
    broker::runtime()?.block_on(follow(&args, &path))
}

async fn follow(args: &Args, path: &str) -> anyhow::Result<Exit> {
    let response = broker::open(&args.status, path).await?;
    let good = response.status().is_success();
    let mut body = response.into_body();
    if !good {
        let body = Limited::new(body, EVENT_BYTES_MAX).collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
        let answer: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        bail!("{}: {}", args.status, answer["message"].as_str().unwrap_or("an error"));
    }
    let mut waiting = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the broker has gone")?;
        waiting.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = waiting.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = waiting.drain(..end + 2).collect();
            if let Some((kind, data)) = event_of(&String::from_utf8_lossy(&event)) {
                print(&shown(&kind, &data, args.format))?;
                if kind == "end" {
                    return Ok(Exit::Success);
                }
            }
        }
        if waiting.len() > EVENT_BYTES_MAX {
            bail!("{}: not weir's answer", args.status);
        }
    }
    bail!("the broker has gone")
}

/// The kind and data of one server-sent event; `None`: a comment, or a setting.
fn event_of(text: &str) -> Option<(String, Value)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    Some((field("event: ")?.to_owned(), serde_json::from_str(field("data: ")?).ok()?))
}

fn shown(kind: &str, data: &Value, format: Format) -> String {
    if format == Format::Json {
        let mut data = data.clone();
        if let Some(fields) = data.as_object_mut() {
            fields.shift_insert(0, "event".to_owned(), kind.into());
        }
        return format!("{data}\n");
    }
    let at = data["at"].as_str().unwrap_or_default();
    let mark = match (kind, data["direction"].as_str()) {
        ("packet", Some("received")) => "->",
        ("packet", _) => "<-",
        _ => "--",
    };
    let mut line = format!("{at} {mark} ");
    match kind {
        "packet" => line.push_str(data["packet"].as_str().unwrap_or_default()),
        "end" => line = format!("-- the trace ends: {}", data["why"].as_str().unwrap_or_default()),
        other => line.push_str(other),
    }
    let shown_before = ["at", "direction", "packet", "why"];
    for (name, value) in
        data.as_object().into_iter().flatten().filter(|(name, _)| !shown_before.contains(&name.as_str()))
    {
        if *value != Value::Bool(false) && !value.is_null() {
            // JSON escapes control characters in strings.
            let _infallible = write!(line, " {name}={value}");
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_shown() {
        let text = "event: packet\ndata: {\"at\":\"T\",\"direction\":\"received\",\"packet\":\"PUBLISH\",\"topic\":\"a\\u001b\",\"retain\":false}\n\n";
        let (kind, data) = event_of(text).unwrap();
        assert_eq!(shown(&kind, &data, Format::Human), "T -> PUBLISH topic=\"a\\u001b\"\n");
        assert!(shown(&kind, &data, Format::Json).starts_with("{\"event\":\"packet\",\"at\":\"T\""));
        assert_eq!(event_of(": still here\n\n"), None);
    }
}
