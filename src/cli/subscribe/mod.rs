//! `weir sub`

mod format;

use std::collections::HashSet;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;
use weir_mqtt::{PacketId, RetainHandling, SharedFilter, SubscriptionOptions};

use self::format::{MessageFormat, Template};
use super::Exit;
use super::client::{ClientArgs, Target, qos};
use super::interrupt::Interrupt;
use super::publish::seconds;
use crate::client::{ClientError, Event, ReceivedMessage};

/// Subscribe to topics, and print the messages that come in.
///
/// Prints a line for each message until SIGINT or SIGTERM, -C or -W. A message of QoS 1 or 2 is acknowledged once it is
/// printed. At a terminal, characters that would control it are escaped.
///
/// Exits with 0; with 1 where the broker cannot be reached, refuses the client or a subscription, or ends the connection,
/// or where -W is over before -C messages came in.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:\n  weir sub -t 'hello/#' -v\n  \
    weir sub -t 'sensor/+/temp' -q 1 --format json | jq .payload\n  \
    weir sub -t state/door -C 1 -W 5                       # one message, at most 5 s\n  \
    weir sub -t '$share/workers/jobs/#' -q 1 -c -i worker1 # a share of them; kept while this client is offline\n  \
    weir sub -t '#' -F '%I %t %l bytes'\n\n\
    -F: %t topic, %p payload, %x payload in hexadecimal, %l its length in bytes, %q QoS, %r retain (0 or 1), %d DUP,\n\
    %m packet id, %I time of arrival (RFC 3339), %U the same in seconds since 1970, %j the line of --format json;\n\
    of MQTT 5.0: %C content type, %R response topic, %D correlation data, %P user properties, %E message expiry,\n\
    %F payload format indicator, %S subscription identifiers; %% is a percent sign, \\n \\t \\\\ \\0 are as in C."
)]
pub(super) struct Args {
    /// Topic filter, with + and # and $share/GROUP/; may be repeated
    #[arg(long = "topic", short, value_name = "FILTER", required = true)]
    topics: Vec<String>,
    /// Maximum QoS of the subscriptions
    #[arg(long, short, value_name = "QOS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Exit after so many messages
    #[arg(short = 'C', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Exit after so many seconds
    #[arg(short = 'W', long, value_name = "S", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Exit once the subscriptions are granted; with -c, the broker keeps messages from then on
    #[arg(short = 'E', long)]
    exit_after_subscribe: bool,
    /// No retained messages
    #[arg(short = 'R', long = "no-retained")]
    no_retained: bool,
    /// MQTT 5.0: the retain flag as the publisher set it
    #[arg(long)]
    retain_as_published: bool,
    /// MQTT 5.0: no messages of this client id
    #[arg(long)]
    no_local: bool,
    /// Form of a line
    #[arg(long, value_enum, default_value_t = MessageFormat::Text, conflicts_with_all = ["template", "verbose"])]
    format: MessageFormat,
    /// Short for --format verbose
    #[arg(long, short, conflicts_with = "template")]
    verbose: bool,
    /// A line made of %t, %p and others, see below
    #[arg(short = 'F', long, value_name = "TEMPLATE", value_parser = Template::parse)]
    template: Option<Template>,
    /// No line feed after a message
    #[arg(short = 'N', long)]
    no_line_feed: bool,
    /// Connect again where the connection is lost, and subscribe again
    #[arg(long)]
    reconnect: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Seconds between two attempts to connect again: doubled from the first to the second.
const RECONNECT_S: (u64, u64) = (1, 30);

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    for filter in &args.topics {
        SharedFilter::parse(filter).map_err(|problem| anyhow::anyhow!("--topic {filter:?} {problem}"))?;
    }
    if !args.client.is_v5() && (args.retain_as_published || args.no_local) {
        bail!("--retain-as-published and --no-local need MQTT 5.0: -V 5");
    }
    let shares = args.topics.iter().any(|filter| filter.starts_with(weir_mqtt::SHARE_PREFIX));
    if args.no_local && shares {
        bail!("--no-local is not allowed with $share/ [MQTT-3.8.3-4]");
    }
    let target = args.client.target()?;
    let template = match (&args.template, args.verbose) {
        (Some(template), _) => template.clone(),
        (None, true) => Template::of(MessageFormat::Verbose),
        (None, false) => Template::of(args.format),
    };
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let is_terminal = io::stdout().is_terminal();
    let mut subscriber = Subscriber { args: &args, target: &target, template, deadline, received: 0, is_terminal };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(subscriber.run())
}

/// Why a connection is over.
enum Ended {
    Done(Exit),
    /// The connection failed; the set is for the next one.
    Failed(ClientError, HashSet<PacketId>),
}

struct Subscriber<'a> {
    args: &'a Args,
    target: &'a Target,
    template: Template,
    deadline: Option<Instant>,
    received: u64,
    is_terminal: bool,
}

impl Subscriber<'_> {
    async fn run(&mut self) -> anyhow::Result<Exit> {
        let target = self.target;
        let mut interrupt = Interrupt::new()?;
        let (mut unreleased, mut pause_s) = (HashSet::new(), RECONNECT_S.0);
        loop {
            let before = self.received;
            let (error, carried) = match self.connection(&mut interrupt, unreleased).await? {
                Ended::Done(exit) => return Ok(exit),
                Ended::Failed(error, carried) => (error, carried),
            };
            unreleased = carried;
            let is_final = matches!(error, ClientError::Refused(_) | ClientError::Unsupported(_));
            if !self.args.reconnect || is_final {
                bail!("{target}: {error}");
            }
            if self.received > before {
                pause_s = RECONNECT_S.0;
            }
            eprintln!("{}", super::print::printable(&format!("{target}: {error}; connecting again in {pause_s} s")));
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(pause_s)) => {}
                () = interrupt.received() => return Ok(Exit::Success),
                () = due(self.deadline) => return Ok(self.timed_out()),
            }
            pause_s = (pause_s * 2).min(RECONNECT_S.1);
        }
    }

    /// One connection, up to its end.
    async fn connection(&mut self, interrupt: &mut Interrupt, unreleased: HashSet<PacketId>) -> anyhow::Result<Ended> {
        let carried = unreleased.clone();
        let opened = tokio::select! {
            opened = self.target.open(unreleased) => opened,
            () = interrupt.received() => return Ok(Ended::Done(Exit::Success)),
            () = due(self.deadline) => return Ok(Ended::Done(self.timed_out())),
        };
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(error) => return Ok(Ended::Failed(error, carried)),
        };
        let options = self.options();
        let filters: Vec<_> = self.args.topics.iter().map(|filter| (filter.clone(), options)).collect();
        connection.subscribe(&filters)?;
        loop {
            let event = tokio::select! {
                event = connection.next() => event,
                () = interrupt.received() => {
                    connection.close().await;
                    return Ok(Ended::Done(Exit::Success));
                }
                () = due(self.deadline) => {
                    connection.close().await;
                    return Ok(Ended::Done(self.timed_out()));
                }
            };
            match event {
                Err(error) => return Ok(Ended::Failed(error, connection.into_unreleased())),
                Ok(Event::Subscribed(_, codes)) => {
                    if self.report_refusals(&codes) {
                        connection.close().await;
                        return Ok(Ended::Done(Exit::Failure));
                    }
                    if self.args.exit_after_subscribe {
                        connection.close().await;
                        return Ok(Ended::Done(Exit::Success));
                    }
                }
                Ok(Event::Message(message)) => {
                    if let Err(error) = self.print(&message) {
                        connection.close().await;
                        return Err(error);
                    }
                    connection.acknowledge(&message);
                    if self.args.count.is_some_and(|count| self.received >= count) {
                        connection.close().await;
                        return Ok(Ended::Done(Exit::Success));
                    }
                }
                Ok(Event::Published(..) | Event::Unsubscribed(_) | Event::Written) => {}
            }
        }
    }

    fn options(&self) -> SubscriptionOptions {
        SubscriptionOptions {
            qos: qos(self.args.qos),
            no_local: self.args.no_local,
            retain_as_published: self.args.retain_as_published,
            retain_handling: if self.args.no_retained { RetainHandling::Never } else { RetainHandling::Always },
        }
    }

    /// Whether a subscription was refused.
    fn report_refusals(&self, codes: &[Result<weir_mqtt::QoS, String>]) -> bool {
        let mut any = false;
        for (filter, code) in self.args.topics.iter().zip(codes) {
            if let Err(reason) = code {
                any = true;
                let line = format!("error: {}: subscription to {filter} refused: {reason}", self.target);
                eprintln!("{}", super::print::printable(&line));
            }
        }
        any
    }

    fn print(&mut self, message: &ReceivedMessage) -> anyhow::Result<()> {
        // MQTT 3.x cannot ask for no retained messages.
        if self.args.no_retained && !self.args.client.is_v5() && message.retain {
            return Ok(());
        }
        self.received += 1;
        let mut line = Vec::with_capacity(message.payload.len() + 64);
        self.template.write(message, self.is_terminal, &mut line);
        if !self.args.no_line_feed {
            line.push(b'\n');
        }
        let mut out = io::stdout().lock();
        out.write_all(&line)?;
        Ok(out.flush()?)
    }

    fn timed_out(&self) -> Exit {
        let Some(count) = self.args.count else { return Exit::Success };
        let seconds = self.args.timeout.unwrap_or_default().as_secs_f64();
        eprintln!("error: {}: {} of {count} messages within {seconds} s", self.target, self.received);
        Exit::Failure
    }
}

async fn due(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
