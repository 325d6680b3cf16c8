//! `weir bench`

mod load;
mod report;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::bail;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use weir_mqtt::{QoS, SubscriptionOptions, validate_topic_name};

use self::load::{Load, Publisher, Subscriber, publish, subscribe};
use self::report::Report;
use super::Exit;
use super::client::{ClientArgs, Target, qos};
use super::interrupt::Interrupt;
use super::print::{Format, print};
use super::progress::Progress;
use super::publish::seconds;
use crate::client::{ClientError, Connection, Event};
use crate::random;

/// Measure a broker: messages per second, and how long they take from publisher to subscriber.
///
/// Every message has a number, so what is lost or comes twice is counted exactly. The latency runs from the moment that a
/// message was due to its arrival: with --rate, from its scheduled time, so a broker that is behind shows it.
///
/// Exits with 0; with 1 where the broker cannot be reached, refuses a client or a message, or loses a message of QoS 1 or 2.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:\n  weir bench pairs                                     # 10 publishers, each with a subscriber, 10 s\n  \
    weir bench fanout --clients 1000 --rate 100          # one publisher, 1000 subscribers\n  \
    weir bench latency -q 1 --count 1000                 # one message in flight\n  \
    weir bench pairs --size 1024 --duration 60 --json >result.json\n\n\
    Publisher and subscribers share this process: on the broker's machine, they take processor time from it."
)]
pub(super) struct Args {
    /// What is measured
    #[arg(value_enum)]
    scenario: Scenario,
    /// Pairs, or subscribers of `fanout` [default: 10, for latency 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clients: Option<u32>,
    /// Bytes of a payload
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=268_000_000))]
    size: u32,
    /// QoS of messages and subscriptions
    #[arg(long, short, value_name = "QOS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Publish so many messages in all, instead of for a time
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Seconds to publish for
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    duration: Duration,
    /// Messages per second in all [default: as fast as the broker takes them]
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Subscribers connect here, for the way over two brokers, as two nodes of a cluster [default: where publishers connect]
    #[arg(long, value_name = "URL")]
    subscribe_url: Option<String>,
    /// Topics are below it
    #[arg(long, value_name = "TOPIC", default_value = "weir-bench")]
    topic: String,
    /// `json`: one object with the numbers of the text
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// Short for --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Scenario {
    /// Publishers, each with a topic and a subscriber of its own
    Pairs,
    /// One publisher, and many subscribers of its topic
    Fanout,
    /// Pairs with one message in flight each
    Latency,
}

impl Scenario {
    fn name(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::Fanout => "fanout",
            Self::Latency => "latency",
        }
    }
}

fn rate(text: &str) -> Result<f64, &'static str> {
    let rate: Option<f64> = text.parse().ok();
    rate.filter(|rate| (0.001..=1e9).contains(rate)).ok_or("a number of messages per second, as 1000")
}

/// Clients that connect at the same time.
const CONNECTING_MAX: usize = 64;
/// How often the progress is updated.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    validate_topic_name(&args.topic).map_err(|problem| anyhow::anyhow!("--topic {:?} {problem}", args.topic))?;
    let target = args.client.target()?;
    let subscribers = match &args.subscribe_url {
        Some(url) => args.client.clone().at(url).target()?,
        None => target.clone(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured = runtime.block_on(measure(&args, &target, &subscribers));
    let report = measured.map_err(|error| anyhow::anyhow!("{target}: {error:#}"))?;
    let text = match if args.json { Format::Json } else { args.format } {
        Format::Human => report.human(),
        Format::Json => format!("{:#}\n", report.json()),
    };
    print(&text)?;
    Ok(if report.is_good() { Exit::Success } else { Exit::Failure })
}

async fn measure(args: &Args, target: &Target, subscribers_target: &Target) -> anyhow::Result<Report> {
    let mut interrupt = Interrupt::new()?;
    let clients = args.clients.unwrap_or(if args.scenario == Scenario::Latency { 1 } else { 10 });
    let publishers = if args.scenario == Scenario::Fanout { 1 } else { clients };
    let run = random::number()? as u32;
    let qos = qos(args.qos);
    let topic = |n: u32| format!("{}/{run:08x}/{}", args.topic, n % publishers);
    let connected = async {
        let subscribers =
            connect(subscribers_target, run, 's', (0..clients).map(|n| Some((topic(n), qos))).collect()).await?;
        let publishers = connect(target, run, 'p', vec![None; publishers as usize]).await?;
        Ok::<_, ClientError>((subscribers, publishers))
    };
    let connecting = Progress::start(format!("connecting {} clients", clients + publishers), None);
    let (subscribing, publishing) = tokio::select! {
        connected = connected => connected?,
        () = interrupt.received() => bail!("interrupted before all clients were connected"),
    };
    drop(connecting);
    let load = Arc::new(Load::new(args.size as usize, qos, args.count.is_none().then_some(args.duration))?);
    let mut tasks = JoinSet::new();
    let mut ends = Vec::new();
    let mut arrivals = Vec::new();
    for (n, connection) in (0..publishers).zip(publishing) {
        let share = args
            .count
            .map(|count| count / u64::from(publishers) + u64::from(u64::from(n) < count % u64::from(publishers)));
        let interval = args.rate.map(|rate| Duration::from_secs_f64(f64::from(publishers) / rate));
        let (arrived, arrival) = tokio::sync::mpsc::channel(1);
        let (end, ended) = tokio::sync::watch::channel(None);
        ends.push(ended);
        arrivals.push(arrived);
        let answers = (args.scenario == Scenario::Latency).then_some(arrival);
        let publisher = Publisher { topic: topic(n), count: share, interval, answers, end };
        tasks.spawn(publish(connection, Arc::clone(&load), publisher));
    }
    for (n, connection) in (0..clients).zip(subscribing) {
        let publisher = (n % publishers) as usize;
        let arrived = (args.scenario == Scenario::Latency).then(|| arrivals[publisher].clone());
        tasks.spawn(subscribe(connection, Arc::clone(&load), Subscriber { ended: ends[publisher].clone(), arrived }));
    }
    drop((ends, arrivals));
    follow(args, &load, tasks, &mut interrupt).await?;
    Ok(Report::new(args.scenario.name(), target.to_string(), [publishers, clients], &load))
}

/// Waits for the end of all clients, and shows the progress meanwhile. A signal ends the publishing.
async fn follow(
    args: &Args,
    load: &Load,
    mut tasks: JoinSet<Result<(), ClientError>>,
    interrupt: &mut Interrupt,
) -> anyhow::Result<()> {
    let whole = args.count.unwrap_or(u64::try_from(args.duration.as_millis()).unwrap_or(u64::MAX));
    let progress = Progress::start(args.scenario.name(), Some(whole));
    let mut ticks = tokio::time::interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                None => return Ok(()),
                Some(ended) => ended??,
            },
            () = interrupt.received() => if load.stop.swap(true, Ordering::Relaxed) {
                bail!("interrupted twice: messages may be on their way");
            },
            _ = ticks.tick() => {
                let sent = load.sent.load(Ordering::Relaxed);
                let elapsed = u64::try_from(load.start.elapsed().as_millis()).unwrap_or(u64::MAX);
                progress.set(if args.count.is_some() { sent } else { elapsed });
                let received = load.received.load(Ordering::Relaxed);
                progress.say(format!("{}: {sent} sent, {received} received", args.scenario.name()));
            }
        }
    }
}

/// Connects a client for each of `subscriptions`, and waits until all are subscribed.
async fn connect(
    target: &Target,
    run: u32,
    role: char,
    subscriptions: Vec<Option<(String, QoS)>>,
) -> Result<Vec<Connection>, ClientError> {
    let room = Arc::new(Semaphore::new(CONNECTING_MAX));
    let mut tasks = JoinSet::new();
    for (n, subscription) in subscriptions.into_iter().enumerate() {
        // Short: MQTT 3.1 has client ids of 23 bytes at most.
        let target = target.with_client_id(format!("{run:08x}-{role}{n}"));
        let room = Arc::clone(&room);
        tasks.spawn(async move {
            let _permit = room.acquire_owned().await;
            let mut connection = target.open(Default::default()).await?;
            let Some((filter, qos)) = subscription else { return Ok((n, connection)) };
            connection.subscribe(&[(filter, SubscriptionOptions { qos, ..Default::default() })])?;
            loop {
                if let Event::Subscribed(_, codes) = connection.next().await? {
                    let refused = codes.into_iter().find_map(Result::err);
                    return match refused {
                        None => Ok((n, connection)),
                        Some(reason) => Err(ClientError::Unsupported(format!("subscription refused: {reason}"))),
                    };
                }
            }
        });
    }
    let mut connections = Vec::new();
    while let Some(connected) = tasks.join_next().await {
        let connected = connected.map_err(|error| ClientError::Unsupported(error.to_string()))?;
        connections.push(connected?);
    }
    connections.sort_by_key(|(n, _)| *n);
    Ok(connections.into_iter().map(|(_, connection)| connection).collect())
}
