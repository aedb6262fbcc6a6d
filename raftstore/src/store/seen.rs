//! Which peers of a region a store has ever had: ids are never used twice (contracts: C7, C33).

use dashmap::DashMap;
use flotilla_proto::store::ApplyRecord;

/// The newest peer of each region that this store has had, by region.
///
/// Known to all machines, because a split is decided where it is applied and a peer is made where a
/// message arrives. An entry is made before the state batch that speaks of it is written, and its
/// id never falls.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    newest: DashMap<u64, Newest>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    peer: u64,
    /// It has ended, or is about to.
    ended: bool,
    /// The last it knew to be committed when it ended, if that is remembered.
    known: Option<ApplyRecord>,
}

impl Seen {
    /// `peer` of `region` lives here, or did until the last stop.
    pub(crate) fn lives(&self, region: u64, peer: u64) {
        let mut newest = self.newest.entry(region).or_default();
        if peer > newest.peer {
            *newest = Newest {
                peer,
                ..Newest::default()
            };
        }
    }

    /// `peer` of `region` ends here; no peer up to this id will live here again.
    pub(crate) fn ends(&self, region: u64, peer: u64) {
        let mut newest = self.newest.entry(region).or_default();
        if peer >= newest.peer {
            let known = newest.known.filter(|_| peer == newest.peer);
            *newest = Newest {
                peer,
                ended: true,
                known,
            };
        }
    }

    /// As [`Seen::ends`]; everything up to `known` is committed.
    pub(crate) fn ends_knowing(&self, region: u64, peer: u64, known: ApplyRecord) {
        self.ends(region, peer);
        if let Some(mut newest) = self.newest.get_mut(&region)
            && newest.peer == peer
        {
            newest.known = Some(known);
        }
    }

    /// What the peer of `region` knew to be committed that has ended here.
    pub(crate) fn known_at_the_end(&self, region: u64) -> Option<ApplyRecord> {
        let newest = self.newest.get(&region)?;
        newest.known.filter(|_| newest.ended)
    }

    /// Whether `peer` of `region` may be made here, or is the one that lives.
    pub(crate) fn allows(&self, region: u64, peer: u64) -> bool {
        self.newest
            .get(&region)
            .is_none_or(|newest| peer > newest.peer || (peer == newest.peer && !newest.ended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_lives_once_and_never_below_a_newer_one() {
        let seen = Seen::default();
        let allowed = |peers: [u64; 3]| peers.map(|peer| seen.allows(7, peer));
        assert_eq!(allowed([1, 2, 3]), [true, true, true]);
        seen.lives(7, 2);
        assert_eq!(allowed([1, 2, 3]), [false, true, true]);
        seen.ends(7, 2);
        assert_eq!(allowed([1, 2, 3]), [false, false, true]);
        seen.lives(7, 2);
        assert_eq!(allowed([1, 2, 3]), [false, false, true], "it stays ended");
        seen.ends(7, 1);
        seen.lives(7, 3);
        assert_eq!(allowed([2, 3, 4]), [false, true, true]);
    }

    #[test]
    fn what_the_newest_knew_is_told_once_it_has_ended() {
        let seen = Seen::default();
        let record = |index| ApplyRecord { index, term: 6 };
        let check = |expected| assert_eq!(seen.known_at_the_end(7), expected);
        check(None);
        seen.lives(7, 2);
        check(None);
        seen.ends_knowing(7, 2, record(8));
        check(Some(record(8)));
        seen.ends(7, 2);
        check(Some(record(8)));
        seen.ends_knowing(7, 1, record(7));
        check(Some(record(8)));
        seen.lives(7, 3);
        check(None);
        seen.ends(7, 3);
        check(None);
    }
}
