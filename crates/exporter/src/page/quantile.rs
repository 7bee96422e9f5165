//! A quantile of a histogram, as Prometheus's `histogram_quantile` has it.

/// The value below which `q` (above 0, to 1) of the observations are, taken to be
/// spread evenly within their bucket
/// ([`histogram_quantile`](https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)).
///
/// `counts` are those of each bucket alone, one more than there are `bounds`
/// (inclusive, increasing): the last is that of `+Inf`, for which the highest
/// bound stands. None where there are no observations, or no bounds.
#[must_use]
pub fn quantile(q: f64, bounds: &[f64], counts: &[f64]) -> Option<f64> {
    let total: f64 = counts.iter().sum();
    let highest = *bounds.last()?;
    if total <= 0.0 {
        return None;
    }
    let rank = q * total;
    let mut below = 0.0;
    let mut start = None;
    for (&bound, &count) in bounds.iter().zip(counts) {
        if below + count >= rank {
            // The first bucket begins at 0, where that is below its bound.
            return match start {
                None if bound <= 0.0 => Some(bound),
                _ => {
                    let start = start.unwrap_or(0.0);
                    Some(start + (bound - start) * ((rank - below) / count))
                }
            };
        }
        below += count;
        start = Some(bound);
    }
    Some(highest)
}
