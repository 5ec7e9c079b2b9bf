//! Configuration: the commented defaults, then an optional file, then the environment.
//!
//! Invariant: a setting exists if and only if `config/default.toml` lists it; anything else is refused
//! by its full name, so that a typing error never silently keeps a default.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;

use config::{Environment, File, FileFormat, Value, ValueKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;

mod sections;
pub use sections::{
    CacheSettings, DatabaseSettings, HttpSettings, JobSettings, LimitSettings, LogSettings, OutboxSettings,
    RedisSettings, SecretSettings,
};

/// The prefix of every environment variable that is a setting.
const PREFIX: &str = "FRONTROW__";

/// Why a configuration was refused. The text names the setting as the operator wrote it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The name is not in `config/default.toml`.
    #[error("unknown setting {0}: see config/default.toml for every name")]
    Unknown(String),
    /// The value has the wrong type or does not parse.
    #[error("setting refused: {0}")]
    Invalid(#[from] config::ConfigError),
    /// The value parses but makes no sense.
    #[error("{name}: {reason}")]
    Rejected {
        /// The setting, as `section.key`.
        name: &'static str,
        /// What would be accepted.
        reason: String,
    },
}

/// A value that must not appear in logs. `Debug` hides it.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The value itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Wraps a value.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Whether nothing was set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// Merges `defaults` (TOML), `file` and those of `variables` that carry the prefix, into `T`.
///
/// # Errors
/// [`ConfigError::Unknown`] for a name outside the defaults, [`ConfigError::Invalid`] for a value that
/// does not fit.
pub fn load<T: DeserializeOwned>(
    defaults: &str,
    file: Option<&Path>,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let base = config::Config::builder().add_source(File::from_str(defaults, FileFormat::Toml)).build()?;
    let known = names_of(&base)?;
    let mut builder = config::Config::builder().add_source(base);
    if let Some(path) = file {
        let layer = config::Config::builder().add_source(File::from(path).format(FileFormat::Toml)).build()?;
        if let Some(name) = names_of(&layer)?.into_iter().find(|name| !known.contains(name)) {
            return Err(ConfigError::Unknown(name));
        }
        builder = builder.add_source(layer);
    }
    let ours: HashMap<String, String> = variables.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    let mut sorted: Vec<&String> = ours.keys().collect();
    sorted.sort();
    if let Some(name) = sorted.into_iter().find(|name| !known.contains(&setting_of(name))) {
        return Err(ConfigError::Unknown(name.clone()));
    }
    let environment = Environment::with_prefix("FRONTROW")
        .prefix_separator("__")
        .separator("__")
        .try_parsing(true)
        .source(Some(ours));
    Ok(builder.add_source(environment).build()?.try_deserialize()?)
}

fn setting_of(variable: &str) -> String {
    variable[PREFIX.len()..].to_lowercase().replace("__", ".")
}

fn names_of(config: &config::Config) -> Result<BTreeSet<String>, ConfigError> {
    use config::Source;
    let mut names = BTreeSet::new();
    let top: BTreeMap<String, Value> = config.collect()?.into_iter().collect();
    for (section, value) in top {
        match value.kind {
            ValueKind::Table(keys) => names.extend(keys.keys().map(|key| format!("{section}.{key}"))),
            _ => {
                names.insert(section);
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: &str = "[http]\naddr = \"a\"\nlimit = 3\n";

    #[derive(Debug, Deserialize)]
    struct Sample {
        http: Http,
    }
    #[derive(Debug, Deserialize)]
    struct Http {
        addr: String,
        limit: u32,
    }

    fn with(name: &str, value: &str) -> Result<Sample, ConfigError> {
        load(DEFAULTS, None, [(name.to_owned(), value.to_owned())].into_iter())
    }

    #[test]
    fn the_environment_overrides_the_defaults() {
        let sample = with("FRONTROW__HTTP__LIMIT", "9").unwrap();
        assert_eq!((sample.http.addr.as_str(), sample.http.limit), ("a", 9));
    }

    #[test]
    fn digits_are_fine_where_text_is_wanted() {
        assert_eq!(with("FRONTROW__HTTP__ADDR", "12345").unwrap().http.addr, "12345");
    }

    #[test]
    fn an_unknown_name_is_refused_by_name() {
        let error = with("FRONTROW__HTTP__LIMMIT", "9").unwrap_err().to_string();
        assert!(error.contains("FRONTROW__HTTP__LIMMIT"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_by_name() {
        let error = with("FRONTROW__HTTP__LIMIT", "many").unwrap_err().to_string();
        assert!(error.contains("limit"), "{error}");
    }

    #[test]
    fn variables_of_others_are_ignored() {
        assert!(with("FRONTROW_OTHER", "x").is_ok());
    }

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new("abc")), "<hidden>");
    }
}
