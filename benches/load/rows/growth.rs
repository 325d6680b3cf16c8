//! How cost grows: the same work at two sizes, or with one shard and two.

use anyhow::{Context, Result, bail};

use super::{Outcome, Settings, fanout, filters, paced, pairs};
use crate::brokers::{Kind, Spec};

/// A figure of a run.
pub fn value(outcome: &Outcome, key: &str) -> Result<f64> {
    let found = outcome.values.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    found.with_context(|| format!("a run without {key}"))
}

/// CPU per message of the second run over that of the first, and the faults of both.
fn compare(small: &Outcome, large: &Outcome) -> Result<Outcome> {
    let mut faults = small.faults;
    faults.add(large.faults);
    let (small, large) = (value(small, "cpu_us_per_msg")?, value(large, "cpu_us_per_msg")?);
    let values = vec![("cost_ratio", large / small), ("small_cpu_us_per_msg", small), ("large_cpu_us_per_msg", large)];
    Ok(Outcome { values, faults, ..Outcome::default() })
}

/// 500 and 1,000 subscribers of one topic; per delivery.
pub fn fan_out(settings: &Settings, spec: &Spec) -> Result<Outcome> {
    compare(&fanout::run(settings, spec, 500)?, &fanout::run(settings, spec, 1000)?)
}

/// 50 and 100 pairs, QoS 1.
pub fn pairs(settings: &Settings, spec: &Spec) -> Result<Outcome> {
    let load = pairs::Load::new(1, 64);
    compare(&load.run(settings, spec)?, &pairs::Load { pairs: 100, ..load }.run(settings, spec)?)
}

/// Twice the filters, all of them published to.
pub fn filters(settings: &Settings, spec: &Spec) -> Result<Outcome> {
    let count = 100_000 / settings.divisor;
    compare(&filters::publish(settings, spec, count, count)?, &filters::publish(settings, spec, 2 * count, 2 * count)?)
}

/// A thousand filters published to, alone and among a hundred thousand others.
pub fn unrelated(settings: &Settings, spec: &Spec) -> Result<Outcome> {
    let many = 100_000 / settings.divisor;
    compare(&filters::publish(settings, spec, 1000, 1000)?, &filters::publish(settings, spec, many, 1000)?)
}

/// A workload with one shard and with two.
pub fn shards(settings: &Settings, spec: &Spec, run: fn(&Settings, &Spec) -> Result<Outcome>) -> Result<Outcome> {
    let Kind::Weir { .. } = spec.kind else { bail!("{} has no shards", spec.name) };
    let with = |shards| Spec { kind: Kind::Weir { shards }, ..spec.clone() };
    compare(&run(settings, &with(1))?, &run(settings, &with(2))?)
}

/// The unbatched workload for [`shards`].
pub fn single_flight(settings: &Settings, spec: &Spec) -> Result<Outcome> {
    pairs::Load { ahead: Some(1), ..pairs::Load::new(0, 64) }.run(settings, spec)
}

/// The saturated workload for [`shards`].
pub fn saturated(settings: &Settings, spec: &Spec) -> Result<Outcome> {
    pairs::Load::new(1, 64).run(settings, spec)
}

/// The paced workload for [`shards`].
pub fn paced(settings: &Settings, spec: &Spec) -> Result<Outcome> {
    paced::run(settings, spec, paced::Load { pairs: 50, qos: 0, rate: 20_000 })
}
