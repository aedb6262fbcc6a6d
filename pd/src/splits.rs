//! Splits that PD asks for: the store that leads a region is told to split it at keys, until the
//! routes show regions that start there (wire, section 3.7).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use flotilla_proto::clock::Mono;
use flotilla_proto::keys::{KeyMode, leading_encoding};
use flotilla_proto::pdpb::{
    CheckPolicy, RegionHeartbeatResponse, ResponseHeader, SplitAndScatterRegionsResponse,
    SplitRegion, SplitRegionsResponse,
};

use crate::call::{Request, calls};
use crate::changes::{Done, Then, whole};
use crate::effect::{Effect, RequestToken};
use crate::leading::Leading;
use crate::limits::{
    BOUNDARY_BYTES_MAX, SPLIT_ATTEMPTS, SPLIT_ATTEMPTS_MAX, SPLIT_KEYS_MAX, SPLIT_RETRY, SPLITS_MAX,
};
use crate::records::Mod;
use crate::reply::{Answer, Cx, Refusal};
use crate::routes::before_end;
use crate::status::{Code, Status};

/// Splits under way.
#[derive(Debug, Default)]
pub(crate) struct Splits {
    jobs: BTreeMap<u64, Job>,
    started: u64,
}

/// Who wants a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A `SplitRegions`.
    Call(RequestToken),
    /// A `SplitAndScatterRegions`.
    CallAndScatter(RequestToken),
    /// A keyspace.
    Keyspace(u32),
    /// Placement rules: other ones hold behind the key.
    Rules,
}

#[derive(Debug)]
struct Job {
    wanted: Wanted,
    keys: usize,
    /// Boundaries that no region starts at yet.
    open: BTreeSet<Bytes>,
    /// Regions that start at the others.
    regions: Vec<u64>,
    /// How often the stores are told yet; `None`: as long as it takes.
    attempts: Option<u64>,
    next: Mono,
}

impl Splits {
    pub(crate) fn end(self, cx: &mut Cx<'_>) -> usize {
        let mut count = 0;
        for job in self.jobs.into_values() {
            if let Wanted::Call(token) | Wanted::CallAndScatter(token) = job.wanted {
                cx.refuse(token, Status::not_leader());
                count += 1;
            }
        }
        count
    }

    pub(crate) fn runs_for_keyspace(&self, id: u32) -> bool {
        self.jobs
            .values()
            .any(|job| job.wanted == Wanted::Keyspace(id))
    }

    pub(crate) fn runs_for_rules(&self) -> bool {
        let mut jobs = self.jobs.values();
        jobs.any(|job| job.wanted == Wanted::Rules)
    }

    pub(crate) fn full(&self) -> bool {
        self.jobs.len() >= SPLITS_MAX
    }
}

impl Leading {
    /// `SplitRegions` and `SplitAndScatterRegions`.
    pub(crate) fn split_regions(&mut self, cx: &mut Cx<'_>, token: RequestToken, request: Request) {
        let (keys, retry_limit, wanted) = match &request {
            Request::SplitRegions(split) => {
                (&split.split_keys, split.retry_limit, Wanted::Call(token))
            }
            Request::SplitAndScatterRegions(split) => (
                &split.split_keys,
                split.retry_limit,
                Wanted::CallAndScatter(token),
            ),
            _ => unreachable!("{} splits nothing", request.name()),
        };
        match self.boundaries(keys) {
            Err(refusal) => refuse_split(cx, wanted, refusal),
            Ok(_) if self.splits.full() => {
                let status = Status::new(Code::ResourceExhausted, "too many splits run already");
                cx.refuse(token, status);
            }
            // The first plain boundary decides the key mode; it must be durable before it is used.
            Ok(boundaries)
                if self.durable.cluster.mode().is_none() && !all_encoded(&boundaries) =>
            {
                self.change(cx, crate::changes::Change::Request(token, request));
            }
            Ok(boundaries) => {
                let attempts = if retry_limit == 0 {
                    SPLIT_ATTEMPTS
                } else {
                    retry_limit.min(SPLIT_ATTEMPTS_MAX)
                };
                self.start_split(cx, wanted, boundaries, Some(attempts));
            }
        }
    }

    /// Records that the cluster's keys are plain, then splits.
    pub(crate) fn plan_split_mode(
        &self,
        token: RequestToken,
        request: Request,
    ) -> (Vec<Mod>, Done) {
        let (mods, mut then) = self.decide_mode(Some(KeyMode::Plain));
        then.push(Then::Split(Box::new(request)));
        whole(token, mods, None, then)
    }

    pub(crate) fn start_split(
        &mut self,
        cx: &mut Cx<'_>,
        wanted: Wanted,
        boundaries: BTreeSet<Bytes>,
        attempts: Option<u64>,
    ) {
        self.splits.started += 1;
        let id = self.splits.started;
        let job = Job {
            wanted,
            keys: boundaries.len(),
            open: boundaries,
            regions: Vec::new(),
            attempts,
            next: cx.now,
        };
        self.splits.jobs.insert(id, job);
        self.drive_split(cx, id);
    }

    pub(crate) fn drive_splits(&mut self, cx: &mut Cx<'_>) {
        let ids: Vec<u64> = self.splits.jobs.keys().copied().collect();
        for id in ids {
            self.drive_split(cx, id);
        }
    }

    /// A region has a new range: boundaries that are there now are done, those inside it are told
    /// again, since a store drops what it was told for an older epoch.
    pub(crate) fn region_moved(&mut self, cx: &mut Cx<'_>, id: u64) {
        let Some(region) = self.routes.get(id).map(|route| route.region.clone()) else {
            return;
        };
        let concerned = |job: &Job| {
            let first = job.open.range(region.start_key.clone()..).next();
            first.is_some_and(|key| before_end(key, &region.end_key))
        };
        let jobs = self.splits.jobs.iter();
        let jobs: Vec<u64> = jobs
            .filter(|(_, job)| concerned(job))
            .map(|(id, _)| *id)
            .collect();
        for id in jobs {
            self.note_done(id);
            let Some(job) = self.splits.jobs.get(&id) else {
                continue;
            };
            if job.open.is_empty() {
                self.finish_split(cx, id);
            } else {
                let inside = job.open.range(region.start_key.clone()..);
                let inside = inside
                    .take_while(|key| before_end(key, &region.end_key))
                    .cloned()
                    .collect();
                self.instruct_split(cx, &inside);
            }
        }
    }

    /// Ends a split that is through or has had its attempts; tells the stores again when it is time.
    fn drive_split(&mut self, cx: &mut Cx<'_>, id: u64) {
        self.note_done(id);
        let Some(job) = self.splits.jobs.get_mut(&id) else {
            return;
        };
        if job.open.is_empty() || (job.attempts == Some(0) && cx.now >= job.next) {
            self.finish_split(cx, id);
        } else if cx.now >= job.next {
            job.attempts = job.attempts.map(|left| left - 1);
            job.next = cx.now + SPLIT_RETRY;
            let open = job.open.clone();
            self.instruct_split(cx, &open);
        }
    }

    fn note_done(&mut self, id: u64) {
        let Some(job) = self.splits.jobs.get_mut(&id) else {
            return;
        };
        job.open.retain(|key| match self.routes.starting_at(key) {
            Some(route) => {
                job.regions.push(route.region.id);
                false
            }
            None => true,
        });
    }

    fn instruct_split(&self, cx: &mut Cx<'_>, keys: &BTreeSet<Bytes>) {
        let mut by_region: BTreeMap<u64, Vec<Bytes>> = BTreeMap::new();
        for key in keys {
            if let Some(route) = self.routes.find(key) {
                by_region
                    .entry(route.region.id)
                    .or_default()
                    .push(key.clone());
            }
        }
        for (region, keys) in by_region {
            let Some(route) = self.routes.get(region) else {
                continue;
            };
            let Some(leader) = &route.leader else {
                continue;
            };
            let Some(stream) = self.streams.get(&leader.store_id) else {
                continue;
            };
            let split = SplitRegion {
                policy: CheckPolicy::Usekey as i32,
                keys,
            };
            let instruction = RegionHeartbeatResponse {
                header: Some(ResponseHeader {
                    cluster_id: cx.config.cluster_id,
                    error: None,
                }),
                region_id: region,
                region_epoch: route.region.region_epoch,
                target_peer: Some(*leader),
                split_region: Some(split),
                ..RegionHeartbeatResponse::default()
            };
            cx.out.push(Effect::RegionInstruction {
                stream: *stream,
                instruction: Box::new(instruction),
            });
        }
    }

    fn finish_split(&mut self, cx: &mut Cx<'_>, id: u64) {
        let Some(job) = self.splits.jobs.remove(&id) else {
            return;
        };
        let done = job.keys - job.open.len();
        let percentage = (100 * done).checked_div(job.keys).unwrap_or(0) as u64;
        match job.wanted {
            Wanted::Call(token) => {
                let response = SplitRegionsResponse {
                    finished_percentage: percentage,
                    regions_id: job.regions,
                    ..SplitRegionsResponse::default()
                };
                cx.reply::<calls::SplitRegions>(token, Ok(response));
            }
            Wanted::CallAndScatter(token) => {
                self.want_scattered(&job.regions, "");
                let response = SplitAndScatterRegionsResponse {
                    split_finished_percentage: percentage,
                    scatter_finished_percentage: 100,
                    regions_id: job.regions,
                    ..SplitAndScatterRegionsResponse::default()
                };
                cx.reply::<calls::SplitAndScatterRegions>(token, Ok(response));
            }
            Wanted::Keyspace(keyspace) => self.keyspace_split(cx, keyspace),
            // Whoever looks at its regions next sees what is left to do.
            Wanted::Rules => {}
        }
    }

    /// The boundaries that `keys` ask for. In an encoded cluster a boundary is a memcomparable
    /// encoding with nothing after it, as stores make it (wire, section 8.4).
    fn boundaries(&self, keys: &[Bytes]) -> Answer<BTreeSet<Bytes>> {
        self.check_bootstrapped()?;
        if keys.len() > SPLIT_KEYS_MAX {
            return Err(Refusal::unknown(format!(
                "{} split keys, at most {SPLIT_KEYS_MAX}",
                keys.len()
            )));
        }
        let encoded = self.durable.cluster.mode() == Some(KeyMode::Encoded);
        let mut boundaries = BTreeSet::new();
        for key in keys {
            if key.is_empty() || key.len() > BOUNDARY_BYTES_MAX {
                let text = format!(
                    "a split key has 1 to {BOUNDARY_BYTES_MAX} bytes, this one {}",
                    key.len()
                );
                return Err(Refusal::unknown(text));
            }
            match leading_encoding(key) {
                Some(length) => boundaries.insert(key.slice(..length)),
                None if encoded => {
                    let text = "this cluster's keys are encoded, and a split key is not";
                    return Err(Refusal::unknown(text));
                }
                None => boundaries.insert(key.clone()),
            };
        }
        Ok(boundaries)
    }
}

fn all_encoded(boundaries: &BTreeSet<Bytes>) -> bool {
    boundaries
        .iter()
        .all(|key| leading_encoding(key) == Some(key.len()))
}

fn refuse_split(cx: &mut Cx<'_>, wanted: Wanted, refusal: Refusal) {
    match wanted {
        Wanted::Call(token) => cx.reply::<calls::SplitRegions>(token, Err(refusal)),
        Wanted::CallAndScatter(token) => {
            cx.reply::<calls::SplitAndScatterRegions>(token, Err(refusal))
        }
        Wanted::Keyspace(_) | Wanted::Rules => {}
    }
}
