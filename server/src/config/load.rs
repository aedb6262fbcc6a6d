//! Reading the layers, the weakest first, and remembering where each value came from.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, ConfigError, Origin, SETTINGS, Setting};

/// What all environment variables of settings begin with.
const ENV_PREFIX: &str = "FLOTILLA_";
/// Variables of the tests and benches begin or end like this; they are never settings.
const ENV_FOREIGN: [&str; 3] = ["FLOTILLA_TEST_", "FLOTILLA_BENCH_", "FLOTILLA_SIM_"];
const ENV_SEEDS: [&str; 2] = ["SEED", "SEEDS"];

/// The environment variable of a setting.
pub fn env_name(key: &str) -> String {
    format!(
        "{ENV_PREFIX}{}",
        key.replace(['.', '-'], "_").to_uppercase()
    )
}

/// What a configuration is made of.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// Environment variables; only those with our prefix count.
    pub env: Vec<(String, String)>,
    /// (flag as typed, setting, value), in the order of the command line.
    pub flags: Vec<(String, String, String)>,
}

/// A valid configuration, and where its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    origins: BTreeMap<&'static str, Origin>,
}

impl Layers {
    /// Puts the layers together and checks the result.
    ///
    /// # Errors
    /// The first setting that is unknown, badly written or at odds with another one.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let mut loaded = Loaded {
            config: Config::default(),
            origins: BTreeMap::new(),
        };
        if let Some(path) = &self.file {
            for (key, value, line) in read_file(path)? {
                loaded.set(
                    &key,
                    &value,
                    Origin::File {
                        path: path.clone(),
                        line,
                    },
                )?;
            }
        }
        for (name, value) in &self.env {
            if is_setting(name) {
                let setting = SETTINGS
                    .iter()
                    .find(|setting| env_name(setting.key) == *name);
                let key = setting.map_or(name.as_str(), |setting| setting.key);
                loaded.set(key, value, Origin::Env(name.clone()))?;
            }
        }
        for (flag, key, value) in &self.flags {
            loaded.set(key, value, Origin::Flag(flag.clone()))?;
        }
        loaded.check_rules()?;
        Ok(loaded)
    }
}

impl Loaded {
    /// Defaults and nothing else, changed by `change`: for tests and embedding.
    ///
    /// # Errors
    /// As [`Layers::load`].
    pub fn from_defaults(change: impl FnOnce(&mut Config)) -> Result<Self, ConfigError> {
        let mut loaded = Self {
            config: Config::default(),
            origins: BTreeMap::new(),
        };
        change(&mut loaded.config);
        loaded.check_rules()?;
        Ok(loaded)
    }

    /// Where the value of `key` was set.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    fn set(&mut self, key: &str, value: &str, origin: Origin) -> Result<(), ConfigError> {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            return Err(ConfigError::Unknown {
                origin,
                key: key.to_owned(),
                nearest: nearest(key),
            });
        };
        // A stronger layer may override; one layer must not contradict itself.
        match self.origins.get(setting.key) {
            Some(first) if std::mem::discriminant(first) == std::mem::discriminant(&origin) => {
                return Err(ConfigError::Twice {
                    origin,
                    key: setting.key,
                    first: first.clone(),
                });
            }
            _ => {}
        }
        (setting.set)(&mut self.config, value).map_err(|problem| ConfigError::Bad {
            origin: origin.clone(),
            key: setting.key,
            value: value.to_owned(),
            problem,
        })?;
        self.origins.insert(setting.key, origin);
        Ok(())
    }

    /// The configuration as a file that gives it again; `explain` adds meaning and origin.
    pub fn to_toml(&self, explain: bool) -> String {
        let mut text = String::new();
        let mut table = "";
        for setting in SETTINGS {
            let (section, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
            if section != table {
                table = section;
                let _ = write!(text, "\n[{table}]\n");
            }
            if explain {
                let _ = write!(
                    text,
                    "# {}\n# Set by {}.\n",
                    setting.about,
                    self.origin(setting.key)
                );
            }
            match (setting.show)(&self.config) {
                None => {
                    let _ = writeln!(text, "# {name} =");
                }
                Some(value) if setting.bare => {
                    let _ = writeln!(text, "{name} = {value}");
                }
                Some(value) => {
                    let _ = writeln!(text, "{name} = {}", toml::Value::String(value));
                }
            }
        }
        text
    }

    /// The value of a setting as it is printed.
    pub(super) fn shown(&self, key: &str) -> String {
        let setting = SETTINGS.iter().find(|setting| setting.key == key);
        setting
            .and_then(|setting| (setting.show)(&self.config))
            .unwrap_or_else(|| "(not set)".to_owned())
    }
}

fn is_setting(variable: &str) -> bool {
    let foreign = ENV_FOREIGN
        .iter()
        .any(|prefix| variable.starts_with(prefix))
        || ENV_SEEDS.iter().any(|suffix| variable.ends_with(suffix));
    variable.starts_with(ENV_PREFIX) && !foreign
}

/// The settings of a file: name, value, line.
fn read_file(path: &Path) -> Result<Vec<(String, String, usize)>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let line_of = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let root = DeTable::parse(&text).map_err(|error| ConfigError::NotToml {
        path: path.to_owned(),
        line: line_of(error.span().map_or(0, |span| span.start)),
        problem: error.message().to_owned(),
    })?;
    let mut found = Vec::new();
    flatten("", root.get_ref(), &mut |key, value| {
        found.push((key, plain_text(&text, value), line_of(value.span().start)));
    });
    // In the order of the file, so that the first mistake is the one that is named.
    found.sort_by_key(|(_, _, line)| *line);
    Ok(found)
}

fn flatten<'i>(
    prefix: &str,
    table: &DeTable<'i>,
    found: &mut dyn FnMut(String, &Spanned<DeValue<'i>>),
) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        match value.get_ref() {
            DeValue::Table(inner) => flatten(&key, inner, found),
            _ => found(key, value),
        }
    }
}

/// What stands in the file, strings without their quotes: a setting's kind says what it means.
fn plain_text(text: &str, value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::String(string) => string.to_string(),
        _ => text[value.span()].to_owned(),
    }
}

/// A setting whose name is close enough to be what was meant: a typing error, or the table forgotten.
fn nearest(key: &str) -> Option<&'static str> {
    let name = |key: &str| {
        key.trim_start_matches(ENV_PREFIX)
            .to_lowercase()
            .replace('-', "_")
    };
    let wanted = name(key);
    let cost = |known: &str| {
        let known = name(known);
        let inside_table = known
            .split_once('.')
            .map_or(usize::MAX, |(_, last)| distance(&wanted, last));
        distance(&wanted, &known)
            .min(distance(&wanted, &known.replace('.', "_")))
            .min(inside_table)
    };
    let best = SETTINGS
        .iter()
        .map(|Setting { key, .. }| (cost(key), *key))
        .min_by_key(|(cost, _)| *cost);
    best.filter(|(cost, _)| *cost <= (wanted.len() / 3).min(3))
        .map(|(_, key)| key)
}

/// Insertions, deletions and replacements that lead from one text to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ByteSize, LogFormat};
    use std::time::Duration;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("written");
        file
    }

    fn layers(
        text: &str,
        env: &[(&str, &str)],
        flags: &[(&str, &str)],
    ) -> (Layers, tempfile::NamedTempFile) {
        let file = file(text);
        let layers = Layers {
            file: Some(file.path().to_owned()),
            env: env
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            flags: flags
                .iter()
                .map(|(key, value)| (format!("--{key}"), key.to_string(), value.to_string()))
                .collect(),
        };
        (layers, file)
    }

    #[test]
    fn a_stronger_layer_wins_and_the_origin_is_remembered() {
        let (layers, file) = layers(
            "addr = \"127.0.0.1:1\"\nstatus-addr = \"127.0.0.1:9\"\n[raft]\ntick = \"50ms\"\n[log]\nformat = \"json\"\n",
            &[
                ("FLOTILLA_ADDR", "127.0.0.1:2"),
                ("FLOTILLA_RAFT_TICK", "60ms"),
                ("HOME", "x"),
                ("FLOTILLA_SEED", "1"),
                ("FLOTILLA_TEST_X", "1"),
            ],
            &[("addr", "127.0.0.1:3")],
        );
        let loaded = layers.load().expect("valid");
        assert_eq!(loaded.config.addr.port, 3);
        assert_eq!(loaded.config.tick, Duration::from_millis(60));
        assert_eq!(loaded.config.log_format, LogFormat::Json);
        assert_eq!(loaded.config.replay_max, ByteSize::mib(64));
        assert_eq!(loaded.origin("addr"), Origin::Flag("--addr".to_owned()));
        assert_eq!(
            loaded.origin("raft.tick"),
            Origin::Env("FLOTILLA_RAFT_TICK".to_owned())
        );
        assert_eq!(
            loaded.origin("log.format"),
            Origin::File {
                path: file.path().to_owned(),
                line: 6
            }
        );
        assert_eq!(loaded.origin("raft.replay-max"), Origin::Default);
    }

    /// Loads a file, an environment and flags that are wrong in one place.
    #[track_caller]
    fn refused(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)], expected: &str) {
        let (layers, file) = layers(text, env, flags);
        let message = layers.load().expect_err(expected).to_string();
        let message = message.replace(&file.path().display().to_string(), "FILE");
        assert!(
            message.contains(expected),
            "expected {expected:?}, got {message:?}"
        );
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        refused(
            "tick = 1",
            &[],
            &[],
            "FILE line 1: unknown setting tick; did you mean raft.tick?",
        );
        refused(
            "[raft]\n\ntikc = \"1s\"",
            &[],
            &[],
            "FILE line 3: unknown setting raft.tikc; did you mean raft.tick?",
        );
        refused(
            "[rafft]\ntick = \"1s\"",
            &[],
            &[],
            "unknown setting rafft.tick; did you mean raft.tick?",
        );
        refused(
            "colour = 1",
            &[],
            &[],
            "FILE line 1: unknown setting colour",
        );
        refused(
            "",
            &[("FLOTILLA_RAFT_TIK", "1s")],
            &[],
            "environment variable FLOTILLA_RAFT_TIK: unknown setting",
        );
        refused(
            "",
            &[],
            &[("raft.nonsense", "1")],
            "flag --raft.nonsense: unknown setting raft.nonsense",
        );
        refused("a = = 1", &[], &[], "FILE line 1: not valid TOML");
        refused(
            "a = 1\na = 2",
            &[],
            &[],
            "FILE line 2: not valid TOML: duplicate key",
        );
        refused(
            "addr = 17",
            &[],
            &[],
            "FILE line 1: addr = \"17\": expected HOST:PORT",
        );
        refused(
            "[network]\nconnections-max = -1",
            &[],
            &[],
            "FILE line 2: network.connections-max = \"-1\": expected a whole",
        );
        refused(
            "[network]\nmessage-max = 16",
            &[],
            &[],
            "network.message-max = \"16\": expected a size such as",
        );
        refused(
            "[log]\nlevel = \"loud\"",
            &[],
            &[],
            "expected one of: error warn info debug trace",
        );
        refused(
            "",
            &[("FLOTILLA_RAFT_TICK", "100")],
            &[],
            "FLOTILLA_RAFT_TICK: raft.tick = \"100\": expected a time with a unit",
        );
        refused(
            "",
            &[],
            &[("addr", "127.0.0.1:1"), ("addr", "127.0.0.1:2")],
            "addr is set a second time",
        );
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let layers = Layers {
            file: Some("/nonexistent/flotilla.toml".into()),
            ..Layers::default()
        };
        let message = layers.load().expect_err("no such file").to_string();
        assert!(message.contains("/nonexistent/flotilla.toml"), "{message}");
    }

    #[test]
    fn what_is_printed_gives_the_same_configuration_again() {
        let (layers, _file) = layers(
            "data-dir = \"/tmp/a \\\"b\\\"\"\n[raft]\nlease = \"500ms\"",
            &[("FLOTILLA_NETWORK_STREAMS_MAX", "7")],
            &[("allow-plaintext", "true")],
        );
        let loaded = layers.load().expect("valid");
        for explain in [false, true] {
            let printed = file(&loaded.to_toml(explain));
            let again = Layers {
                file: Some(printed.path().to_owned()),
                ..Layers::default()
            };
            assert_eq!(again.load().expect("valid").config, loaded.config);
        }
    }

    #[test]
    fn names_are_unique_in_every_layer() {
        let mut names: Vec<String> = SETTINGS
            .iter()
            .map(|setting| env_name(setting.key))
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), SETTINGS.len());
    }
}
