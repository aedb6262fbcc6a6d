//! Placement rules as people write them, in PD's JSON, and as the meta region keeps them.

use bytes::Bytes;
use flotilla_pd_plan::{Constraint, Op, Role, Rule};
use serde::{Deserialize, Serialize};

use crate::call::{Call, calls};
use crate::changes::{Done, whole};
use crate::effect::RequestToken;
use crate::internal::{DeleteRule, RuleDeleted, RulesSet, SetRuleError, SetRules};
use crate::leading::Leading;
use crate::limits::{
    BOUNDARY_BYTES_MAX, PEERS_MAX, RULES_MAX, STORE_LABELS_MAX, STORE_TEXT_BYTES_MAX,
};
use crate::records::{self, ConstraintRecord, Mod, RuleRecord};

/// The group and id of the rule that there is without any other: `max-replicas` voters, kept apart by
/// `location-labels`. One that is set under this name takes its place.
pub const DEFAULT_RULE: (&str, &str) = ("pd", "default");

/// A placement rule in PD's JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// Rules come in groups.
    pub group_id: String,
    /// Unique in its group.
    pub id: String,
    /// Rules of a group go by this, then by id.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub index: i64,
    /// Rules of its group before this one do not count where it does.
    #[serde(
        rename = "override",
        default,
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub overrides: bool,
    /// The first key, in hexadecimal.
    #[serde(default)]
    pub start_key: String,
    /// The key behind the last, in hexadecimal; empty: no end.
    #[serde(default)]
    pub end_key: String,
    /// `voter`, `leader`, `follower` or `learner`.
    pub role: String,
    /// Peers.
    pub count: u32,
    /// What their stores must show, all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label_constraints: Vec<ConstraintView>,
    /// Labels by which they are kept apart, the widest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub location_labels: Vec<String>,
}

/// What a store's label must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConstraintView {
    /// The label.
    pub key: String,
    /// `in`, `notIn`, `exists` or `notExists`.
    pub op: String,
    /// For the first two.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

const ROLES: [(Role, &str); 4] = [
    (Role::Voter, "voter"),
    (Role::Leader, "leader"),
    (Role::Follower, "follower"),
    (Role::Learner, "learner"),
];
const OPS: [(Op, &str); 4] = [
    (Op::In, "in"),
    (Op::NotIn, "notIn"),
    (Op::Exists, "exists"),
    (Op::NotExists, "notExists"),
];

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// The one of this name, and its place.
fn named<T: Copy>(all: &[(T, &str)], name: &str) -> Option<T> {
    let known = all.iter().find(|(_, known)| *known == name);
    known.map(|(value, _)| *value)
}

fn place<T: PartialEq>(all: &[(T, &str)], value: &T) -> usize {
    let known = all.iter().position(|(known, _)| known == value);
    known.expect("every one has a name")
}

/// A rule from its row.
///
/// # Errors
/// What no build up to this one writes.
pub(crate) fn from_record(names: &(String, String), record: &RuleRecord) -> Result<Rule, String> {
    let role = ROLES.get(record.role as usize).ok_or("unknown role")?.0;
    let constraint = |record: &ConstraintRecord| {
        let op = OPS.get(record.op as usize).ok_or("unknown constraint")?.0;
        Ok(Constraint {
            key: record.key.clone(),
            op,
            values: record.values.clone(),
        })
    };
    let constraints = record.constraints.iter().map(constraint);
    Ok(Rule {
        group: names.0.clone(),
        id: names.1.clone(),
        index: record.index,
        overrides: record.overrides,
        start: record.start_key.clone(),
        end: record.end_key.clone(),
        role,
        count: record.count as usize,
        constraints: constraints.collect::<Result<_, String>>()?,
        location_labels: record.location_labels.clone(),
    })
}

fn to_record(rule: &Rule) -> RuleRecord {
    let constraint = |constraint: &Constraint| ConstraintRecord {
        key: constraint.key.clone(),
        op: place(&OPS, &constraint.op) as u32,
        values: constraint.values.clone(),
    };
    RuleRecord {
        index: rule.index,
        overrides: rule.overrides,
        start_key: rule.start.clone(),
        end_key: rule.end.clone(),
        role: place(&ROLES, &rule.role) as u32,
        count: rule.count as u32,
        constraints: rule.constraints.iter().map(constraint).collect(),
        location_labels: rule.location_labels.clone(),
    }
}

fn view(rule: &Rule) -> RuleView {
    let hex = |key: &Bytes| key.iter().map(|byte| format!("{byte:02x}")).collect();
    let constraint = |constraint: &Constraint| ConstraintView {
        key: constraint.key.clone(),
        op: OPS[place(&OPS, &constraint.op)].1.to_owned(),
        values: constraint.values.clone(),
    };
    RuleView {
        group_id: rule.group.clone(),
        id: rule.id.clone(),
        index: rule.index,
        overrides: rule.overrides,
        start_key: hex(&rule.start),
        end_key: hex(&rule.end),
        role: rule.role.to_string(),
        count: rule.count as u32,
        label_constraints: rule.constraints.iter().map(constraint).collect(),
        location_labels: rule.location_labels.clone(),
    }
}

/// The bytes of a key in hexadecimal.
fn key(text: &str, what: &str) -> Result<Bytes, String> {
    let bad = || format!("its {what} is no hexadecimal key of at most {BOUNDARY_BYTES_MAX} bytes");
    if !text.is_ascii() || !text.len().is_multiple_of(2) || text.len() / 2 > BOUNDARY_BYTES_MAX {
        return Err(bad());
    }
    let byte = |nth: usize| u8::from_str_radix(&text[nth..nth + 2], 16).map_err(|_| bad());
    (0..text.len()).step_by(2).map(byte).collect()
}

/// A rule as somebody wrote it. The text says what is wrong with it.
fn parse(view: &RuleView) -> Result<Rule, String> {
    let name =
        |text: &str| !text.is_empty() && text.len() <= STORE_TEXT_BYTES_MAX && !text.contains('\0');
    if !name(&view.group_id) || !name(&view.id) {
        return Err(format!(
            "it needs a group_id and an id of 1 to {STORE_TEXT_BYTES_MAX} bytes"
        ));
    }
    let role = named(&ROLES, &view.role).ok_or_else(|| {
        format!(
            "{:?} is no role: voter, leader, follower or learner",
            view.role
        )
    })?;
    let most = if role == Role::Leader { 1 } else { PEERS_MAX };
    if view.count == 0 || view.count as usize > most {
        return Err(format!("its count must be from 1 to {most}"));
    }
    let (start, end) = (
        key(&view.start_key, "start_key")?,
        key(&view.end_key, "end_key")?,
    );
    if !end.is_empty() && start >= end {
        return Err("it ends before it starts".to_owned());
    }
    let constraint = |view: &ConstraintView| {
        let op = named(&OPS, &view.op)
            .ok_or_else(|| format!("{:?} is no op: in, notIn, exists or notExists", view.op))?;
        if !name(&view.key) || view.values.len() > STORE_LABELS_MAX {
            return Err("a label constraint has no key, or too many values".to_owned());
        }
        if matches!(op, Op::In | Op::NotIn) == view.values.is_empty() {
            return Err(format!(
                "the constraint of {:?} has values if its op is in or notIn, and none otherwise",
                view.key
            ));
        }
        Ok(Constraint {
            key: view.key.clone(),
            op,
            values: view.values.clone(),
        })
    };
    if view.label_constraints.len() > STORE_LABELS_MAX
        || view.location_labels.len() > STORE_LABELS_MAX
    {
        return Err(format!("it has more than {STORE_LABELS_MAX} labels"));
    }
    let constraints = view.label_constraints.iter().map(constraint);
    Ok(Rule {
        group: view.group_id.clone(),
        id: view.id.clone(),
        index: view.index,
        overrides: view.overrides,
        start,
        end,
        role,
        count: view.count as usize,
        constraints: constraints.collect::<Result<_, _>>()?,
        location_labels: view.location_labels.clone(),
    })
}

impl Leading {
    /// All rules, the default one included.
    pub(crate) fn rules(&self) -> Vec<Rule> {
        let rows = self.durable.rules.iter();
        let mut rules: Vec<Rule> = rows
            .filter_map(|(names, record)| from_record(names, record).ok())
            .collect();
        let (group, id) = DEFAULT_RULE;
        let named = |rule: &Rule| rule.group == group && rule.id == id;
        if !rules.iter().any(named) {
            rules.push(Rule {
                group: group.to_owned(),
                id: id.to_owned(),
                index: 0,
                overrides: false,
                start: Bytes::new(),
                end: Bytes::new(),
                role: Role::Voter,
                count: self.settings.max_replicas as usize,
                constraints: Vec::new(),
                location_labels: self.settings.location_labels.clone(),
            });
        }
        rules.sort_by(|a, b| (&a.group, a.index, &a.id).cmp(&(&b.group, b.index, &b.id)));
        rules
    }

    pub(crate) fn rule_views(&self) -> Vec<RuleView> {
        self.rules().iter().map(view).collect()
    }

    /// All rules of a request, or none of them.
    pub(crate) fn plan_set_rules(
        &self,
        token: RequestToken,
        request: &SetRules,
    ) -> (Vec<Mod>, Done) {
        let (mods, result) = match self.check_rules(request) {
            Ok(mods) => (mods, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        let answer = calls::SetRules::answer(RulesSet(result));
        whole(token, mods, Some(answer), Vec::new())
    }

    fn check_rules(&self, request: &SetRules) -> Result<Vec<Mod>, SetRuleError> {
        let mut after = self.durable.rules.clone();
        let mut mods = Vec::new();
        for view in &request.0 {
            let rule = parse(view).map_err(|why| SetRuleError::Bad {
                group: view.group_id.clone(),
                id: view.id.clone(),
                why,
            })?;
            let record = to_record(&rule);
            mods.push(records::put_rule(&rule.group, &rule.id, Some(&record)));
            after.insert((rule.group, rule.id), record);
        }
        if after.len() > RULES_MAX {
            return Err(SetRuleError::TooMany);
        }
        self.check_voters(&after)?;
        Ok(mods)
    }

    /// Some rule for voters covers every key.
    fn check_voters(
        &self,
        rules: &std::collections::BTreeMap<(String, String), RuleRecord>,
    ) -> Result<(), SetRuleError> {
        let (group, id) = DEFAULT_RULE;
        let Some(record) = rules.get(&(group.to_owned(), id.to_owned())) else {
            return Ok(());
        };
        let everywhere = record.start_key.is_empty() && record.end_key.is_empty();
        let votes = ROLES[record.role as usize].0 == Role::Voter;
        if everywhere && votes {
            Ok(())
        } else {
            Err(SetRuleError::Default)
        }
    }

    pub(crate) fn plan_delete_rule(
        &self,
        token: RequestToken,
        request: &DeleteRule,
    ) -> (Vec<Mod>, Done) {
        let DeleteRule { group, id } = request;
        let known = self
            .durable
            .rules
            .contains_key(&(group.clone(), id.clone()));
        let row = known.then(|| records::put_rule(group, id, None));
        let answer = calls::DeleteRule::answer(RuleDeleted(known));
        whole(token, row.into_iter().collect(), Some(answer), Vec::new())
    }
}
