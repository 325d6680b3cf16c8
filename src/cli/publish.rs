//! `weir pub`

use std::collections::HashSet;
use std::io::{self, BufRead, Read};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::mpsc;
use tokio::time::Instant;
use weir_mqtt::{QoS, validate_topic_name};

use super::Exit;
use super::client::{ClientArgs, PropertyArgs, Target, qos};
use super::interrupt::Interrupt;
use crate::client::{ClientError, Event, Outgoing, PublishExtras};

/// Publish messages to a broker.
///
/// Exits with 0 when everything is sent, and for QoS 1 and 2 acknowledged; with 1 where the broker cannot be reached or
/// refuses the client or a message, or where a signal ends the verb before everything is sent: the reason is on standard
/// error. A message of QoS 0 is not acknowledged, so a broker
/// may discard it without a word.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:\n  weir pub -t hello/world -m 'it works'\n  \
    weir pub -t state/door -m open -q 1 -r                             # retained\n  \
    weir pub --url mqtts://broker.example.com -u ann -P file:password --cafile ca.pem -t a -f picture.png\n  \
    seq 100 | weir pub -t numbers -l -q 2                              # each line is a message\n  \
    weir pub -t ask -m ping --response-topic answer/1 --correlation-data 1 --user-property from=ann"
)]
pub(super) struct Args {
    /// Topic to publish to
    #[arg(long, short, value_name = "TOPIC")]
    topic: String,
    #[command(flatten)]
    payload: PayloadArgs,
    /// QoS: 0, 1 or 2
    #[arg(long, short, value_name = "QOS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// The broker keeps the message for later subscribers
    #[arg(long, short)]
    retain: bool,
    /// Send the message so many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "lines")]
    repeat: u64,
    /// Seconds between two of them, or between two lines
    #[arg(long, value_name = "S", value_parser = seconds)]
    repeat_delay: Option<Duration>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    properties: PropertyArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// The payload, or where it is.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct PayloadArgs {
    /// The payload
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
    /// The payload is a file's content
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Each line of standard input is a message
    #[arg(long = "stdin-line", short = 'l')]
    lines: bool,
    /// The payload is standard input, up to its end
    #[arg(long = "stdin-file", short = 's')]
    stdin: bool,
    /// An empty payload; with -r it deletes the retained message
    #[arg(long = "null-message", short)]
    null: bool,
}

/// A number of seconds with fractions.
pub(super) fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds: Option<f64> = text.parse().ok();
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.filter(|duration| duration.as_secs() <= 86_400 * 366).ok_or("a number of seconds, as 0.5")
}

/// Lines that are read ahead of what is sent.
const LINES_AHEAD: usize = 16;

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    validate_topic_name(&args.topic).map_err(|problem| anyhow::anyhow!("--topic {:?} {problem}", args.topic))?;
    let extras = args.properties.extras(args.client.is_v5())?;
    let target = args.client.target()?;
    let payload = payload(&args.payload)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(publish(&args, &target, &extras, payload));
    outcome.map_err(|error| anyhow::anyhow!("{target}: {error}"))
}

/// The payload; `None`: lines follow.
fn payload(args: &PayloadArgs) -> anyhow::Result<Option<Vec<u8>>> {
    if args.lines {
        return Ok(None);
    }
    if let Some(path) = &args.file {
        return Ok(Some(std::fs::read(path).with_context(|| format!("--file {}", path.display()))?));
    }
    if args.stdin {
        let mut content = Vec::new();
        io::stdin().lock().read_to_end(&mut content).context("standard input")?;
        return Ok(Some(content));
    }
    match (&args.message, args.null) {
        (Some(text), _) => Ok(Some(text.clone().into_bytes())),
        (None, true) => Ok(Some(Vec::new())),
        (None, false) => bail!("the payload is missing: -m, -f, -l, -s or -n"),
    }
}

/// Where messages come from, one after the other.
enum Payloads {
    Repeated { payload: Vec<u8>, left: u64 },
    Lines(mpsc::Receiver<io::Result<Vec<u8>>>),
}

impl Payloads {
    /// The next payload; `None`: there is none any more.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        match self {
            Self::Repeated { left: 0, .. } => Ok(None),
            Self::Repeated { payload, left } => {
                *left -= 1;
                Ok(Some(if *left == 0 { std::mem::take(payload) } else { payload.clone() }))
            }
            Self::Lines(lines) => match lines.recv().await {
                Some(line) => {
                    line.map(Some).map_err(|error| ClientError::Unsupported(format!("standard input: {error}")))
                }
                None => Ok(None),
            },
        }
    }
}

/// Reads standard input on a thread of its own, which ends with the process.
fn read_lines() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, lines) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        for line in io::stdin().lock().split(b'\n') {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

async fn publish(
    args: &Args,
    target: &Target,
    extras: &PublishExtras,
    payload: Option<Vec<u8>>,
) -> Result<Exit, ClientError> {
    let mut interrupt = Interrupt::new()?;
    let mut connection = tokio::select! {
        opened = target.open(HashSet::new()) => opened?,
        () = interrupt.received() => return Ok(Exit::Failure),
    };
    let mut payloads = match payload {
        Some(payload) => Payloads::Repeated { payload, left: args.repeat },
        None => Payloads::Lines(read_lines()),
    };
    let (mut due, mut failed, mut has_ended) = (Instant::now(), 0_u64, false);
    loop {
        if has_ended && connection.is_idle() {
            break;
        }
        let ready = !has_ended && connection.may_publish();
        let next = async {
            tokio::time::sleep_until(due).await;
            payloads.next().await
        };
        tokio::select! {
            biased;
            () = interrupt.received() => {
                // A stream of lines has no other end.
                if !args.payload.lines || !connection.is_idle() {
                    eprintln!("error: {target}: interrupted before everything was sent");
                    failed += 1;
                }
                break;
            }
            event = connection.next() => if let Event::Published(_, Err(reason)) = event? {
                failed += 1;
                eprintln!("error: {target}: message refused: {}", super::print::printable(&reason));
            },
            payload = next, if ready => match payload? {
                None => has_ended = true,
                Some(payload) => {
                    let qos: QoS = qos(args.qos);
                    let message = Outgoing { topic: &args.topic, payload: &payload, qos, retain: args.retain, extras };
                    connection.publish(&message)?;
                    if let Some(delay) = args.repeat_delay {
                        due = Instant::now() + delay;
                    }
                }
            },
        }
    }
    connection.close().await;
    Ok(if failed > 0 { Exit::Failure } else { Exit::Success })
}
