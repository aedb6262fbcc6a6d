//! Figures as text for people.

use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use crate::report::{KindReport, PhaseReport, ServerReport, ServerShares};

/// Latencies of several phases, a row per kind of operation.
pub(crate) fn latencies(phases: &[(&str, &PhaseReport)]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    let header = [
        "phase",
        "operation",
        "count",
        "per second",
        "p50",
        "p95",
        "p99",
        "max",
        "failed",
    ];
    table.set_header(
        header
            .iter()
            .enumerate()
            .map(|(at, title)| aligned(at, (*title).into())),
    );
    for (name, phase) in phases {
        for kind in &phase.kinds {
            let cells = row(name, phase, kind);
            table.add_row(
                cells
                    .into_iter()
                    .enumerate()
                    .map(|(at, text)| aligned(at, text)),
            );
        }
    }
    table
}

/// Names to the left, figures to the right.
fn aligned(column: usize, text: String) -> Cell {
    let alignment = if column < 2 {
        CellAlignment::Left
    } else {
        CellAlignment::Right
    };
    Cell::new(text).set_alignment(alignment)
}

fn row(name: &str, phase: &PhaseReport, kind: &KindReport) -> [String; 9] {
    let latency = |pick: fn(&crate::report::LatencyReport) -> u64| {
        kind.latency
            .as_ref()
            .map_or_else(|| "-".into(), |latency| time(pick(latency)))
    };
    let per_s = if phase.elapsed_s > 0.0 {
        kind.count as f64 / phase.elapsed_s
    } else {
        0.0
    };
    let failed: u64 = kind.errors.iter().map(|error| error.count).sum();
    [
        name.into(),
        kind.operation.name().into(),
        grouped(kind.count),
        grouped(per_s.round() as u64),
        latency(|latency| latency.p50_us),
        latency(|latency| latency.p95_us),
        latency(|latency| latency.p99_us),
        latency(|latency| latency.max_us),
        grouped(failed),
    ]
}

/// One line on a whole phase.
pub(crate) fn summary(phase: &PhaseReport) -> String {
    let per_s = grouped(phase.throughput_per_s.round() as u64);
    let operations = grouped(phase.operations);
    let mut line = format!(
        "{operations} operations in {:.2} s, {per_s}/s",
        phase.elapsed_s
    );
    if phase.failed > 0 {
        line += &format!(", {} failed", grouped(phase.failed));
    }
    if let Some(cpu) = phase.driver_cpu_us_per_operation {
        line += &format!(", driver CPU {cpu:.1} us per operation");
    }
    if let Some(reason) = &phase.stopped {
        line += &format!(", given up: {reason}");
    }
    line
}

/// What the server did per operation and per write.
pub(crate) fn server(server: &ServerReport) -> String {
    if let Some(reason) = &server.unavailable {
        return format!("server counters not available: {reason}");
    }
    let shares = |what: &str, shares: Option<ServerShares>| {
        let shares = shares?;
        let figures = [
            (shares.log_syncs, "fsyncs"),
            (shares.log_batches, "log batches"),
            (shares.log_entries, "log entries"),
            (shares.log_bytes, "log bytes"),
            (shares.cpu_us, "us server CPU"),
            (shares.peer_messages, "raft messages"),
        ];
        let known = figures
            .into_iter()
            .filter_map(|(value, name)| Some((value?, name)));
        let list: Vec<_> = known
            .map(|(value, name)| format!("{} {name}", figure(value)))
            .collect();
        Some(format!("per {what}: {}", list.join(", ")))
    };
    // Where every operation writes, once is enough.
    let mixed = server.per_operation != server.per_write;
    let bulks = server
        .messages_per_bulk
        .map(|messages| format!("{} raft messages a bulk", figure(messages)));
    let lines = [
        shares("operation", server.per_operation.filter(|_| mixed)),
        shares("write", server.per_write),
        bulks,
    ];
    let lines: Vec<_> = lines.into_iter().flatten().collect();
    if lines.is_empty() {
        "server: no operation succeeded".into()
    } else {
        lines.join("; ")
    }
}

/// One line per kind of error.
pub(crate) fn errors(phase: &PhaseReport) -> Vec<String> {
    let kinds = phase
        .kinds
        .iter()
        .flat_map(|kind| kind.errors.iter().map(move |error| (kind, error)));
    kinds
        .map(|(kind, error)| {
            let count = grouped(error.count);
            let (operation, error_kind) = (kind.operation.name(), &error.kind);
            let example = &error.example;
            format!("{operation} failed {count} times with {error_kind}, first: {example}")
        })
        .collect()
}

/// A number with a comma every three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three significant digits in the unit that suits.
pub(crate) fn time(us: u64) -> String {
    let us = us as f64;
    let (value, unit) = match us {
        us if us < 1e3 => (us, "us"),
        us if us < 1e6 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    match value {
        _ if unit == "us" => format!("{value:.0} us"),
        value if value < 10.0 => format!("{value:.2} {unit}"),
        value if value < 100.0 => format!("{value:.1} {unit}"),
        value => format!("{value:.0} {unit}"),
    }
}

fn figure(value: f64) -> String {
    match value {
        value if value < 1.0 => format!("{value:.4}"),
        value if value < 100.0 => format!("{value:.2}"),
        value => grouped(value.round() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (123_456, "123,456"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), expected);
        }
    }

    #[test]
    fn times_have_the_unit_that_suits() {
        for (us, expected) in [
            (1, "1 us"),
            (999, "999 us"),
            (1_000, "1.00 ms"),
            (12_345, "12.3 ms"),
            (123_456, "123 ms"),
            (1_234_567, "1.23 s"),
            (12_345_678, "12.3 s"),
        ] {
            assert_eq!(time(us), expected);
        }
    }
}
