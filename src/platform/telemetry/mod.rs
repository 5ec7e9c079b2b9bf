//! What the server says about itself: structured logs and Prometheus metrics.
//!
//! Labels are bounded: route templates, methods, statuses, codes and names from the source. Never an id,
//! an address or anything that a client chose.

pub mod metrics;
mod seldom;

pub use seldom::Seldom;

use tracing_subscriber::EnvFilter;

use super::config::{ConfigError, LogSettings};

/// Starts logging to standard error. A second call changes nothing.
///
/// # Errors
/// Where the filter or the format is not understood.
pub fn init_logs(settings: &LogSettings) -> Result<(), ConfigError> {
    let refuse = |name, reason: String| ConfigError::Rejected { name, reason };
    let filter = EnvFilter::try_new(&settings.filter).map_err(|error| refuse("log.filter", error.to_string()))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match settings.format.as_str() {
        "json" => logs.json().flatten_event(true).try_init(),
        "text" => logs.try_init(),
        other => return Err(refuse("log.format", format!("{other:?} is neither json nor text"))),
    };
    if started.is_err() {
        tracing::debug!("logging had been started before");
    }
    Ok(())
}
