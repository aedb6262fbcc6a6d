//! Settings that change while the cluster runs: by PD's names, durable in one row of the meta region.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{PEERS_MAX, STORE_LABELS_MAX, STORE_TEXT_BYTES_MAX};
use crate::records::ConfigRecord;
use crate::schedule::Schedule;

/// A setting's value, as JSON has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ConfigValue {
    /// `true` or `false`.
    Flag(bool),
    /// A count.
    Number(u64),
    /// A text, such as `1h30m`; a number or a flag may also come as one.
    Text(String),
    /// Several texts; one text with commas does as well.
    Texts(Vec<String>),
}

/// Settings as they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) schedule: Schedule,
    /// Replicas of a data region; the cluster's own row keeps it.
    pub(crate) max_replicas: u32,
    /// Labels that tell how far apart two stores are, the widest first.
    pub(crate) location_labels: Vec<String>,
}

type Set = fn(&mut Settings, &ConfigValue) -> Result<(), String>;

struct Item {
    name: &'static str,
    get: fn(&Settings) -> ConfigValue,
    /// `None`: it cannot be changed, and why.
    set: Result<Set, &'static str>,
}

/// The name whose value the cluster's own row keeps.
pub(crate) const MAX_REPLICAS: &str = "max-replicas";

/// Operators of one kind at once, at most.
const LIMIT_MAX: u64 = 65_536;
/// The longest time span that can be set.
const SPAN_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// A count up to [`LIMIT_MAX`] that is `schedule.$field`.
macro_rules! count {
    ($name:literal, $field:ident) => {
        Item {
            name: $name,
            get: |settings| ConfigValue::Number(settings.schedule.$field as u64),
            set: Ok(|settings, value| {
                settings.schedule.$field = number(value, 0, LIMIT_MAX)? as _;
                Ok(())
            }),
        }
    };
}

/// A time span that is `schedule.$field`.
macro_rules! span {
    ($name:literal, $field:ident, $least:literal) => {
        Item {
            name: $name,
            get: |settings| ConfigValue::Text(span_text(settings.schedule.$field)),
            set: Ok(|settings, value| {
                settings.schedule.$field = span(value, Duration::from_secs($least))?;
                Ok(())
            }),
        }
    };
}

/// By name.
const ITEMS: &[Item] = &[
    Item {
        name: "enable-placement-rules",
        get: |_| ConfigValue::Flag(true),
        set: Err("placement rules are always on; the rule pd/default stands for max-replicas"),
    },
    count!("hot-region-schedule-limit", hot_moves_max),
    count!("leader-schedule-limit", leader_moves_max),
    Item {
        name: "location-labels",
        get: |settings| ConfigValue::Texts(settings.location_labels.clone()),
        set: Ok(|settings, value| {
            settings.location_labels = labels(value)?;
            Ok(())
        }),
    },
    Item {
        name: "max-merge-region-keys",
        get: |settings| ConfigValue::Number(settings.schedule.merge_keys_max),
        set: Ok(|settings, value| {
            settings.schedule.merge_keys_max = number(value, 0, u64::MAX)?;
            Ok(())
        }),
    },
    Item {
        // MiB, as PD has it.
        name: "max-merge-region-size",
        get: |settings| ConfigValue::Number(settings.schedule.merge_bytes_max >> 20),
        set: Ok(|settings, value| {
            settings.schedule.merge_bytes_max = number(value, 0, 1 << 20)? << 20;
            Ok(())
        }),
    },
    Item {
        name: MAX_REPLICAS,
        get: |settings| ConfigValue::Number(settings.max_replicas.into()),
        set: Ok(|settings, value| {
            settings.max_replicas = number(value, 1, PEERS_MAX as u64)? as u32;
            Ok(())
        }),
    },
    Item {
        name: "max-snapshot-count",
        get: |settings| ConfigValue::Number(settings.schedule.snapshots_max.into()),
        set: Ok(|settings, value| {
            settings.schedule.snapshots_max = number(value, 1, LIMIT_MAX)? as u32;
            Ok(())
        }),
    },
    span!("max-store-down-time", max_store_down_time, 60),
    count!("merge-schedule-limit", merges_max),
    count!("region-schedule-limit", region_moves_max),
    count!("replica-schedule-limit", operators_max),
    span!("split-merge-interval", split_rest, 0),
    Item {
        // Own: PD has `store-limit`, which is a rate.
        name: "store-adding-limit",
        get: |settings| ConfigValue::Number(settings.schedule.adding_max as u64),
        set: Ok(|settings, value| {
            settings.schedule.adding_max = number(value, 1, LIMIT_MAX)? as usize;
            Ok(())
        }),
    },
    Item {
        name: "store-removing-limit",
        get: |settings| ConfigValue::Number(settings.schedule.removing_max as u64),
        set: Ok(|settings, value| {
            settings.schedule.removing_max = number(value, 1, LIMIT_MAX)? as usize;
            Ok(())
        }),
    },
];

impl Settings {
    /// `base` with what was set online over it.
    ///
    /// # Errors
    /// A name or value that no build up to this one writes.
    pub(crate) fn new(
        base: Schedule,
        max_replicas: u32,
        record: &ConfigRecord,
    ) -> Result<Self, String> {
        let mut settings = Self {
            schedule: base,
            max_replicas,
            location_labels: Vec::new(),
        };
        for (name, value) in &record.values {
            let value = ConfigValue::Text(value.clone());
            settings
                .set(name, &value)
                .map_err(|why| format!("{name}: {why}"))?;
        }
        Ok(settings)
    }

    /// Every name and its value.
    pub(crate) fn values(&self) -> BTreeMap<String, ConfigValue> {
        let named = |item: &Item| (item.name.to_owned(), (item.get)(self));
        ITEMS.iter().map(named).collect()
    }

    /// Changes one. The text says why it is refused.
    pub(crate) fn set(&mut self, name: &str, value: &ConfigValue) -> Result<(), String> {
        let item = ITEMS.iter().find(|item| item.name == name);
        let item = item.ok_or("there is no such setting")?;
        match item.set {
            Ok(set) => set(self, value),
            Err(_) if (item.get)(self) == *value => Ok(()),
            Err(why) => Err(format!("it cannot be changed: {why}")),
        }
    }

    /// A value as the row keeps it: a text that [`Settings::set`] takes.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        let item = ITEMS.iter().find(|item| item.name == name)?;
        Some(match (item.get)(self) {
            ConfigValue::Flag(flag) => flag.to_string(),
            ConfigValue::Number(number) => number.to_string(),
            ConfigValue::Text(text) => text,
            ConfigValue::Texts(texts) => texts.join(","),
        })
    }
}

fn number(value: &ConfigValue, least: u64, most: u64) -> Result<u64, String> {
    let number = match value {
        ConfigValue::Number(number) => Some(*number),
        ConfigValue::Text(text) => text.parse().ok(),
        _ => None,
    };
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("a number from {least} to {most} is needed"))
}

fn span(value: &ConfigValue, least: Duration) -> Result<Duration, String> {
    let parsed = match value {
        ConfigValue::Text(text) => parse_span(text),
        _ => None,
    };
    parsed
        .filter(|span| (least..=SPAN_MAX).contains(span))
        .ok_or_else(|| {
            let (least, most) = (span_text(least), span_text(SPAN_MAX));
            format!("a time such as 1h30m is needed, from {least} to {most}")
        })
}

/// `1h30m5s` and the like, whole seconds, as PD writes time spans.
fn parse_span(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut seconds, mut units) = (text, 0_u64, &["h", "m", "s"][..]);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = rest.split_at(digits);
        let nth = units.iter().position(|known| unit.starts_with(known))?;
        let worth = match units[nth] {
            "h" => 3_600,
            "m" => 60,
            _ => 1,
        };
        let part = number.parse::<u64>().ok()?.checked_mul(worth)?;
        seconds = seconds.checked_add(part)?;
        (rest, units) = (&unit[1..], &units[nth + 1..]);
    }
    (!text.is_empty()).then(|| Duration::from_secs(seconds))
}

fn span_text(span: Duration) -> String {
    let seconds = span.as_secs();
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

fn labels(value: &ConfigValue) -> Result<Vec<String>, String> {
    let texts = match value {
        ConfigValue::Texts(texts) => texts.clone(),
        ConfigValue::Text(text) => text.split(',').map(str::to_owned).collect(),
        _ => return Err("names of labels are needed, such as zone,rack,host".to_owned()),
    };
    let named = |text: &String| !text.is_empty();
    let texts: Vec<String> = texts
        .iter()
        .map(|text| text.trim().to_owned())
        .filter(named)
        .collect();
    if texts.len() > STORE_LABELS_MAX || texts.iter().any(|text| text.len() > STORE_TEXT_BYTES_MAX)
    {
        return Err(format!(
            "at most {STORE_LABELS_MAX} names of at most {STORE_TEXT_BYTES_MAX} bytes can be set"
        ));
    }
    let twice = |(nth, text): (usize, &String)| texts[..nth].contains(text);
    if texts.iter().enumerate().any(twice) {
        return Err("a label is named twice".to_owned());
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            schedule: Schedule::default(),
            max_replicas: 3,
            location_labels: Vec::new(),
        }
    }

    #[test]
    fn names_are_in_order_and_every_value_can_be_set_as_it_is_written_down() {
        assert!(ITEMS.is_sorted_by_key(|item| item.name));
        let mut again = settings();
        for (name, value) in settings().values() {
            assert_eq!(again.set(&name, &value), Ok(()), "{name}");
            if name != "enable-placement-rules" {
                let text = settings().text(&name).unwrap();
                assert_eq!(again.set(&name, &ConfigValue::Text(text)), Ok(()), "{name}");
            }
        }
        assert_eq!(again, settings());
    }

    #[track_caller]
    fn check(name: &str, value: ConfigValue, expected: Result<&str, &str>) {
        let mut settings = settings();
        let set = settings.set(name, &value);
        let got = set.map(|()| settings.text(name).unwrap());
        assert_eq!(
            got.as_deref().map_err(|why| &why[..]),
            expected,
            "{name} {value:?}"
        );
    }

    #[test]
    fn values_have_bounds() {
        let text = |text: &str| ConfigValue::Text(text.to_owned());
        let number = ConfigValue::Number;
        check("leader-schedule-limit", number(0), Ok("0"));
        check("leader-schedule-limit", text("12"), Ok("12"));
        let why = "a number from 0 to 65536 is needed";
        check("leader-schedule-limit", number(65_537), Err(why));
        check("leader-schedule-limit", ConfigValue::Flag(true), Err(why));
        let why = "a number from 1 to 64 is needed";
        check("max-replicas", number(0), Err(why));
        check("max-replicas", number(5), Ok("5"));
        check("split-merge-interval", text("90m"), Ok("1h30m0s"));
        check("split-merge-interval", text("0"), Ok("0s"));
        let why = "a time such as 1h30m is needed, from 1m0s to 8760h0m0s";
        for bad in ["59s", "1s1h", "h", "", "5", "99999999999999999999s"] {
            check("max-store-down-time", text(bad), Err(why));
        }
        check("location-labels", text("zone, rack"), Ok("zone,rack"));
        check("location-labels", text(""), Ok(""));
        check(
            "location-labels",
            text("a,a"),
            Err("a label is named twice"),
        );
        check("no-such", number(1), Err("there is no such setting"));
        check(
            "enable-placement-rules",
            ConfigValue::Flag(false),
            Err(
                "it cannot be changed: placement rules are always on; the rule pd/default stands for max-replicas",
            ),
        );
    }
}
