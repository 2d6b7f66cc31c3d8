//! The metrics of exchanges.
//!
//! A metric is looked up by its labels once, and its handle is kept: the lookup costs more than counting.

use std::collections::HashMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use foldhash::fast::RandomState;
use metrics::{Counter, Histogram};

/// The labels of an outcome, apart from the client: `source`, `outcome` and `reason`.
type Labels = [&'static str; 3];

/// The handles of the metrics of exchanges. Their number is that of the label sets, which policies limit.
#[derive(Default)]
pub struct ExchangeMetrics {
    /// By client. Readers do not exclude each other, and a new label set is rare.
    counters: RwLock<HashMap<String, HashMap<Labels, Counter, RandomState>, RandomState>>,
    /// By source.
    durations: RwLock<HashMap<&'static str, Histogram, RandomState>>,
}

impl ExchangeMetrics {
    /// Counts an exchange of `client` that took that long; `client` is `-` if it is not known, or if there are too many.
    pub(crate) fn count(&self, client: &str, labels: Labels, took: Duration) {
        self.counter(client, labels).increment(1);
        self.duration(labels[0]).record(took);
    }

    fn counter(&self, client: &str, labels: Labels) -> Counter {
        let known = self.counters.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = known.get(client).and_then(|counters| counters.get(&labels)) {
            return counter.clone();
        }
        drop(known);
        let [source, outcome, reason] = labels;
        let client = client.to_owned();
        let counter = metrics::counter!("writ_token_requests_total",
            "client" => client.clone(), "source" => source, "outcome" => outcome, "reason" => reason);
        let mut known = self.counters.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(client).or_default().insert(labels, counter.clone());
        counter
    }

    fn duration(&self, source: &'static str) -> Histogram {
        let known = self.durations.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(duration) = known.get(source) {
            return duration.clone();
        }
        drop(known);
        let duration = metrics::histogram!("writ_token_request_duration_seconds", "source" => source);
        self.durations.write().unwrap_or_else(PoisonError::into_inner).insert(source, duration.clone());
        duration
    }
}

impl fmt::Debug for ExchangeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeMetrics").finish_non_exhaustive()
    }
}
