//! The node's configuration: composed of each module's own section, laid over
//! one another: flags over `PILLARBOX_*` environment over file over defaults.
//!
//! A key nobody knows is an error wherever it comes from. Every error names
//! the key and the source that set it. Never touches the network or the data
//! directory, and reads no environment by itself.

use crate::{chat, federation, net, push, relay, types::ServerId};
use ::config::{ConfigBuilder, File, FileFormat, builder::DefaultState};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    ffi::OsString,
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

const PREFIX: &str = "PILLARBOX_";
/// Variables with our prefix that are no keys: the token of a client, and the file itself.
const NOT_KEYS: [&str; 2] = ["PILLARBOX_TOKEN", "PILLARBOX_CONFIG"];
/// Keys whose text in the environment is split at commas.
const LISTS: [&str; 2] = ["federation.allow", "federation.deny"];

/// All that `serve` is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where everything of this node is kept.
    pub data_dir: PathBuf,
    /// The one address that serves every protocol; port 0 takes a free one.
    pub listen: SocketAddr,
    /// None: see [`Config::server_id`].
    #[serde(with = "optional")]
    pub server_id: Option<ServerId>,
    pub log_format: LogFormat,
    pub tls: net::Config,
    pub limits: net::limits::Config,
    pub federation: federation::Config,
    pub relay: relay::Config,
    pub chat: chat::Config,
    pub push: push::Config,
    pub metrics: Metrics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// The section `[metrics]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Where Prometheus text is served over plain HTTP; none: nowhere.
    #[serde(with = "optional")]
    pub listen: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "./pillarbox-data".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7443)),
            server_id: None,
            log_format: LogFormat::Text,
            tls: net::Config::default(),
            limits: net::limits::Config::default(),
            federation: federation::Config::default(),
            relay: relay::Config::default(),
            chat: chat::Config::default(),
            push: push::Config::default(),
            metrics: Metrics::default(),
        }
    }
}

/// What a [`Config`] is loaded from.
#[derive(Debug, Default)]
pub struct Sources {
    /// A named file must be there.
    pub file: Option<PathBuf>,
    /// The process's environment; what does not begin with `PILLARBOX_` is ignored.
    pub environment: Vec<(OsString, OsString)>,
    pub flags: Vec<Flag>,
}

/// A flag that was given: it sets `key` to `value`.
#[derive(Debug)]
pub struct Flag {
    /// As it was written, "--listen".
    pub name: &'static str,
    pub key: &'static str,
    pub value: String,
}

/// Why there is no configuration; the text names the key and its source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadConfig(pub String);

impl Config {
    /// Lays the sources over one another. Each setting is tried as it is laid
    /// on, so that an error is blamed on the one that brought it.
    pub fn load(sources: &Sources) -> Result<Self, BadConfig> {
        let mut layers = Layers::default();
        if let Some(path) = &sources.file {
            layers.file(path)?;
        }
        let mut environment: Vec<_> = sources.environment.iter().collect();
        environment.sort();
        for (name, value) in environment {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX) && !NOT_KEYS.contains(name)) else {
                continue;
            };
            let value = value.to_str().ok_or_else(|| BadConfig(format!("{name}: the value is not UTF-8")))?;
            let key = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
            layers.setting(&key, value, name)?;
        }
        for flag in &sources.flags {
            layers.setting(flag.key, &flag.value, flag.name)?;
        }
        layers.finish()
    }

    /// The id this node goes by, once it listens on `bound`: the configured
    /// one; else `localhost:<port>` when only this machine or every address
    /// is listened on; else that address.
    pub fn server_id(&self, bound: SocketAddr) -> ServerId {
        if let Some(id) = &self.server_id {
            return id.clone();
        }
        let address = bound.ip().to_canonical();
        let id = match address.is_loopback() || address.is_unspecified() {
            true => format!("localhost:{}", bound.port()),
            false => SocketAddr::new(address, bound.port()).to_string(),
        };
        id.parse().expect("a bound socket has an address and a port other than 0, which is the grammar of a server id")
    }

    /// Rules within and between sections. The text begins with the key to change.
    fn check(&self) -> Result<(), String> {
        if self.data_dir.as_os_str().is_empty() {
            return Err("data_dir: is empty; name a directory".into());
        }
        self.tls.check(self.listen).map_err(|error| error.to_string())?;
        self.federation.check().map_err(|error| error.to_string())?;
        self.relay.check().map_err(|error| error.to_string())?;
        self.chat.check().map_err(|error| error.to_string())?;
        self.push.check().map_err(|error| error.to_string())
    }
}

/// The layers so far.
#[derive(Default)]
struct Layers {
    builder: ConfigBuilder<DefaultState>,
    /// The source that broke a rule of [`Config::check`]; a later one may mend it.
    breaker: Option<String>,
}

impl Layers {
    fn file(&mut self, path: &Path) -> Result<(), BadConfig> {
        let source = format!("configuration file {}", path.display());
        let text = fs::read_to_string(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => BadConfig(format!(
                "{source}: there is no such file; correct --config (or PILLARBOX_CONFIG), or leave it out for the defaults"
            )),
            _ => BadConfig(format!("{source}: cannot be read: {error}")),
        })?;
        self.builder = std::mem::take(&mut self.builder).add_source(File::from_str(&text, FileFormat::Toml));
        self.lay(source)
    }

    fn setting(&mut self, key: &str, value: &str, source: &str) -> Result<(), BadConfig> {
        let source = match source.strip_prefix(PREFIX) {
            Some(_) => format!("environment variable {source} (key {key})"),
            None => format!("{source} (key {key})"),
        };
        // The builder reads a key as a path expression; ours have no more than this.
        if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.') {
            return Err(BadConfig(format!("{source}: there is no such key")));
        }
        let builder = std::mem::take(&mut self.builder);
        let builder = match LISTS.contains(&key) {
            true => builder.set_override(key, items(value)),
            false => builder.set_override(key, value),
        };
        self.builder = builder.map_err(|error| BadConfig(format!("{source}: {error}")))?;
        self.lay(source)
    }

    /// The newest layer must leave something readable.
    fn lay(&mut self, source: String) -> Result<(), BadConfig> {
        let config = self.build().map_err(|error| BadConfig(format!("{source}: {error}")))?;
        match config.check() {
            Ok(()) => self.breaker = None,
            Err(_) => self.breaker = Some(self.breaker.take().unwrap_or(source)),
        }
        Ok(())
    }

    fn build(&self) -> Result<Config, ::config::ConfigError> {
        self.builder.build_cloned()?.try_deserialize()
    }

    fn finish(self) -> Result<Config, BadConfig> {
        let config = self.build().map_err(|error| BadConfig(error.to_string()))?;
        config.check().map_err(|text| match &self.breaker {
            Some(source) => BadConfig(format!("{source}: {text}")),
            None => BadConfig(text),
        })?;
        Ok(config)
    }
}

/// "a, b" → ["a", "b"]; "" → [].
fn items(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// A value that may be absent, written "" then.
mod optional {
    use super::*;

    pub fn serialize<T: fmt::Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_str(""),
        }
    }

    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
