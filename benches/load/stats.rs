//! Medians and percentiles.

/// The median; of an even number, the mean of the middle two. `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The value below which `fraction` of the samples lie (nearest rank). Sorts `samples`. 0 of nothing.
pub fn percentile(samples: &mut [u64], fraction: f64) -> u64 {
    samples.sort_unstable();
    let rank = (samples.len() as f64 * fraction).ceil() as usize;
    samples.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}
