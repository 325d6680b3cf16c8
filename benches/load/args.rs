//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use crate::brokers::{Kind, Spec};

/// Weir's bench: every broker in turn on loopback, messages per broker CPU second, memory, latency.
#[derive(Parser, Debug)]
#[command(name = "load", version)]
pub struct Args {
    /// Rows to run: an identifier or the beginning of several (`pairs`, `idle`); all where none is named.
    pub rows: Vec<String>,
    /// Rounds; in each, every row runs on every broker once.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Seconds of publishing in a measured stretch.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// One round of short stretches: whether all runs, not how fast.
    #[arg(long)]
    pub quick: bool,
    /// Peers to measure, of mosquitto, rumqttd, rmqttd, nginx, haproxy and nats-server; those that are installed where none is named.
    #[arg(long, value_delimiter = ',')]
    pub peers: Option<Vec<String>>,
    /// Any other broker: `name=command`, with `{port}` and, if it wants an empty directory, `{dir}` in it.
    #[arg(long = "peer", value_name = "NAME=COMMAND")]
    pub templates: Vec<String>,
    /// Installs rumqttd and rmqttd with cargo into target/peers first.
    #[arg(long)]
    pub install_peers: bool,
    /// Leaves weir out.
    #[arg(long)]
    pub no_weir: bool,
    /// The weir to measure; the one built with the bench where none is named.
    #[arg(long, value_name = "PATH")]
    pub weir: Option<PathBuf>,
    /// A second weir to measure beside it, under the name `weir-before`: what did a change bring?
    #[arg(long, value_name = "PATH")]
    pub before: Option<PathBuf>,
    /// Weir's shards.
    #[arg(long, default_value_t = 1)]
    pub shards: u16,
    /// The broker that ratios refer to.
    #[arg(long, default_value = "mosquitto")]
    pub reference: String,
    /// KiB that may be under way from a publisher to each subscriber.
    #[arg(long, default_value_t = 256)]
    pub window_kib: usize,
    /// Writes all figures of all rounds as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes the tables as Markdown, each between its markers: `<!-- bench:begin -->` and `<!-- bench:end -->`,
    /// `<!-- listeners:begin -->` and `<!-- listeners:end -->`, `<!-- cluster:begin -->` and `<!-- cluster:end -->`.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Lists the rows and ends.
    #[arg(long)]
    pub list: bool,
    /// What `cargo bench` passes to every bench.
    #[arg(long, hide = true)]
    pub bench: bool,
}

const PEERS: [&str; 6] = ["mosquitto", "rumqttd", "rmqttd", "nginx", "haproxy", "nats-server"];

impl Args {
    /// How many rounds.
    pub fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds.max(1) }
    }

    /// How long a measured stretch lasts.
    pub fn stretch(&self) -> Result<Duration> {
        let seconds = if self.quick { 0.3 } else { self.seconds };
        Duration::try_from_secs_f64(seconds).context("--seconds must be a positive number")
    }

    /// The brokers to measure, weir first.
    pub fn brokers(&self, installed: &std::path::Path) -> Result<Vec<Spec>> {
        let mut specs = Vec::new();
        if !self.no_weir {
            let built = PathBuf::from(env!("CARGO_BIN_EXE_weir"));
            specs.push(Spec::weir(self.weir.as_ref().unwrap_or(&built), self.shards));
        }
        if let Some(program) = &self.before {
            specs.push(Spec { name: "weir-before".to_owned(), ..Spec::weir(program, self.shards) });
        }
        match &self.peers {
            None => specs.extend(PEERS.iter().filter_map(|name| Spec::peer(name, installed))),
            Some(names) => {
                for name in names.iter().filter(|name| !name.is_empty()) {
                    let known = format!("--peers {name}: not installed, or none of {}", PEERS.join(", "));
                    specs.push(Spec::peer(name, installed).context(known)?);
                }
            }
        }
        for template in &self.templates {
            let (name, command) = template.split_once('=').with_context(|| format!("--peer {template}: no `=`"))?;
            let kind = Kind::Template(command.to_owned());
            specs.push(Spec { name: name.to_owned(), kind, program: PathBuf::new() });
        }
        Ok(specs)
    }

    /// Whether a row was asked for.
    pub fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|wanted| row.starts_with(wanted.as_str()))
    }
}
