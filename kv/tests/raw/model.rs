//! Random requests in a world of regions that split and merge, a wall clock that jumps and rows
//! that are compacted away, against the rules written down as naively as possible: over user keys,
//! in one ordered map, without regions cut into physical ranges.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_engine::row::Expiry;
use flotilla_engine::{Cf, DATA_CFS};
use flotilla_kv::{Failure, KeyMode, Proposal, Read, ReadWrite, Scope, TtlClock, View, Write};
use flotilla_proto::clock::Wall;
use flotilla_proto::kvrpcpb::{self, ApiVersion, Context, KeyRange, KvPair};
use flotilla_proto::metapb::Region;
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::state::State;

/// What a request comes to, whatever its kind.
#[derive(Debug, PartialEq)]
enum Told {
    Done,
    Value(Option<Bytes>),
    Pairs(Vec<(Bytes, Bytes)>),
    /// Seconds left; `Some(0)` is for ever.
    Ttl(Option<u64>),
    Swap {
        succeed: bool,
        before: Option<Bytes>,
    },
    /// Checksum, rows, bytes.
    Sum(u64, u64, u64),
    Refused,
    NotInRegion,
}

/// User keys [start, end); an empty end is none.
#[derive(Clone, Debug, PartialEq)]
struct Span {
    start: Bytes,
    end: Bytes,
}

impl Span {
    fn contains(&self, key: &Bytes) -> bool {
        *key >= self.start && (self.end.is_empty() || *key < self.end)
    }
}

/// The rules.
struct Model {
    mode: KeyMode,
    /// Value and expiry by column family and user key; rows stay when they expire.
    rows: BTreeMap<(i32, Bytes), (Bytes, Option<u64>)>,
    /// The highest wall time used, in seconds.
    now: u64,
    region: Span,
}

impl Model {
    fn check_key(&self, key: &Bytes) -> Result<(), Told> {
        match key.first() {
            first if self.mode == KeyMode::Encoded && first != Some(&b'r') => Err(Told::Refused),
            _ if self.region.contains(key) => Ok(()),
            _ => Err(Told::NotInRegion),
        }
    }

    /// A range of a request, with its bounds the right way around.
    fn check_span(&self, span: &Span) -> Result<(), Told> {
        let reversed = !span.end.is_empty() && span.start > span.end;
        let end_of_raw = span.end.starts_with(b"r") || span.end == "s" || span.end == "s\0\0\0";
        let outside =
            self.mode == KeyMode::Encoded && !(span.start.starts_with(b"r") && end_of_raw);
        if reversed || outside {
            Err(Told::Refused)
        } else {
            Ok(())
        }
    }

    fn get(&self, cf: Cf, key: &Bytes) -> Option<(Bytes, Option<u64>)> {
        let row = self.rows.get(&(cf as i32, key.clone()))?;
        row.1
            .is_none_or(|expiry| self.now < expiry)
            .then(|| row.clone())
    }

    fn put(&mut self, cf: Cf, key: Bytes, value: Bytes, ttl: u64) {
        let expiry = (ttl > 0).then(|| self.now + ttl);
        self.rows.insert((cf as i32, key), (value, expiry));
    }

    /// All visible rows of a range, ascending.
    fn visible(&self, cf: Cf, span: &Span) -> Vec<(Bytes, Bytes)> {
        let keys = self
            .rows
            .keys()
            .filter(|(of, _)| *of == cf as i32)
            .map(|(_, key)| key);
        keys.filter(|key| span.contains(key) && self.region.contains(key))
            .filter_map(|key| Some((key.clone(), self.get(cf, key)?.0)))
            .collect()
    }

    fn scan(&self, cf: Cf, span: &Span, limit: u32, reverse: bool) -> Vec<(Bytes, Bytes)> {
        let mut rows = self.visible(cf, span);
        if reverse {
            rows.reverse();
        }
        rows.truncate(limit as usize);
        rows
    }
}

struct World {
    rng: SplitMix64,
    state: State,
    clock: TtlClock,
    expiry: Expiry,
    /// The wall clock, milliseconds.
    wall: u64,
    model: Model,
    /// Boundaries between regions, user keys, ascending; never empty keys.
    boundaries: Vec<Bytes>,
    /// How often each kind of answer came.
    told: BTreeMap<&'static str, u64>,
}

impl World {
    fn new(seed: u64, mode: KeyMode) -> Self {
        let expiry = Expiry::default();
        expiry.set_mode(mode);
        let region = Span {
            start: Bytes::new(),
            end: Bytes::new(),
        };
        Self {
            rng: SplitMix64::seed_from_u64(seed),
            state: State::default(),
            clock: TtlClock::new(),
            expiry,
            wall: 1_000_000,
            model: Model {
                mode,
                rows: BTreeMap::new(),
                now: 0,
                region,
            },
            boundaries: Vec::new(),
            told: BTreeMap::new(),
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }

    fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }

    /// A key: short and often the same, or around the length of one or two groups.
    fn key(&mut self) -> Bytes {
        let mut key = Vec::new();
        if self.model.mode == KeyMode::Encoded && !self.one_in(40) {
            key.extend(if self.one_in(3) {
                b"r\0\0\x02"
            } else {
                b"r\0\0\x01"
            });
        }
        if self.one_in(3) {
            key.extend(vec![b'g'; 2 + self.below(12) as usize]);
        }
        for _ in 0..self.below(3) {
            let at = self.below(4) as usize;
            key.push([0x00, b'a', b'g', 0xff][at]);
        }
        key.into()
    }

    fn value(&mut self) -> Bytes {
        let length = self.below(4) as usize;
        let byte = self.below(3) as u8;
        vec![byte; length].into()
    }

    fn ttl(&mut self) -> u64 {
        if self.one_in(2) {
            0
        } else {
            1 + self.below(30)
        }
    }

    fn cf(&mut self) -> Cf {
        let at = if self.model.mode == KeyMode::Plain && self.one_in(4) {
            self.below(3)
        } else {
            0
        };
        DATA_CFS[at as usize]
    }

    /// A range as a client has it in mind: rarely reversed, sometimes without bounds.
    fn span(&mut self) -> Span {
        let (mut start, mut end) = (self.key(), self.key());
        if start > end && !self.one_in(10) {
            (start, end) = (end, start);
        }
        let plain = self.model.mode == KeyMode::Plain;
        if self.one_in(6) {
            start = if plain {
                Bytes::new()
            } else {
                Bytes::from_static(b"r\0\0\x01")
            };
        }
        if self.one_in(6) {
            let ends = [&b"r\0\0\x02"[..], b"s", b"s\0\0\0", b""];
            let at = self.below(4) as usize;
            end = if plain {
                Bytes::new()
            } else {
                Bytes::from_static(ends[at])
            };
        }
        Span { start, end }
    }

    fn context(&self) -> Option<Context> {
        let version = match self.model.mode {
            KeyMode::Plain => ApiVersion::V1,
            KeyMode::Encoded => ApiVersion::V2,
        };
        Some(Context {
            api_version: version.into(),
            ..Context::default()
        })
    }

    /// Chooses the region of the next request: mostly one that holds `key`.
    fn choose_region(&mut self, key: &Bytes) {
        let edges: Vec<Bytes> = [Bytes::new()]
            .into_iter()
            .chain(self.boundaries.clone())
            .collect();
        let at = if self.one_in(8) {
            self.below(edges.len() as u64) as usize
        } else {
            edges.iter().rposition(|edge| edge <= key).unwrap()
        };
        let end = edges.get(at + 1).cloned().unwrap_or_default();
        self.model.region = Span {
            start: edges[at].clone(),
            end,
        };
    }

    fn region(&self) -> Region {
        let physical = |user: &Bytes| match user.is_empty() {
            true => Bytes::new(),
            false => self.model.mode.physical(user),
        };
        let Span { start, end } = &self.model.region;
        Region {
            id: 3,
            start_key: physical(start),
            end_key: physical(end),
            ..Region::default()
        }
    }

    /// Time passes, mostly a little; now and then the clock is set back, or hours pass.
    fn tick(&mut self) {
        match self.below(200) {
            0 => self.wall += 4_000_000,
            1..4 => self.wall = self.wall.saturating_sub(self.below(60_000)),
            _ => self.wall += self.below(2_000),
        }
        self.model.now = self.model.now.max(self.wall / 1000);
        let now = self.clock.now(Wall(self.wall));
        assert_eq!(now, self.model.now);
        self.expiry.advance(now);
    }

    fn rearrange(&mut self) {
        match self.below(30) {
            0 if self.boundaries.len() < 5 => {
                let key = self.key();
                if !key.is_empty() {
                    self.boundaries.push(key);
                    self.boundaries.sort();
                    self.boundaries.dedup();
                }
            }
            1 if !self.boundaries.is_empty() => {
                let at = self.below(self.boundaries.len() as u64) as usize;
                self.boundaries.remove(at);
            }
            2 => self.state.compact(&self.expiry),
            _ => {}
        }
    }

    fn read<C: Read>(&self, request: C, tell: impl FnOnce(C::Response) -> Told) -> Told {
        let region = self.region();
        let scope = Scope {
            mode: self.model.mode,
            region: &region,
            now: self.model.now,
        };
        let view = View {
            scope,
            reader: &self.state,
            expired: &|| false,
        };
        request.read(&view).map_or_else(failed, tell)
    }

    fn propose<A>(
        &mut self,
        proposal: Result<Proposal<A>, Failure>,
        tell: impl FnOnce(A) -> Told,
    ) -> Told {
        match proposal {
            Ok(Proposal { mods, response }) => {
                self.state.apply(&self.region(), &mods);
                tell(response)
            }
            Err(failure) => failed(failure),
        }
    }

    fn write<C: Write>(&mut self, request: C) -> Told {
        let region = self.region();
        let planned = request.plan(&Scope {
            mode: self.model.mode,
            region: &region,
            now: self.model.now,
        });
        self.propose(planned, |_| Told::Done)
    }

    fn step(&mut self) {
        self.tick();
        self.rearrange();
        let cf = self.cf();
        let (got, expected) = match self.below(12) {
            0..4 => self.put(cf),
            4 => self.batch_put(cf),
            5 => self.delete(cf),
            6 if self.one_in(4) => self.delete_range(cf),
            6..8 => self.get(cf),
            8 => self.scan(cf),
            9 => self.batch_scan(cf),
            10 => self.swap(cf),
            _ => self.checksum(),
        };
        assert_eq!(got, expected, "region {:?}", self.model.region);
        *self.told.entry(kind(&got)).or_default() += 1;
    }

    fn put(&mut self, cf: Cf) -> (Told, Told) {
        let (key, value, ttl) = (self.key(), self.value(), self.ttl());
        self.choose_region(&key);
        let expected = self.model.check_key(&key).map_or_else(
            |told| told,
            |()| {
                self.model.put(cf, key.clone(), value.clone(), ttl);
                Told::Done
            },
        );
        let context = self.context();
        let request = kvrpcpb::RawPutRequest {
            context,
            key,
            value,
            cf: name(cf),
            ttl,
            for_cas: false,
        };
        (self.write(request), expected)
    }

    /// The first key that is not right, if any.
    fn check_keys<'a>(&self, keys: impl IntoIterator<Item = &'a Bytes>) -> Result<(), Told> {
        keys.into_iter()
            .try_for_each(|key| self.model.check_key(key))
    }

    fn batch_put(&mut self, cf: Cf) -> (Told, Told) {
        let count = self.below(4);
        let pairs: Vec<KvPair> = (0..count)
            .map(|_| KvPair {
                key: self.key(),
                value: self.value(),
                ..KvPair::default()
            })
            .collect();
        let ttls: Vec<u64> = match self.below(3) {
            0 => vec![],
            1 => vec![self.ttl()],
            _ => pairs.iter().map(|_| self.ttl()).collect(),
        };
        let first = pairs
            .first()
            .map(|pair| pair.key.clone())
            .unwrap_or_default();
        self.choose_region(&first);
        let expected = match self.check_keys(pairs.iter().map(|pair| &pair.key)) {
            Err(told) => told,
            Ok(()) => {
                for (index, pair) in pairs.iter().enumerate() {
                    let ttl = *ttls.get(index).or(ttls.first()).unwrap_or(&0);
                    self.model
                        .put(cf, pair.key.clone(), pair.value.clone(), ttl);
                }
                Told::Done
            }
        };
        let context = self.context();
        let request = kvrpcpb::RawBatchPutRequest {
            context,
            pairs,
            cf: name(cf),
            ttl: 99,
            for_cas: false,
            ttls,
        };
        (self.write(request), expected)
    }

    fn delete(&mut self, cf: Cf) -> (Told, Told) {
        let count = self.below(3);
        let keys: Vec<Bytes> = (0..count).map(|_| self.key()).collect();
        self.choose_region(&keys.first().cloned().unwrap_or_default());
        let expected = match self.check_keys(&keys) {
            Err(told) => told,
            Ok(()) => {
                keys.iter()
                    .for_each(|key| _ = self.model.rows.remove(&(cf as i32, key.clone())));
                Told::Done
            }
        };
        let (context, cf) = (self.context(), name(cf));
        let got = match &keys[..] {
            [key] => {
                let key = key.clone();
                self.write(kvrpcpb::RawDeleteRequest {
                    context,
                    key,
                    cf,
                    for_cas: false,
                })
            }
            _ => self.write(kvrpcpb::RawBatchDeleteRequest {
                context,
                keys,
                cf,
                for_cas: false,
            }),
        };
        (got, expected)
    }

    fn delete_range(&mut self, cf: Cf) -> (Told, Told) {
        let span = self.span();
        self.choose_region(&span.start);
        let expected = match self.model.check_span(&span) {
            Err(told) => told,
            Ok(()) => {
                let region = self.model.region.clone();
                self.model.rows.retain(|(of, key), _| {
                    *of != cf as i32 || !span.contains(key) || !region.contains(key)
                });
                Told::Done
            }
        };
        let (context, cf) = (self.context(), name(cf));
        let Span {
            start: start_key,
            end: end_key,
        } = span;
        (
            self.write(kvrpcpb::RawDeleteRangeRequest {
                context,
                start_key,
                end_key,
                cf,
            }),
            expected,
        )
    }

    fn get(&mut self, cf: Cf) -> (Told, Told) {
        let count = 1 + self.below(3);
        let keys: Vec<Bytes> = (0..count).map(|_| self.key()).collect();
        self.choose_region(&keys[0]);
        let checked = self.check_keys(&keys);
        let first = self.model.get(cf, &keys[0]);
        let kind = if keys.len() > 1 { 2 } else { self.below(2) };
        let expected = checked.map_or_else(
            |told| told,
            |()| match kind {
                0 => Told::Value(first.map(|(value, _)| value)),
                1 => Told::Ttl(first.map(|(_, end)| end.map_or(0, |end| end - self.model.now))),
                _ => {
                    let row = |key: &Bytes| Some((key.clone(), self.model.get(cf, key)?.0));
                    Told::Pairs(keys.iter().filter_map(row).collect())
                }
            },
        );
        let (context, cf, key) = (self.context(), name(cf), keys[0].clone());
        let got = match kind {
            0 => self.read(kvrpcpb::RawGetRequest { context, key, cf }, |response| {
                Told::Value((!response.not_found).then_some(response.value))
            }),
            1 => self.read(
                kvrpcpb::RawGetKeyTtlRequest { context, key, cf },
                |response| Told::Ttl((!response.not_found).then_some(response.ttl)),
            ),
            _ => self.read(
                kvrpcpb::RawBatchGetRequest { context, keys, cf },
                |response| Told::Pairs(rows(response.pairs)),
            ),
        };
        (got, expected)
    }

    /// The bounds of a request over `span` in its direction.
    fn directed(span: &Span, reverse: bool) -> (Bytes, Bytes) {
        let Span { start, end } = span.clone();
        if reverse { (end, start) } else { (start, end) }
    }

    fn scan(&mut self, cf: Cf) -> (Told, Told) {
        let (span, limit, reverse) = (self.span(), self.below(6) as u32, self.one_in(2));
        self.choose_region(&span.start);
        let expected = match self.model.check_span(&span) {
            Err(told) => told,
            Ok(()) => Told::Pairs(self.model.scan(cf, &span, limit, reverse)),
        };
        let (start_key, end_key) = Self::directed(&span, reverse);
        let context = self.context();
        let request = kvrpcpb::RawScanRequest {
            context,
            start_key,
            limit,
            key_only: false,
            cf: name(cf),
            reverse,
            end_key,
        };
        (
            self.read(request, |response| Told::Pairs(rows(response.kvs))),
            expected,
        )
    }

    fn batch_scan(&mut self, cf: Cf) -> (Told, Told) {
        let (each_limit, reverse) = (self.below(4) as u32, self.one_in(2));
        let count = self.below(4);
        let mut spans: Vec<Span> = (0..count).map(|_| self.span()).collect();
        self.choose_region(
            &spans
                .first()
                .map(|span| span.start.clone())
                .unwrap_or_default(),
        );
        let ranges = spans
            .iter()
            .map(|span| {
                let (start_key, end_key) = Self::directed(span, reverse);
                KeyRange { start_key, end_key }
            })
            .collect();
        // A range without an end ends where the next begins, each seen in the scan's direction.
        for at in 1..spans.len() {
            let next = Self::directed(&spans[at], reverse).0;
            let span = &mut spans[at - 1];
            let end = if reverse {
                &mut span.start
            } else {
                &mut span.end
            };
            if end.is_empty() {
                *end = next;
            }
        }
        let model = &self.model;
        let scan = |span| model.scan(cf, span, each_limit, reverse);
        let expected = match spans.iter().try_for_each(|span| model.check_span(span)) {
            Err(told) => told,
            Ok(()) => Told::Pairs(spans.iter().flat_map(scan).collect()),
        };
        let (context, cf) = (self.context(), name(cf));
        let request = kvrpcpb::RawBatchScanRequest {
            context,
            ranges,
            each_limit,
            key_only: false,
            cf,
            reverse,
        };
        (
            self.read(request, |response| Told::Pairs(rows(response.kvs))),
            expected,
        )
    }

    fn swap(&mut self, cf: Cf) -> (Told, Told) {
        let (key, value, ttl, delete) = (self.key(), self.value(), self.ttl(), self.one_in(4));
        self.choose_region(&key);
        let before = self.model.get(cf, &key).map(|(value, _)| value);
        // The client guesses right half of the time.
        let guess = match self.below(4) {
            0 | 1 => before.clone(),
            2 => None,
            _ => Some(self.value()),
        };
        let succeed = guess == before;
        let expected = match self.model.check_key(&key) {
            Err(told) => told,
            Ok(()) => {
                match (succeed, delete) {
                    (true, true) => _ = self.model.rows.remove(&(cf as i32, key.clone())),
                    (true, false) => self.model.put(cf, key.clone(), value.clone(), ttl),
                    (false, _) => {}
                }
                Told::Swap { succeed, before }
            }
        };
        let request = kvrpcpb::RawCasRequest {
            context: self.context(),
            key,
            value,
            previous_not_exist: guess.is_none(),
            previous_value: guess.unwrap_or_default(),
            cf: name(cf),
            ttl,
            delete,
        };
        let region = self.region();
        let scope = Scope {
            mode: self.model.mode,
            region: &region,
            now: self.model.now,
        };
        let decided = request.decide(&View {
            scope,
            reader: &self.state,
            expired: &|| false,
        });
        let got = self.propose(decided, |response| Told::Swap {
            succeed: response.succeed,
            before: (!response.previous_not_exist).then_some(response.previous_value),
        });
        (got, expected)
    }

    fn checksum(&mut self) -> (Told, Told) {
        let spans = [self.span(), self.span()];
        self.choose_region(&spans[0].start);
        let model = &self.model;
        let expected = match spans.iter().try_for_each(|span| model.check_span(span)) {
            Err(told) => told,
            Ok(()) => {
                let rows = spans
                    .iter()
                    .flat_map(|span| model.visible(Cf::CfDefault, span));
                rows.fold(Told::Sum(0, 0, 0), |sum, (key, value)| {
                    let Told::Sum(checksum, count, bytes) = sum else {
                        unreachable!()
                    };
                    let row = [&key[..], &value[..]].concat();
                    Told::Sum(
                        checksum ^ crc64_by_bits(&row),
                        count + 1,
                        bytes + row.len() as u64,
                    )
                })
            }
        };
        let ranges = spans.map(|Span { start, end }| KeyRange {
            start_key: start,
            end_key: end,
        });
        let request = kvrpcpb::RawChecksumRequest {
            context: self.context(),
            algorithm: 0,
            ranges: ranges.into(),
        };
        let got = self.read(request, |response| {
            Told::Sum(response.checksum, response.total_kvs, response.total_bytes)
        });
        (got, expected)
    }
}

fn name(cf: Cf) -> String {
    match cf {
        Cf::CfLock => "lock",
        Cf::CfWrite => "write",
        _ => "",
    }
    .to_owned()
}

fn rows(pairs: Vec<KvPair>) -> Vec<(Bytes, Bytes)> {
    pairs
        .into_iter()
        .map(|pair| (pair.key, pair.value))
        .collect()
}

fn failed(failure: Failure) -> Told {
    match failure {
        Failure::Refused(_) => Told::Refused,
        Failure::Region(error) if error.key_not_in_region.is_some() => Told::NotInRegion,
        other => panic!("{other}"),
    }
}

fn kind(told: &Told) -> &'static str {
    match told {
        Told::Done => "done",
        Told::Value(None) | Told::Ttl(None) => "absent",
        Told::Value(Some(_)) => "value",
        Told::Ttl(Some(0)) => "lasting",
        Told::Ttl(Some(_)) => "ending",
        Told::Pairs(rows) if rows.is_empty() => "no rows",
        Told::Pairs(_) => "rows",
        Told::Swap { succeed: true, .. } => "swapped",
        Told::Swap { succeed: false, .. } => "not swapped",
        Told::Sum(..) => "sum",
        Told::Refused => "refused",
        Told::NotInRegion => "not in region",
    }
}

/// CRC-64/XZ by its definition: polynomial 0x42F0E1EBA9EA3693, reflected.
fn crc64_by_bits(bytes: &[u8]) -> u64 {
    let step = |crc: u64| {
        if crc & 1 == 1 {
            crc >> 1 ^ 0xc96c_5795_d787_0f42
        } else {
            crc >> 1
        }
    };
    !bytes.iter().fold(u64::MAX, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte), |crc, _| step(crc))
    })
}

#[test]
fn random_requests_do_what_the_model_does() {
    let seeds = match std::env::var("FLOTILLA_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("FLOTILLA_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..200,
    };
    let mut told: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds.clone() {
        println!("FLOTILLA_SEED={seed}");
        for mode in [KeyMode::Plain, KeyMode::Encoded] {
            let mut world = World::new(seed, mode);
            for _ in 0..400 {
                world.step();
            }
            for (kind, count) in world.told {
                *told.entry(kind).or_default() += count;
            }
        }
    }
    let runs = seeds.end - seeds.start;
    assert!(
        runs == 1 || told.len() == 12,
        "every kind of answer came: {told:?}"
    );
    assert!(
        runs == 1 || told.values().all(|count| *count > runs),
        "and often: {told:?}"
    );
}
