//! The log: to standard error, with a level for each endpoint that can change while the broker runs, and a bound on what
//! strangers can make it write.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt as lines;
use tracing_subscriber::layer::{Context, Filter, Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::state::SharedState;
use weir_declare::config::LogLevel;

/// How the log is written, to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

/// `--log-level`: a level, and others for modules: `info`, `weirmq::net=debug,info`. Errors are written unless `off` is
/// asked for.
#[derive(Debug, Clone)]
pub(super) struct LogFilter(Targets);

/// What a level is called.
const LEVELS: [(&str, LevelFilter); 7] = [
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("warning", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

/// Lines of one kind and endpoint per second, of those that strangers cause.
const STORM_LINES_PER_S: u32 = 10;
/// Kinds and endpoints that are counted; beyond, counting begins anew.
const STORMS_MAX: usize = 4096;
/// How often it is told what was left out.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What of the log can change while it is written.
#[derive(Debug, Default)]
pub(super) struct Control {
    levels: ArcSwap<Levels>,
    storms: Mutex<HashMap<(usize, String), Storm>>,
}

/// The endpoints that have a level of their own.
#[derive(Debug, Default, PartialEq)]
struct Levels {
    by_endpoint: BTreeMap<String, LevelFilter>,
    /// The most verbose of them.
    most: Option<LevelFilter>,
}

/// Lines of one kind and endpoint.
#[derive(Debug)]
struct Storm {
    second: Instant,
    lines: u32,
    left_out: u64,
    message: String,
}

/// Begins to write.
///
/// # Errors
/// A log is written already.
pub(super) fn start(filter: &LogFilter, format: LogFormat) -> anyhow::Result<Arc<Control>> {
    use std::io::IsTerminal;
    let control = Arc::new(Control::default());
    let filter = ByEndpoint { base: filter.0.clone(), control: Arc::clone(&control) };
    let log = lines::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry();
    let outcome = match format {
        LogFormat::Text => registry.with(log.with_ansi(std::io::stderr().is_terminal()).with_filter(filter)).try_init(),
        LogFormat::Json => registry.with(log.json().flatten_event(true).with_filter(filter)).try_init(),
    };
    outcome.map_err(|error| anyhow::anyhow!("the log cannot be started: {error}"))?;
    Ok(control)
}

/// Keeps the endpoints' levels as declared, and tells what was left out, until dropped.
pub(super) async fn follow(log: Arc<Control>, control: Arc<SharedState>) {
    let mut changes = control.subscribe();
    let mut tell = tokio::time::interval(TELL_EVERY);
    loop {
        let state = control.load();
        let declared = state
            .endpoints
            .iter()
            .filter_map(|(name, endpoint)| Some((name.to_string(), filter_of(endpoint.declared.as_ref()?.log_level?))));
        log.set(declared.collect());
        drop(state);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = tell.tick() => log.tell_left_out(),
        }
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut default = None;
        let mut modules = Vec::new();
        for part in text.split(',').map(str::trim) {
            match part.split_once('=') {
                None => default = Some(level(part)?),
                Some((module, word)) => modules.push((module_path(module.trim())?.to_owned(), level(word.trim())?)),
            }
        }
        Ok(Self(modules.into_iter().collect::<Targets>().with_default(default.unwrap_or(LevelFilter::ERROR))))
    }
}

fn level(word: &str) -> Result<LevelFilter, String> {
    let known = LEVELS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    known.map(|(_, level)| *level).ok_or_else(|| {
        let names = LEVELS.map(|(name, _)| name).join(", ");
        format!("{word:?} is no level; levels are {names}, and a module has its own by MODULE=LEVEL")
    })
}

fn module_path(text: &str) -> Result<&str, String> {
    let is_word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if text.split("::").all(is_word) {
        return Ok(text);
    }
    Err(format!("{text:?} is no module; a module is written weirmq::net"))
}

fn filter_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

impl Control {
    fn set(&self, by_endpoint: BTreeMap<String, LevelFilter>) {
        let levels = Levels { most: by_endpoint.values().max().copied(), by_endpoint };
        if **self.levels.load() != levels {
            self.levels.store(Arc::new(levels));
            // What a line's place was told before, it is told anew.
            tracing::callsite::rebuild_interest_cache();
        }
    }

    /// Whether one more line of this kind is too many.
    fn is_storm(&self, metadata: &Metadata<'_>, fields: Fields, now: Instant) -> bool {
        if !["weirmq::net", "weirmq::auth"].iter().any(|place| metadata.target().starts_with(place)) {
            return false;
        }
        let mut storms = self.storms.lock().unwrap_or_else(PoisonError::into_inner);
        if storms.len() >= STORMS_MAX {
            storms.clear();
        }
        // A line's place in the source is its metadata's place in memory.
        let kind = std::ptr::from_ref(metadata).addr();
        let storm = storms.entry((kind, fields.endpoint)).or_insert_with(|| Storm {
            second: now,
            lines: 0,
            left_out: 0,
            message: fields.message,
        });
        if now.duration_since(storm.second) >= Duration::from_secs(1) {
            (storm.second, storm.lines) = (now, 0);
        }
        storm.lines = storm.lines.saturating_add(1);
        let too_many = storm.lines > STORM_LINES_PER_S;
        storm.left_out += u64::from(too_many);
        too_many
    }

    fn tell_left_out(&self) {
        let left_out: Vec<(String, Storm)> = {
            let mut storms = self.storms.lock().unwrap_or_else(PoisonError::into_inner);
            let told = storms.extract_if(|_, storm| storm.left_out > 0);
            told.map(|((_, endpoint), storm)| (endpoint, storm)).collect()
        };
        for (endpoint, storm) in left_out {
            tracing::info!(endpoint, lines = storm.left_out, "more lines were left out like: {}", storm.message);
        }
    }
}

/// The base level, but for lines about endpoints that have their own.
struct ByEndpoint {
    base: Targets,
    control: Arc<Control>,
}

impl<S: Subscriber> Filter<S> for ByEndpoint {
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        self.is_verbose_for_some(metadata) || Filter::<S>::enabled(&self.base, metadata, context)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        let base = Filter::<S>::callsite_enabled(&self.base, metadata);
        if base.is_never() && !self.is_verbose_for_some(metadata) { base } else { Interest::sometimes() }
    }

    fn event_enabled(&self, event: &Event<'_>, context: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let own = self.control.levels.load().by_endpoint.get(&fields.endpoint).copied();
        let enabled = match own {
            Some(level) => *metadata.level() <= level,
            None => Filter::<S>::enabled(&self.base, metadata, context),
        };
        enabled && !self.control.is_storm(metadata, fields, Instant::now())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let base = Filter::<S>::max_level_hint(&self.base)?;
        Some(self.control.levels.load().most.map_or(base, |most| most.max(base)))
    }
}

impl ByEndpoint {
    fn is_verbose_for_some(&self, metadata: &Metadata<'_>) -> bool {
        let most = self.control.levels.load().most;
        metadata.target().starts_with("weirmq") && most.is_some_and(|most| *metadata.level() <= most)
    }
}

/// What of a line decides on it.
#[derive(Debug, Default)]
struct Fields {
    endpoint: String,
    message: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "endpoint" => self.endpoint = format!("{value:?}"),
            "message" => self.message = format!("{value:?}"),
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "endpoint" => value.clone_into(&mut self.endpoint),
            "message" => value.clone_into(&mut self.message),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    fn with_log(test: impl FnOnce(&Control, &Written)) {
        let (written, control) = (Written::default(), Arc::new(Control::default()));
        let filter = ByEndpoint { base: Targets::new().with_default(LevelFilter::INFO), control: Arc::clone(&control) };
        let writer = written.clone();
        let log =
            lines::layer().with_writer(move || writer.clone()).without_time().with_ansi(false).with_filter(filter);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || test(&control, &written));
    }

    /// Whether an error, a warning, an info and a debug line are written, of weirmq::net and of another module.
    fn heard(filter: LogFilter) -> ([bool; 4], [bool; 4]) {
        let written = Written::default();
        let writer = written.clone();
        let filter = ByEndpoint { base: filter.0, control: Arc::default() };
        let log = lines::layer().with_writer(move || writer.clone()).with_ansi(false).with_filter(filter);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            tracing::error!(target: "weirmq::net::shard", "net-error");
            tracing::warn!(target: "weirmq::net::shard", "net-warn");
            tracing::info!(target: "weirmq::net::shard", "net-info");
            tracing::debug!(target: "weirmq::net::shard", "net-debug");
            tracing::error!(target: "weirmq::apply", "apply-error");
            tracing::warn!(target: "weirmq::apply", "apply-warn");
            tracing::info!(target: "weirmq::apply", "apply-info");
            tracing::debug!(target: "weirmq::apply", "apply-debug");
        });
        let text = written.take();
        let has =
            |module: &str| ["error", "warn", "info", "debug"].map(|level| text.contains(&format!("{module}-{level}")));
        (has("net"), has("apply"))
    }

    #[test]
    fn a_filter_is_what_is_written_and_nothing_else_is_a_filter() {
        const OFF: [bool; 4] = [false; 4];
        const ERROR: [bool; 4] = [true, false, false, false];
        const WARN: [bool; 4] = [true, true, false, false];
        const INFO: [bool; 4] = [true, true, true, false];
        const DEBUG: [bool; 4] = [true; 4];
        for (text, net, other) in [
            ("off", OFF, OFF),
            ("error", ERROR, ERROR),
            ("warn", WARN, WARN),
            ("warning", WARN, WARN),
            ("Warning", WARN, WARN),
            ("info", INFO, INFO),
            ("INFO", INFO, INFO),
            ("debug", DEBUG, DEBUG),
            ("trace", DEBUG, DEBUG),
            ("weirmq::net=debug,info", DEBUG, INFO),
            ("info, weirmq::net=warning", WARN, INFO),
            ("weirmq=debug,weirmq::net=off", OFF, DEBUG),
            // What is not named has its errors all the same.
            ("weirmq::net=debug", DEBUG, ERROR),
            ("hyper=debug", ERROR, ERROR),
        ] {
            assert_eq!(heard(text.parse().unwrap()), (net, other), "{text}");
        }
        for text in [
            "",
            " ",
            ",",
            "info,",
            "loud",
            "warnings",
            "3",
            "weirmq",
            "weirmq::net",
            "weirmq::net=",
            "=info",
            "weirmq:net=info",
            "weirmq::=info",
            "a[b]=info",
            "a-b=info",
            "weirmq::net=loud",
            "info,loud",
            "debug=info=warn",
        ] {
            let error = text.parse::<LogFilter>().unwrap_err();
            assert!(
                error.contains("levels are off, error, warn, warning, info") || error.contains("no module"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_endpoints_level_changes_while_the_log_is_written() {
        let say = || {
            tracing::debug!(endpoint = "a", "quiet a");
            tracing::debug!(endpoint = %"b", "quiet b");
            tracing::info!(endpoint = "b", "loud b");
            tracing::debug!("quiet, of nobody");
        };
        let heard = |written: &Written| {
            let text = written.take();
            ["quiet a", "quiet b", "loud b", "of nobody"].map(|line| text.contains(line))
        };
        with_log(|control, written| {
            say();
            assert_eq!(heard(written), [false, false, true, false]);
            let level = |name: &str, level| (name.to_owned(), level);
            control.set(BTreeMap::from([level("a", LevelFilter::DEBUG), level("b", LevelFilter::ERROR)]));
            say();
            assert_eq!(heard(written), [true, false, false, false]);
            control.set(BTreeMap::new());
            say();
            assert_eq!(heard(written), [false, false, true, false]);
        });
    }

    #[test]
    fn a_storm_is_cut_and_told_of() {
        with_log(|control, written| {
            for _ in 0..100 {
                tracing::info!(target: "weirmq::net", endpoint = "a", "a stranger's mistake");
                tracing::info!(target: "weirmq::apply", endpoint = "a", "an operator's");
            }
            let text = written.take();
            assert_eq!(text.matches("an operator's").count(), 100);
            let lines = text.matches("a stranger's mistake").count() as u64;
            // A slow machine may take more than a second for it.
            assert!((10..100).contains(&lines), "{lines}");
            control.tell_left_out();
            let told = written.take();
            assert!(told.contains(&format!("lines={}", 100 - lines)), "{told}");
            assert!(told.contains("like: a stranger's mistake"), "{told}");
            control.tell_left_out();
            assert_eq!(written.take(), "");
        });
    }
}
