//! Settings that are refused: which, where it was set, and what is wrong.

use std::fmt;
use std::path::PathBuf;

/// Where the value of a setting comes from, the weakest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// A command-line flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File { path, line } => write!(f, "{} line {line}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Why a configuration is refused. Nothing was created or opened.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} line {line}: not valid TOML: {problem}")]
    NotToml {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        problem: String,
    },
    /// No setting has this name.
    #[error("{origin}: unknown setting {key}{}", hint(.nearest))]
    Unknown {
        /// Where it stands.
        origin: Origin,
        /// As written.
        key: String,
        /// A setting whose name is much like it.
        nearest: Option<&'static str>,
    },
    /// The same setting twice on one level.
    #[error("{origin}: {key} is set a second time ({first} set it already)")]
    Twice {
        /// Where it stands again.
        origin: Origin,
        /// The setting.
        key: &'static str,
        /// Where it stood first.
        first: Origin,
    },
    /// Not a value of the setting's kind.
    #[error("{origin}: {key} = {value:?}: {problem}")]
    Bad {
        /// Where it stands.
        origin: Origin,
        /// The setting.
        key: &'static str,
        /// As written.
        value: String,
        /// What was expected.
        problem: String,
    },
    /// Values that are well-formed and contradict each other.
    #[error("{origin}: {key} = {value}: {rule}")]
    Contradiction {
        /// Where the setting at fault was set; the other one may be a default.
        origin: Origin,
        /// The setting at fault.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it must obey, naming the other setting and its value.
        rule: String,
    },
    /// A setting that has no default and was not given.
    #[error("{key} is not set: give {flag}, set {env}, or put it into the configuration file")]
    Missing {
        /// The setting.
        key: &'static str,
        /// Its flag.
        flag: &'static str,
        /// Its environment variable.
        env: String,
    },
}

fn hint(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |key| format!("; did you mean {key}?"))
}
