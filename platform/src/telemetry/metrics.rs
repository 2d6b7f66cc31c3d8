//! The metrics of the process in the Prometheus text format.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::process;

/// The recorder cannot be installed, for instance because one is installed already.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct MetricsError(#[from] BuildError);

/// A metric and its `# HELP` text.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The Prometheus type.
    pub kind: Kind,
    /// The name, including the unit.
    pub name: &'static str,
    /// The `# HELP` text: meaning and labels.
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Only increases.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Distribution; the values are the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// The installed recorder; clones share it.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs the recorder of this process, with the descriptions of `metrics`.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub fn install(metrics: &[Metric]) -> Result<Self, MetricsError> {
        let mut builder = PrometheusBuilder::new();
        for metric in metrics {
            if let Kind::Histogram(buckets) = metric.kind {
                builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
            }
        }
        let handle = builder.install_recorder()?;
        for metric in metrics {
            match metric.kind {
                Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
                Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
                Kind::Histogram(_) => metrics::describe_histogram!(metric.name, metric.help),
            }
        }
        Ok(Self(handle))
    }

    /// Every metric that has a value, those of the process included.
    pub fn render(&self) -> String {
        self.0.render() + &process::render()
    }

    /// Aggregates the samples of histograms. Every sample stays in memory until this, or [`render`](Self::render).
    pub fn drain_histograms(&self) {
        self.0.run_upkeep();
    }
}
