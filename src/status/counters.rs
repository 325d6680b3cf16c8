//! Counts what the status server refused, by reason.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Why a request was refused, or a connection closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The Host header named another site.
    Host,
    /// The caller has to show credentials.
    Credentials,
    /// A body was larger than the bound.
    BodySize,
    /// Bodies held as many bytes as they may, in all or of this source.
    BodyBudget,
    /// A body did not arrive in time.
    BodyTimeout,
    /// Answers that were not read held as many bytes as they may.
    AnswerBudget,
    /// Event streams were as many as they may be, in all or of this source.
    StreamLimit,
    /// Levels of topics were read, as many as may be at a time.
    TopicReads,
    /// A connection was closed for a newer one.
    ConnectionLimit,
}

impl Refused {
    pub(super) const ALL: [Self; 9] = [
        Self::Host,
        Self::Credentials,
        Self::BodySize,
        Self::BodyBudget,
        Self::BodyTimeout,
        Self::AnswerBudget,
        Self::StreamLimit,
        Self::TopicReads,
        Self::ConnectionLimit,
    ];

    /// The label of the metric.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Credentials => "credentials",
            Self::BodySize => "body_size",
            Self::BodyBudget => "body_budget",
            Self::BodyTimeout => "body_timeout",
            Self::AnswerBudget => "answer_budget",
            Self::StreamLimit => "stream_limit",
            Self::TopicReads => "topic_reads",
            Self::ConnectionLimit => "connection_limit",
        }
    }
}

/// The counts since start.
#[derive(Debug, Default)]
pub(super) struct StatusCounters([AtomicU64; Refused::ALL.len()]);

impl StatusCounters {
    pub(super) fn count(&self, why: Refused) {
        self.0[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self, why: Refused) -> u64 {
        self.0[why as usize].load(Ordering::Relaxed)
    }

    /// The family of these counts.
    pub(super) fn encode(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Requests that the status server refused and connections that it closed, by reason.";
        let mut family = out.encode_descriptor("weir_status_refused", help, None, MetricType::Counter)?;
        for why in Refused::ALL {
            let labels = [("reason", why.label())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&self.get(why), None)?;
        }
        Ok(())
    }
}
