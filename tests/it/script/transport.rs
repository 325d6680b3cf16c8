//! What a script is played on: a broker that connections can be opened to, and the names that scripts use there.

/// What a broker did on a connection.
#[derive(Debug)]
pub enum TransportEvent {
    Bytes(Vec<u8>),
    Closed,
    /// Nothing within the time that was given.
    Nothing,
}

/// How long to wait for something to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It must happen: wait as long as a slow machine may need.
    Guard,
    /// It must not happen: wait a moment.
    Moment,
}

/// A broker that connections can be opened to.
pub trait Transport {
    /// Opens a connection to one of the runner's endpoints.
    fn open(&mut self, endpoint: &str) -> Result<usize, String>;
    /// Sends bytes. A connection that is gone takes them and drops them.
    fn send(&mut self, link: usize, bytes: &[u8]);
    /// What came next.
    fn poll(&mut self, link: usize, patience: Patience) -> TransportEvent;
    /// Ends the connection from the client's side and waits until the broker has noticed.
    fn close(&mut self, link: usize);
    /// Lets time pass.
    fn advance(&mut self, millis: u64);
    /// Waits a moment in real time; nothing where there are no races.
    fn settle(&mut self);
    /// Whether every effect of a step is there before the next one.
    fn is_synchronous(&self) -> bool;
    /// The client id to use for a script's.
    fn client_id(&mut self, id: &str) -> String;
}

/// Keeps scripts that share a broker apart: each puts its topics below its own level.
pub struct Names {
    pub(super) prefix: Option<String>,
}

impl Names {
    /// `None`: topics are as the scripts write them.
    pub fn new(prefix: Option<&str>) -> Names {
        Names { prefix: prefix.map(str::to_owned) }
    }

    /// A topic name. `$SYS` and the like stay.
    pub fn topic(&self, topic: &str) -> String {
        match &self.prefix {
            Some(prefix) if !topic.starts_with('$') => format!("{prefix}/{topic}"),
            _ => topic.to_owned(),
        }
    }

    /// A topic filter; of a shared subscription, the filter in it.
    pub fn filter(&self, filter: &str) -> String {
        let shared = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
        match shared {
            Some((group, filter)) if !filter.is_empty() => format!("$share/{group}/{}", self.topic(filter)),
            _ if filter.is_empty() => String::new(),
            _ => self.topic(filter),
        }
    }
}
