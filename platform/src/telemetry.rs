//! The log and the metrics of the process: formats and outputs. Callers define the lines and the metrics.

mod filter;
mod immediate;
mod line;
mod log;
mod metrics;
mod output;
pub mod process;
#[cfg(any(test, feature = "testing"))]
pub mod sink;
mod span;

pub use self::filter::{LOG_FILTER, LogFilterError, LogParts, TraceError, log_filter, trace_to};
pub use self::line::Line;
pub use self::log::{Format, Log, LogError};
pub use self::metrics::{Kind, Metric, Metrics, MetricsError};
