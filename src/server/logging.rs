//! The log: to standard error, with a level per endpoint that can change while the broker runs, and a rate limit on
//! lines that clients cause.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
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

/// The form of the log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// A level, and levels of single modules: `info`, `weirmq::net=debug,info`. Without a level of its own, a module logs
/// errors.
#[derive(Debug, Clone)]
pub(crate) struct LogFilter(Targets);

/// Why a text is not a [`LogFilter`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LogFilterError {
    #[error("{word:?} is not a level; levels are {}, and a module has its own by MODULE=LEVEL", level_names())]
    Level { word: String },
    #[error("{text:?} is not a module; a module is written weirmq::net")]
    Module { text: String },
}

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the log cannot be started: {0}")]
pub(crate) struct LogError(#[from] tracing_subscriber::util::TryInitError);

/// The names of the levels.
const LEVELS: [(&str, LevelFilter); 7] = [
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("warning", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

/// The client library of the cluster's engine. What it reports is logged by `weirmq::cluster`: its own lines repeat that.
const ENGINE_CLIENT: &str = "async_nats";

/// Lines per second of one place in the source and one endpoint, of those that clients cause.
const LIMITED_LINES_PER_S: u32 = 10;
/// Places and endpoints that are counted; beyond, counting begins anew.
const RATE_LIMITS_MAX: usize = 4096;
/// How often suppressed lines are reported.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// What can change while the log is written: the levels of endpoints, and which lines are over the rate limit.
#[derive(Debug, Default)]
pub(crate) struct LogControl {
    levels: ArcSwap<LogLevels>,
    /// By place in the source and endpoint.
    rate_limits: Mutex<HashMap<(usize, String), LogRateLimit>>,
}

/// Endpoints with a level of their own.
#[derive(Debug, Default, PartialEq)]
struct LogLevels {
    by_endpoint: BTreeMap<String, LevelFilter>,
    /// The most verbose level among them.
    most: Option<LevelFilter>,
}

/// Lines of one place in the source about one endpoint.
#[derive(Debug)]
struct LogRateLimit {
    second: Instant,
    lines: u32,
    suppressed: u64,
    message: String,
}

/// Writes the log to standard error from now on.
///
/// # Errors
/// The process has a log already.
pub(crate) fn start(filter: &LogFilter, format: LogFormat) -> Result<Arc<LogControl>, LogError> {
    use std::io::IsTerminal;
    let control = Arc::new(LogControl::default());
    let filter = ByEndpoint { base: filter.0.clone(), control: Arc::clone(&control) };
    let log = lines::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry();
    let outcome = match format {
        LogFormat::Text => registry.with(log.with_ansi(std::io::stderr().is_terminal()).with_filter(filter)).try_init(),
        LogFormat::Json => registry.with(log.json().flatten_event(true).with_filter(filter)).try_init(),
    };
    outcome?;
    Ok(control)
}

/// Keeps the levels of endpoints as they are declared, and reports suppressed lines, until dropped.
pub(super) async fn follow_levels(log: Arc<LogControl>, control: Arc<SharedState>) {
    let mut changes = control.subscribe();
    let mut report = tokio::time::interval(REPORT_EVERY);
    loop {
        let state = control.load();
        let declared = state
            .endpoints
            .iter()
            .filter_map(|(name, endpoint)| Some((name.to_string(), filter_of(endpoint.declared.as_ref()?.log_level?))));
        log.set_levels(declared.collect());
        drop(state);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = report.tick() => log.report_suppressed(),
        }
    }
}

impl FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut default = None;
        let mut modules = Vec::new();
        for part in text.split(',').map(str::trim) {
            match part.split_once('=') {
                None => default = Some(level(part)?),
                Some((module, word)) => modules.push((module_path(module.trim())?.to_owned(), level(word.trim())?)),
            }
        }
        let default = default.unwrap_or(LevelFilter::ERROR);
        if default <= LevelFilter::INFO && !modules.iter().any(|(module, _)| module.starts_with(ENGINE_CLIENT)) {
            modules.push((ENGINE_CLIENT.to_owned(), LevelFilter::OFF));
        }
        Ok(Self(modules.into_iter().collect::<Targets>().with_default(default)))
    }
}

fn level_names() -> String {
    LEVELS.map(|(name, _)| name).join(", ")
}

fn level(word: &str) -> Result<LevelFilter, LogFilterError> {
    let known = LEVELS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    known.map(|(_, level)| *level).ok_or_else(|| LogFilterError::Level { word: word.to_owned() })
}

fn module_path(text: &str) -> Result<&str, LogFilterError> {
    let is_word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if text.split("::").all(is_word) {
        return Ok(text);
    }
    Err(LogFilterError::Module { text: text.to_owned() })
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

impl LogControl {
    fn set_levels(&self, by_endpoint: BTreeMap<String, LevelFilter>) {
        let levels = LogLevels { most: by_endpoint.values().max().copied(), by_endpoint };
        if **self.levels.load() != levels {
            self.levels.store(Arc::new(levels));
            // tracing remembers per place in the source whether its lines are enabled.
            tracing::callsite::rebuild_interest_cache();
        }
    }

    /// Counts a line; whether it is over the rate limit.
    fn is_over_limit(&self, metadata: &Metadata<'_>, fields: Fields, now: Instant) -> bool {
        if !["weirmq::net", "weirmq::auth"].iter().any(|place| metadata.target().starts_with(place)) {
            return false;
        }
        let mut rate_limits = self.rate_limits.lock().unwrap_or_else(PoisonError::into_inner);
        if rate_limits.len() >= RATE_LIMITS_MAX {
            rate_limits.clear();
        }
        // The address of the metadata stands for the line's place in the source.
        let place = std::ptr::from_ref(metadata).addr();
        let limit = rate_limits.entry((place, fields.endpoint)).or_insert_with(|| LogRateLimit {
            second: now,
            lines: 0,
            suppressed: 0,
            message: fields.message,
        });
        if now.duration_since(limit.second) >= Duration::from_secs(1) {
            (limit.second, limit.lines) = (now, 0);
        }
        limit.lines = limit.lines.saturating_add(1);
        let is_over = limit.lines > LIMITED_LINES_PER_S;
        limit.suppressed += u64::from(is_over);
        is_over
    }

    fn report_suppressed(&self) {
        let suppressed: Vec<(String, LogRateLimit)> = {
            let mut rate_limits = self.rate_limits.lock().unwrap_or_else(PoisonError::into_inner);
            let reached = rate_limits.extract_if(|_, limit| limit.suppressed > 0);
            reached.map(|((_, endpoint), limit)| (endpoint, limit)).collect()
        };
        for (endpoint, limit) in suppressed {
            tracing::info!(endpoint, lines = limit.suppressed, "log lines suppressed, all like: {}", limit.message);
        }
    }
}

/// Applies the level of the endpoint that a line names, else the filter of the process.
struct ByEndpoint {
    base: Targets,
    control: Arc<LogControl>,
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
        enabled && !self.control.is_over_limit(metadata, fields, Instant::now())
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

/// The fields of a line that decide whether it is written.
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
        fn take_text(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    fn with_log(test: impl FnOnce(&LogControl, &Written)) {
        let (written, control) = (Written::default(), Arc::new(LogControl::default()));
        let filter = ByEndpoint { base: Targets::new().with_default(LevelFilter::INFO), control: Arc::clone(&control) };
        let writer = written.clone();
        let log =
            lines::layer().with_writer(move || writer.clone()).without_time().with_ansi(false).with_filter(filter);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || test(&control, &written));
    }

    /// Whether an error, a warning, an info and a debug line are written, of weirmq::net and of another module.
    fn written_levels(filter: LogFilter) -> ([bool; 4], [bool; 4]) {
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
        let text = written.take_text();
        let has =
            |module: &str| ["error", "warn", "info", "debug"].map(|level| text.contains(&format!("{module}-{level}")));
        (has("net"), has("apply"))
    }

    #[test]
    fn a_filter_sets_levels_of_modules_and_a_bad_filter_is_refused() {
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
            // Modules that the filter does not name log errors.
            ("weirmq::net=debug", DEBUG, ERROR),
            ("hyper=debug", ERROR, ERROR),
        ] {
            assert_eq!(written_levels(text.parse().unwrap()), (net, other), "{text}");
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
            let error = text.parse::<LogFilter>().unwrap_err().to_string();
            assert!(
                error.contains("levels are off, error, warn, warning, info") || error.contains("is not a module"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_level_of_an_endpoint_changes_while_the_log_is_written() {
        let log_lines = || {
            tracing::debug!(endpoint = "a", "debug of a");
            tracing::debug!(endpoint = %"b", "debug of b");
            tracing::info!(endpoint = "b", "info of b");
            tracing::debug!("debug without endpoint");
        };
        let found = |written: &Written| {
            let text = written.take_text();
            ["debug of a", "debug of b", "info of b", "debug without endpoint"].map(|line| text.contains(line))
        };
        with_log(|control, written| {
            log_lines();
            assert_eq!(found(written), [false, false, true, false]);
            let level = |name: &str, level| (name.to_owned(), level);
            control.set_levels(BTreeMap::from([level("a", LevelFilter::DEBUG), level("b", LevelFilter::ERROR)]));
            log_lines();
            assert_eq!(found(written), [true, false, false, false]);
            control.set_levels(BTreeMap::new());
            log_lines();
            assert_eq!(found(written), [false, false, true, false]);
        });
    }

    #[test]
    fn lines_over_the_rate_limit_are_suppressed_and_counted() {
        with_log(|control, written| {
            for _ in 0..100 {
                tracing::info!(target: "weirmq::net", endpoint = "a", "a client's mistake");
                tracing::info!(target: "weirmq::apply", endpoint = "a", "a line of an operator");
            }
            let text = written.take_text();
            assert_eq!(text.matches("a line of an operator").count(), 100);
            let lines = text.matches("a client's mistake").count() as u64;
            // A slow machine may take more than a second for it.
            assert!((10..100).contains(&lines), "{lines}");
            control.report_suppressed();
            let report = written.take_text();
            assert!(report.contains(&format!("lines={}", 100 - lines)), "{report}");
            assert!(report.contains("like: a client's mistake"), "{report}");
            control.report_suppressed();
            assert_eq!(written.take_text(), "");
        });
    }
}
