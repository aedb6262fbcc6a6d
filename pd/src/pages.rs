//! Shapes what the leader knows as PD's JSON API has it.

use flotilla_pd_plan::StoreState;
use flotilla_proto::keyspacepb::{KeyspaceMeta, KeyspaceState, keyspace_meta};
use flotilla_proto::metapb::{Peer, PeerRole, Store};
use flotilla_proto::pdpb::Member;

use crate::leading::Leading;
use crate::members;
use crate::records::KeyspaceRecord;
use crate::reply::Cx;
use crate::routes::Route;
use crate::view::{
    DownPeerView, EpochView, HeaderView, KeyspaceView, LabelView, MemberView, MembersView,
    PeerView, RegionView, StoreInfoView, StoreStatusView, StoreView,
};

impl Leading {
    pub(crate) fn store_page(&self, cx: &Cx<'_>, store: &Store) -> StoreInfoView {
        let load = self.routes.load(store.id);
        let store = self.with_report(store);
        let report = self.reports.get(&store.id);
        let state = self.store_state(cx, &store);
        let stats = report
            .map(|report| report.stats.clone())
            .unwrap_or_default();
        let start = (stats.start_time != 0).then_some(u64::from(stats.start_time));
        let heard = report.map(|report| report.wall.seconds());
        let status = StoreStatusView {
            capacity: bytes_text(stats.capacity),
            available: bytes_text(stats.available),
            used_size: bytes_text(stats.used_size),
            leader_count: load.leaders,
            leader_weight: 1.0,
            leader_size: load.leader_mib,
            region_count: load.regions,
            region_weight: 1.0,
            region_size: load.region_mib,
            start_ts: start.map(rfc3339),
            last_heartbeat_ts: heard.map(rfc3339),
            uptime: start
                .zip(heard)
                .map(|(start, heard)| duration_text(heard.saturating_sub(start))),
            leaders_evicted: self.leaders_evicted(store.id),
        };
        StoreInfoView {
            store: StoreView {
                id: store.id,
                state_name: state_name(state),
                address: store.address,
                labels: store
                    .labels
                    .into_iter()
                    .map(|label| LabelView {
                        key: label.key,
                        value: label.value,
                    })
                    .collect(),
                version: store.version,
                status_address: store.status_address,
                git_hash: store.git_hash,
                start_timestamp: store.start_timestamp,
                deploy_path: store.deploy_path,
                last_heartbeat: store.last_heartbeat,
            },
            status,
        }
    }

    pub(crate) fn members_page(&self, cx: &Cx<'_>) -> MembersView {
        let stores = self.durable.stores.values();
        let members = members::members(cx.config, stores, Some(cx.config.store_id));
        let leader = members.leader.map(member);
        MembersView {
            header: HeaderView {
                cluster_id: cx.config.cluster_id,
            },
            members: members.members.into_iter().map(member).collect(),
            etcd_leader: leader.clone(),
            leader,
        }
    }
}

fn member(member: Member) -> MemberView {
    MemberView {
        name: member.name,
        member_id: member.member_id,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        binary_version: member.binary_version,
    }
}

pub(crate) fn region(route: &Route) -> RegionView {
    let epoch = route.epoch();
    RegionView {
        id: route.region.id,
        start_key: hex(&route.region.start_key),
        end_key: hex(&route.region.end_key),
        epoch: EpochView {
            conf_ver: epoch.conf_ver,
            version: epoch.version,
        },
        peers: route.region.peers.iter().map(peer).collect(),
        leader: route.leader.as_ref().map(peer),
        down_peers: route
            .down_peers
            .iter()
            .filter_map(|down| {
                let peer = peer(down.peer.as_ref()?);
                Some(DownPeerView {
                    peer,
                    down_seconds: down.down_seconds,
                })
            })
            .collect(),
        pending_peers: route.pending_peers.iter().map(peer).collect(),
        written_bytes: route.bytes_written,
        read_bytes: route.bytes_read,
        written_keys: route.keys_written,
        read_keys: route.keys_read,
        approximate_size: route.size_mib(),
        approximate_keys: route.approximate_keys,
    }
}

fn peer(peer: &Peer) -> PeerView {
    PeerView {
        role_name: match peer.role() {
            PeerRole::Voter => "Voter",
            PeerRole::Learner => "Learner",
            PeerRole::IncomingVoter => "IncomingVoter",
            PeerRole::DemotingVoter => "DemotingVoter",
        },
        role: peer.role,
        id: peer.id,
        store_id: peer.store_id,
        is_learner: peer.role() == PeerRole::Learner,
    }
}

pub(crate) fn keyspace(id: u32, record: &KeyspaceRecord) -> KeyspaceView {
    let state = KeyspaceState::try_from(record.state).unwrap_or_default();
    KeyspaceView {
        id,
        name: record.name.clone(),
        state: state.as_str_name().to_owned(),
        created_at: record.created_at,
        state_changed_at: record.state_changed_at,
        config: record.config.clone(),
    }
}

/// A keyspace as a call has answered it.
pub(crate) fn keyspace_of(meta: &KeyspaceMeta) -> KeyspaceView {
    let id = match &meta.keyspace {
        Some(keyspace_meta::Keyspace::Id(id)) => *id,
        Some(keyspace_meta::Keyspace::KeyspaceIdentity(identity)) => identity.keyspace_id,
        None => 0,
    };
    KeyspaceView {
        id,
        name: meta.name.clone(),
        state: meta.state().as_str_name().to_owned(),
        created_at: meta.created_at,
        state_changed_at: meta.state_changed_at,
        config: meta.config.clone().into_iter().collect(),
    }
}

pub(crate) fn state_name(state: StoreState) -> &'static str {
    match state {
        StoreState::Up => "Up",
        StoreState::Disconnected => "Disconnected",
        StoreState::Down => "Down",
        StoreState::Offline => "Offline",
        StoreState::Tombstone => "Tombstone",
    }
}

/// Upper-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    let digits = |byte: &u8| [byte >> 4, byte & 0xF].map(|digit| DIGITS[usize::from(digit)]);
    bytes.iter().flat_map(digits).collect()
}

/// Four significant digits and a binary unit, such as `1.819TiB`.
fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let whole_digits = if value >= 1000.0 {
        4
    } else if value >= 100.0 {
        3
    } else if value >= 10.0 {
        2
    } else {
        1
    };
    let text = format!("{value:.*}", 4 - whole_digits);
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{}", UNITS[unit])
}

/// `1h2m3s`.
fn duration_text(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// A UTC date and time from seconds since the epoch, by the proleptic Gregorian calendar.
pub(crate) fn rfc3339(seconds: u64) -> String {
    const DAY: u64 = 24 * 3600;
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // Years start in March here, so that the leap day is the last one.
    let days = seconds / DAY + 719_468;
    let era = days / DAYS_OF_400_YEARS;
    let day_of_era = days % DAYS_OF_400_YEARS;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_dates_and_spans_read_as_pd_prints_them() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (1536, "1.5KiB"),
            (1_999_844_147_200, "1.819TiB"),
            (500 << 30, "500GiB"),
            (u64::MAX, "16EiB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
        for (seconds, text) in [
            (0, "0s"),
            (61, "1m1s"),
            (3600, "1h0m0s"),
            (90_061, "25h1m1s"),
        ] {
            assert_eq!(duration_text(seconds), text);
        }
    }
}
