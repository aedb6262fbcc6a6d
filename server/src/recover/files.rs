//! The two files that travel between machines: what a store holds, and what is to be done.

use std::path::Path;

use anyhow::{Context, bail};
use bytes::Bytes;
use flotilla_proto::metapb::{Peer, PeerRole, Region, RegionEpoch};
use flotilla_raftstore::recover::{Choice, LogEnd, Replica, Survivor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Of both files; a higher number is refused.
const FORMAT: u32 = 1;

/// What one stopped store holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Report {
    /// See [`FORMAT`].
    pub(super) format: u32,
    /// Whose store it is.
    pub(super) cluster: u64,
    pub(super) store: u64,
    /// Its replicas.
    pub(super) replicas: Vec<ReplicaRecord>,
    /// Addresses of stores, as its replica of the meta region knows them.
    pub(super) stores: Vec<StoreRecord>,
}

/// Where a store listened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreRecord {
    pub(super) id: u64,
    pub(super) address: String,
}

/// One replica.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplicaRecord {
    region: RegionRecord,
    peer: u64,
    term: u64,
    commit: u64,
    last: LogEndRecord,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogEndRecord {
    term: u64,
    index: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegionRecord {
    id: u64,
    /// Hexadecimal.
    start: String,
    end: String,
    version: u64,
    conf_ver: u64,
    peers: Vec<PeerRecord>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerRecord {
    id: u64,
    store: u64,
    role: String,
}

/// What the survivors are to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanFile {
    /// See [`FORMAT`].
    pub(super) format: u32,
    /// Names the plan: it is carried out once on each store.
    pub(super) id: String,
    pub(super) cluster: u64,
    /// Stores whose reports it was made from.
    pub(super) survivors: Vec<u64>,
    /// Stores that must never come back.
    pub(super) lost: Vec<u64>,
    pub(super) forced: Vec<ChoiceRecord>,
}

/// A region that goes on with one replica.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChoiceRecord {
    region: RegionRecord,
    peer: u64,
    last: LogEndRecord,
    commit: u64,
    term: u64,
    /// Ranges beside it that nobody has, hexadecimal: from, to.
    takes: Vec<(String, String)>,
}

impl Report {
    pub(super) fn new(cluster: u64, store: u64, replicas: &[Replica]) -> Self {
        let replicas = replicas.iter().map(|replica| ReplicaRecord {
            region: (&replica.region).into(),
            peer: replica.peer.id,
            term: replica.term,
            commit: replica.commit,
            last: replica.last.into(),
        });
        Self {
            format: FORMAT,
            cluster,
            store,
            replicas: replicas.collect(),
            stores: Vec::new(),
        }
    }

    pub(super) fn survivor(&self) -> anyhow::Result<Survivor> {
        let replica = |record: &ReplicaRecord| {
            let region = record.region.region()?;
            Ok(Replica {
                peer: peer_of(&region, record.peer)?,
                region,
                term: record.term,
                commit: record.commit,
                last: record.last.end(),
            })
        };
        Ok(Survivor {
            store: self.store,
            cluster: self.cluster,
            replicas: self
                .replicas
                .iter()
                .map(replica)
                .collect::<anyhow::Result<_>>()?,
        })
    }
}

impl PlanFile {
    pub(super) fn new(
        plan: &flotilla_raftstore::recover::Plan,
        survivors: &[Survivor],
        id: String,
    ) -> Self {
        let forced = plan.forced.iter().map(|choice| ChoiceRecord {
            region: (&choice.region).into(),
            peer: choice.peer.id,
            last: choice.last.into(),
            commit: choice.commit,
            term: choice.term,
            takes: choice
                .takes
                .iter()
                .map(|(start, end)| (to_hex(start), to_hex(end)))
                .collect(),
        });
        Self {
            format: FORMAT,
            id,
            cluster: plan.cluster,
            survivors: survivors.iter().map(|survivor| survivor.store).collect(),
            lost: plan.lost.clone(),
            forced: forced.collect(),
        }
    }

    pub(super) fn choices(&self) -> anyhow::Result<Vec<Choice>> {
        let choice = |record: &ChoiceRecord| {
            let region = record.region.region()?;
            let take = |(start, end): &(String, String)| Ok((from_hex(start)?, from_hex(end)?));
            Ok(Choice {
                peer: peer_of(&region, record.peer)?,
                region,
                last: record.last.end(),
                commit: record.commit,
                term: record.term,
                // For people; the table was printed when the plan was made.
                lost_voters: 0,
                undecided: 0,
                takes: record
                    .takes
                    .iter()
                    .map(take)
                    .collect::<anyhow::Result<_>>()?,
            })
        };
        self.forced.iter().map(choice).collect()
    }
}

fn peer_of(region: &Region, id: u64) -> anyhow::Result<Peer> {
    let found = region.peers.iter().find(|peer| peer.id == id);
    found
        .copied()
        .with_context(|| format!("region {} has no peer {id}", region.id))
}

impl From<LogEnd> for LogEndRecord {
    fn from(LogEnd { term, index }: LogEnd) -> Self {
        Self { term, index }
    }
}

impl LogEndRecord {
    fn end(&self) -> LogEnd {
        LogEnd {
            term: self.term,
            index: self.index,
        }
    }
}

impl From<&Region> for RegionRecord {
    fn from(region: &Region) -> Self {
        let epoch = region.region_epoch.unwrap_or_default();
        let peers = region.peers.iter().map(|peer| PeerRecord {
            id: peer.id,
            store: peer.store_id,
            role: peer.role().as_str_name().to_owned(),
        });
        Self {
            id: region.id,
            start: to_hex(&region.start_key),
            end: to_hex(&region.end_key),
            version: epoch.version,
            conf_ver: epoch.conf_ver,
            peers: peers.collect(),
        }
    }
}

impl RegionRecord {
    fn region(&self) -> anyhow::Result<Region> {
        let peer = |record: &PeerRecord| {
            let role = PeerRole::from_str_name(&record.role);
            let role = role.with_context(|| format!("{:?} is no role of a peer", record.role))?;
            Ok(Peer {
                id: record.id,
                store_id: record.store,
                role: role.into(),
                ..Peer::default()
            })
        };
        Ok(Region {
            id: self.id,
            start_key: from_hex(&self.start)?,
            end_key: from_hex(&self.end)?,
            region_epoch: Some(RegionEpoch {
                version: self.version,
                conf_ver: self.conf_ver,
            }),
            peers: self.peers.iter().map(peer).collect::<anyhow::Result<_>>()?,
            ..Region::default()
        })
    }
}

pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> anyhow::Result<Bytes> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        bail!("{text:?} is no key in hexadecimal");
    }
    let byte = |pair: &[u8]| {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let (high, low) = digit(pair[0]).zip(digit(pair[1]))?;
        u8::try_from(high << 4 | low).ok()
    };
    let bytes: Option<Vec<u8>> = digits.chunks_exact(2).map(byte).collect();
    let bytes = bytes.with_context(|| format!("{text:?} is no key in hexadecimal"))?;
    Ok(bytes.into())
}

/// Reads one of the two files.
pub(super) fn read<T: DeserializeOwned>(path: &Path, what: &str) -> anyhow::Result<T> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let Format { format } =
        serde_json::from_str(&text).with_context(|| format!("{name} is not {what}"))?;
    if format > FORMAT {
        bail!("{name} was written by a newer version of this program: use that one");
    }
    serde_json::from_str(&text).with_context(|| format!("{name} is not {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica() -> Replica {
        let peer = |id, store_id, role: PeerRole| Peer {
            id,
            store_id,
            role: role.into(),
            ..Peer::default()
        };
        Replica {
            region: Region {
                id: 3,
                start_key: Bytes::from_static(b"\x00\xff"),
                region_epoch: Some(RegionEpoch {
                    version: 7,
                    conf_ver: 9,
                }),
                peers: vec![
                    peer(4, 1, PeerRole::Voter),
                    peer(5, 2, PeerRole::DemotingVoter),
                ],
                ..Region::default()
            },
            peer: peer(5, 2, PeerRole::DemotingVoter),
            term: 8,
            commit: 11,
            last: LogEnd { term: 8, index: 12 },
        }
    }

    #[test]
    fn a_report_comes_back_as_it_was_made() {
        let report = Report::new(u64::MAX, 2, &[replica()]);
        let text = serde_json::to_string(&report).expect("plain data");
        let back: Report = serde_json::from_str(&text).expect("as written");
        let survivor = back.survivor().expect("valid");
        assert_eq!((survivor.cluster, survivor.store), (u64::MAX, 2));
        assert_eq!(survivor.replicas, [replica()]);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for (text, expected) in [
            ("", Some(&b""[..])),
            ("00ff", Some(b"\x00\xff")),
            ("0", None),
            ("0g", None),
            ("\u{e9}\u{e9}", None),
        ] {
            let found = from_hex(text).ok();
            assert_eq!(found.as_deref(), expected, "{text:?}");
        }
    }
}
