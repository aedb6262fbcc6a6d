//! Where in the key space how much was read and written, minute by minute, for the last day.
//!
//! In memory only, and bounded: a minute has at most [`HEAT_RANGES_MAX`] ranges of keys, those
//! without traffic cost nothing, and the oldest minutes go when all together weigh more than
//! [`HEAT_BYTES_MAX`]. Where there are more regions than ranges, cold neighbours share one.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use flotilla_proto::clock::Wall;

use crate::limits::{HEAT_BYTES_MAX, HEAT_MINUTES, HEAT_RANGES_MAX};
use crate::routes::{Route, Routes};

/// What flowed: bytes written, bytes read, keys written, keys read.
pub(crate) type Flows = [u64; 4];

/// Boundaries that a picture is drawn from at most; more are thinned out first.
const FINE_ROWS: usize = 4_096;

/// The ring.
#[derive(Debug, Default)]
pub(crate) struct Heat {
    /// By minute, the newest last; minutes without traffic are not there.
    minutes: VecDeque<Minute>,
    /// Bytes that the minutes weigh.
    weight: usize,
}

/// Where ranges start; the first at the empty key, each ends where the next one starts.
type Starts = Arc<[Box<[u8]>]>;

#[derive(Debug)]
struct Minute {
    /// Minutes since 1970.
    at: u64,
    starts: Starts,
    /// Of ranges with traffic, by their place in `starts`.
    cells: Vec<Cell>,
}

/// Four bytes per flow are enough: a picture has fewer shades.
#[derive(Clone, Copy, Debug)]
struct Cell {
    range: u16,
    flows: [f32; 4],
}

/// A picture of the ring: time from left to right, keys from top to bottom.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Picture {
    /// The first minute, since 1970.
    pub(crate) from: u64,
    /// Minutes in one column.
    pub(crate) step: u64,
    /// Where rows start.
    pub(crate) starts: Vec<Vec<u8>>,
    /// By column, then by row: what flowed in all of the column's minutes.
    pub(crate) columns: Vec<Vec<u64>>,
}

/// What of the ring is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Its place in [`Flows`].
    pub(crate) flow: usize,
    /// The last minute, since 1970.
    pub(crate) to: u64,
    /// How many, that one included.
    pub(crate) minutes: u64,
    /// At most so many columns.
    pub(crate) columns: u64,
    /// At most so many rows.
    pub(crate) rows: usize,
}

pub(crate) fn minute(wall: Wall) -> u64 {
    wall.seconds() / 60
}

impl Heat {
    /// Something flowed in the region that starts at `start`.
    pub(crate) fn add(&mut self, wall: Wall, start: &[u8], flows: Flows, routes: &Routes) {
        if flows == Flows::default() {
            return;
        }
        let at = minute(wall);
        // A clock that went back adds to the newest minute.
        if self.minutes.back().is_none_or(|newest| newest.at < at) {
            self.open(at, routes);
        }
        let Some(newest) = self.minutes.back_mut() else {
            return;
        };
        let range = place(&newest.starts, start);
        let place = newest
            .cells
            .binary_search_by_key(&range, |cell| usize::from(cell.range));
        let nth = place.unwrap_or_else(|nth| {
            let flows = [0.0; 4];
            #[expect(clippy::cast_possible_truncation, reason = "at most HEAT_RANGES_MAX")]
            let range = range as u16;
            newest.cells.insert(nth, Cell { range, flows });
            self.weight += size_of::<Cell>();
            nth
        });
        for (sum, flow) in newest.cells[nth].flows.iter_mut().zip(flows) {
            #[expect(clippy::cast_precision_loss, reason = "shades of a picture")]
            let flow = flow as f32;
            *sum += flow;
        }
    }

    /// Begins a minute with the regions as they are now.
    fn open(&mut self, at: u64, routes: &Routes) {
        let starts = starts(routes);
        let starts = match self.minutes.back() {
            Some(newest) if *newest.starts == *starts => Arc::clone(&newest.starts),
            _ => {
                self.weight += weight_of(&starts);
                starts.into()
            }
        };
        let cells = Vec::new();
        self.minutes.push_back(Minute { at, starts, cells });
        while let Some(oldest) = self.minutes.front()
            && (oldest.at + HEAT_MINUTES <= at || self.weight > HEAT_BYTES_MAX)
        {
            self.weight -= oldest.cells.len() * size_of::<Cell>();
            let next = self.minutes.get(1);
            if next.is_none_or(|next| !Arc::ptr_eq(&next.starts, &oldest.starts)) {
                self.weight -= weight_of(&oldest.starts);
            }
            self.minutes.pop_front();
        }
    }

    /// A picture of the last minutes.
    pub(crate) fn picture(&self, wanted: Wanted) -> Picture {
        let minutes = wanted.minutes.clamp(1, HEAT_MINUTES);
        let step = minutes.div_ceil(wanted.columns.max(1));
        let columns = minutes.div_ceil(step);
        // Columns begin at whole steps, so that a minute stays in its column.
        let last = wanted.to / step;
        let from = (last + 1).saturating_sub(columns) * step;
        let seen = || {
            let all = self.minutes.iter();
            all.filter(move |minute| (from..(last + 1) * step).contains(&minute.at))
        };
        let fine = thinned(seen());
        let rows = fine.len();
        let mut values = vec![0.0_f64; rows * columns as usize];
        for minute in seen() {
            let column = (minute.at - from) / step;
            let column = &mut values[column as usize * rows..][..rows];
            minute.add_to(column, &fine, wanted.flow);
        }
        let groups = grouped(&values, rows, wanted.rows);
        let starts = groups.iter().map(|first| fine[*first].to_vec()).collect();
        let columns = values.chunks(rows.max(1)).map(|column| {
            let ends = groups.iter().skip(1).copied().chain([rows]);
            let sums = groups.iter().zip(ends).map(|(first, end)| {
                let sum: f64 = column[*first..end].iter().sum();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a sum of what flowed"
                )]
                let sum = sum.round() as u64;
                sum
            });
            sums.collect()
        });
        Picture {
            from,
            step,
            starts,
            columns: columns.collect(),
        }
    }
}

impl Minute {
    /// Adds what flowed to the rows that a range shares keys with; nobody knows where in the range.
    fn add_to(&self, column: &mut [f64], rows: &[&[u8]], flow: usize) {
        for cell in &self.cells {
            let range = usize::from(cell.range);
            let first = place(rows, &self.starts[range]);
            let end = self.starts.get(range + 1).map_or(rows.len(), |end| {
                rows.partition_point(|start| *start < end.as_ref())
            });
            let end = end.max(first + 1);
            #[expect(clippy::cast_precision_loss, reason = "at most FINE_ROWS")]
            let share = f64::from(cell.flows[flow]) / (end - first) as f64;
            column[first..end].iter_mut().for_each(|sum| *sum += share);
        }
    }
}

/// The range that has `key`.
fn place<S: AsRef<[u8]>>(starts: &[S], key: &[u8]) -> usize {
    let after = starts.partition_point(|start| start.as_ref() <= key);
    after.saturating_sub(1)
}

fn weight_of(starts: &[Box<[u8]>]) -> usize {
    let keys = starts.iter().map(|start| size_of_val(start) + start.len());
    keys.sum()
}

/// Where the ranges of a new minute start: every region has its own, or the busiest do.
fn starts(routes: &Routes) -> Vec<Box<[u8]>> {
    let flow = |route: &Route| route.bytes_written.saturating_add(route.bytes_read);
    let weights = routes.all().map(flow);
    #[expect(clippy::cast_precision_loss, reason = "weights")]
    let weights: Vec<f64> = weights.map(|flow| flow as f64).collect();
    let firsts = cut(&weights, HEAT_RANGES_MAX);
    let mut firsts = firsts.into_iter().peekable();
    let mut starts: Vec<Box<[u8]>> = Vec::new();
    for (nth, route) in routes.all().enumerate() {
        if firsts.next_if_eq(&nth).is_some() {
            starts.push(route.region.start_key.as_ref().into());
        }
    }
    // Keys before the first region that is known.
    if starts.first().is_none_or(|first| !first.is_empty()) {
        starts.insert(0, Box::default());
    }
    starts.truncate(HEAT_RANGES_MAX);
    starts
}

/// All places where ranges start, thinned out evenly to [`FINE_ROWS`].
fn thinned<'a>(minutes: impl Iterator<Item = &'a Minute>) -> Vec<&'a [u8]> {
    let mut all: BTreeSet<&[u8]> = BTreeSet::from([&[][..]]);
    let mut last: Option<&Starts> = None;
    for minute in minutes {
        if last.is_none_or(|last| !Arc::ptr_eq(last, &minute.starts)) {
            all.extend(minute.starts.iter().map(AsRef::as_ref));
        }
        last = Some(&minute.starts);
    }
    let every = all.len().div_ceil(FINE_ROWS);
    all.into_iter().step_by(every.max(1)).collect()
}

/// The first of each group of rows that are shown as one.
fn grouped(values: &[f64], rows: usize, most: usize) -> Vec<usize> {
    let mut weights = vec![0.0; rows];
    for column in values.chunks(rows.max(1)) {
        weights
            .iter_mut()
            .zip(column)
            .for_each(|(sum, value)| *sum += value);
    }
    cut(&weights, most)
}

/// Puts neighbours together until at most `most` groups are left: the first of each. What weighs
/// much stays alone; of the rest each group has about the same number.
fn cut(weights: &[f64], most: usize) -> Vec<usize> {
    if weights.len() <= most {
        return (0..weights.len()).collect();
    }
    let most = most.max(2);
    let total: f64 = weights.iter().sum();
    #[expect(clippy::cast_precision_loss, reason = "weights")]
    let (count, most) = (weights.len() as f64, most as f64);
    let each = if total > 0.0 { total / count } else { 1.0 };
    // Half of the weight is that of the traffic, half that of being there: a group that is full, or
    // ends before a heavy one, has at least this.
    let full = 2.0 * 2.0 * each * count / (most - 1.0);
    let (mut firsts, mut held) = (vec![0], 0.0);
    for (nth, weight) in weights.iter().enumerate() {
        let weight = each + weight;
        if nth > 0 && (held >= full || (weight >= full && held > 0.0)) {
            firsts.push(nth);
            held = 0.0;
        }
        held += weight;
    }
    firsts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::tests::route;
    use flotilla_proto::clock::Mono;

    const BYTES_WRITTEN: usize = 0;

    /// `count` regions of one digit width each, all of one epoch.
    fn regions(count: usize) -> Routes {
        let key = |nth: usize| {
            if nth == 0 || nth == count {
                String::new()
            } else {
                format!("{nth:05}")
            }
        };
        let mut routes = Routes::new();
        for nth in 0..count {
            let id = nth as u64 + 10;
            routes.report(route(id, 1, &key(nth), &key(nth + 1)), Mono(0));
        }
        routes
    }

    fn at(minute: u64) -> Wall {
        Wall(minute * 60_000)
    }

    fn written(bytes: u64) -> Flows {
        [bytes, 0, 0, 0]
    }

    fn all(to: u64, minutes: u64) -> Wanted {
        Wanted {
            flow: BYTES_WRITTEN,
            to,
            minutes,
            columns: 1_440,
            rows: 512,
        }
    }

    #[test]
    fn what_flows_is_found_at_its_time_and_key() {
        let (mut heat, routes) = (Heat::default(), regions(3));
        heat.add(at(100), b"", written(5), &routes);
        heat.add(at(100), b"00002", written(7), &routes);
        heat.add(at(102), b"00001", written(1), &routes);
        heat.add(at(102), b"00001", written(1), &routes);
        heat.add(at(102), b"00002", [0, 9, 0, 0], &routes);
        let picture = heat.picture(all(102, 4));
        assert_eq!((picture.from, picture.step), (99, 1));
        assert_eq!(picture.starts, [&b""[..], b"00001", b"00002"]);
        let expected = [[0, 0, 0], [5, 0, 7], [0, 0, 0], [0, 2, 0]];
        assert_eq!(picture.columns, expected);
        let read = heat.picture(Wanted {
            flow: 1,
            ..all(102, 1)
        });
        assert_eq!(read.columns, [[0, 0, 9]]);
        // A clock that went back.
        heat.add(at(1), b"", written(1), &routes);
        assert_eq!(heat.picture(all(102, 1)).columns, [[1, 2, 0]]);
    }

    #[test]
    fn minutes_share_a_column_where_there_are_too_many() {
        let (mut heat, routes) = (Heat::default(), regions(2));
        for minute in 100..110 {
            heat.add(at(minute), b"", written(minute), &routes);
        }
        let picture = heat.picture(Wanted {
            columns: 2,
            ..all(109, 10)
        });
        assert_eq!((picture.from, picture.step), (100, 5));
        assert_eq!(picture.columns, [[510, 0], [535, 0]]);
    }

    /// What flowed before a split is spread over the rows of after it, and none of it is lost.
    #[test]
    fn a_split_makes_rows_of_the_minutes_before_it_too() {
        let (mut heat, mut routes) = (Heat::default(), regions(1));
        heat.add(at(1), b"", written(10), &routes);
        routes.report(route(20, 2, "m", ""), Mono(0));
        routes.report(route(10, 2, "", "m"), Mono(0));
        heat.add(at(2), b"m", written(4), &routes);
        let picture = heat.picture(all(2, 2));
        assert_eq!(picture.starts, [&b""[..], b"m"]);
        assert_eq!(picture.columns, [[5, 5], [0, 4]]);
    }

    #[test]
    fn rows_are_bounded_and_the_hot_one_stays_alone() {
        let (mut heat, routes) = (Heat::default(), regions(5_000));
        heat.add(at(1), b"02500", written(1_000_000), &routes);
        heat.add(at(1), b"00007", written(3), &routes);
        // Ranges follow the traffic of the minute before: this one does not know yet.
        assert!(heat.minutes[0].starts.len() <= HEAT_RANGES_MAX);
        for rows in [2, 16, 100, 512] {
            let picture = heat.picture(Wanted { rows, ..all(1, 1) });
            assert!(
                picture.starts.len() <= rows,
                "{} rows",
                picture.starts.len()
            );
            let total: u64 = picture.columns[0].iter().sum();
            assert_eq!(total, 1_000_003, "{rows} rows");
        }
        let mut weights = vec![0.0; 5_000];
        weights[2_500] = 1_000_000.0;
        let firsts = cut(&weights, 100);
        assert!(firsts.len() <= 100, "{} groups", firsts.len());
        assert!(firsts.contains(&2_500) && firsts.contains(&2_501));
    }

    /// A day of the busiest traffic over keys that move all the time.
    #[test]
    fn the_ring_weighs_no_more_than_it_may() {
        let mut heat = Heat::default();
        let crowds = [regions(512), regions(511)];
        for minute in 0..2 * HEAT_MINUTES {
            let routes = &crowds[usize::try_from(minute).unwrap() % 2];
            for nth in (0..512).step_by(7) {
                let start = if nth == 0 {
                    String::new()
                } else {
                    format!("{nth:05}")
                };
                heat.add(at(minute), start.as_bytes(), [1; 4], routes);
            }
            assert!(heat.weight <= HEAT_BYTES_MAX + 64 * 1024, "{}", heat.weight);
        }
        assert!(heat.minutes.len() as u64 <= HEAT_MINUTES);
        let mut counted = 0;
        let mut before: Option<&Starts> = None;
        for minute in &heat.minutes {
            counted += minute.cells.len() * size_of::<Cell>();
            if before.is_none_or(|before| !Arc::ptr_eq(before, &minute.starts)) {
                counted += weight_of(&minute.starts);
            }
            before = Some(&minute.starts);
        }
        assert_eq!(counted, heat.weight);
    }
}
