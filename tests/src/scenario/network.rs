//! Messages between stores: each lies in plain sight until somebody lets it through.

use std::collections::{BTreeSet, VecDeque};

use flotilla_proto::store::PeerMessage;

use super::words::{KINDS, Words};

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct Flying {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) message: PeerMessage,
}

/// Which messages a line speaks of: `[1 -> 2] [append] [of 3]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    from: Option<u64>,
    to: Option<u64>,
    kind: Option<String>,
    region: Option<u64>,
}

/// What a message is called: its kind, or that it tells a peer of its end.
pub(super) fn name(message: &PeerMessage) -> &'static str {
    let Some(inner) = &message.message else {
        return "farewell";
    };
    let known = KINDS.iter().find(|(_, kind)| *kind == inner.kind());
    known.map_or("nonsense", |(name, _)| *name)
}

impl Filter {
    pub(super) fn read(words: &mut Words<'_>) -> Self {
        let region = words.number_after("of");
        let numbers = words.numbers();
        let from = numbers.first().copied();
        let to = words.number_after("->");
        if numbers.len() > 1 || from.is_some() != to.is_some() {
            words.wrong("a way is `1 -> 2`");
        }
        let kind = words.any();
        let known = |kind: &str| {
            ["farewell", "rows"].contains(&kind) || KINDS.iter().any(|(name, _)| *name == kind)
        };
        if kind.is_some_and(|kind| !known(kind)) {
            words.wrong("no message is called so");
        }
        Self {
            from,
            to,
            kind: kind.map(str::to_owned),
            region,
        }
    }

    pub(super) fn fits(&self, flying: &Flying) -> bool {
        self.from.is_none_or(|from| from == flying.from)
            && self.to.is_none_or(|to| to == flying.to)
            && self
                .region
                .is_none_or(|region| region == flying.message.region_id)
            && self
                .kind
                .as_ref()
                .is_none_or(|kind| kind == name(&flying.message))
    }
}

/// The messages under way, oldest first, and what stands in their way.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) flying: VecDeque<Flying>,
    /// From where to where nothing gets through.
    cuts: BTreeSet<(u64, u64)>,
    /// What waits until it is released.
    holds: Vec<Filter>,
}

impl Network {
    /// A message leaves; where the way is cut it is lost.
    pub(super) fn send(&mut self, flying: Flying) -> bool {
        let lost = self.cuts.contains(&(flying.from, flying.to));
        if !lost {
            self.flying.push_back(flying);
        }
        !lost
    }

    pub(super) fn cut(&mut self, from: u64, to: u64) {
        self.cuts.insert((from, to));
    }

    /// Ways between these stores are open again; none named: all ways.
    pub(super) fn heal(&mut self, stores: &[u64]) {
        let healed = |store: &u64| stores.is_empty() || stores.contains(store);
        self.cuts.retain(|(from, to)| !(healed(from) && healed(to)));
    }

    pub(super) fn hold(&mut self, filter: Filter) {
        self.holds.push(filter);
    }

    /// What is held by this very filter goes on; by the empty one: everything. Answers whether
    /// anything was held.
    pub(super) fn release(&mut self, filter: &Filter) -> bool {
        let before = self.holds.len();
        let all = *filter == Filter::default();
        self.holds.retain(|held| !all && held != filter);
        self.holds.len() < before
    }

    pub(super) fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Whether the part of `flying` that is called so must wait.
    pub(super) fn is_held(&self, flying: &Flying, part: &str) -> bool {
        let of = |hold: &&Filter| hold.kind.as_deref() == Some(part);
        let whatever = |hold: &Filter| Filter {
            kind: None,
            ..hold.clone()
        };
        self.holds
            .iter()
            .filter(of)
            .any(|hold| whatever(hold).fits(flying))
    }

    /// Takes those that fit, oldest first, at most `count`.
    pub(super) fn take(&mut self, filter: &Filter, count: usize) -> Vec<Flying> {
        self.take_if(count, |flying| filter.fits(flying))
    }

    /// Takes what may arrive by itself among the stores for which `among` holds.
    pub(super) fn take_free(&mut self, among: impl Fn(u64) -> bool) -> Vec<Flying> {
        let holds = self.holds.clone();
        self.take_if(usize::MAX, |flying| {
            among(flying.from) && among(flying.to) && !holds.iter().any(|hold| hold.fits(flying))
        })
    }

    fn take_if(&mut self, count: usize, fits: impl Fn(&Flying) -> bool) -> Vec<Flying> {
        let (mut taken, mut rest) = (Vec::new(), VecDeque::new());
        for flying in std::mem::take(&mut self.flying) {
            if taken.len() < count && fits(&flying) {
                taken.push(flying);
            } else {
                rest.push_back(flying);
            }
        }
        self.flying = rest;
        taken
    }
}
