//! A phase as a picture: latency by percentile above, throughput over time below.

use std::ops::Range;

use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    prelude::{
        DrawingArea, DrawingBackend, IntoDrawingArea, IntoLogRange, PathElement, SVGBackend,
    },
    series::LineSeries,
    style::{Color, IntoFont, RGBColor, WHITE},
};

use crate::{
    report::{KindReport, PhaseReport},
    table,
};

const SIZE: (u32, u32) = (960, 800);
const LATENCY_HEIGHT: u32 = 470;

/// Colours that stay apart for readers who see fewer of them (M. Okabe, K. Ito, 2002).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];
const FAILED: RGBColor = RGBColor(160, 0, 0);
const GRID: RGBColor = RGBColor(225, 225, 225);
const AXIS: RGBColor = RGBColor(90, 90, 90);
const FONT: &str = "sans-serif";

/// The picture could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw: {0}")]
pub(crate) struct DrawError(String);

impl DrawError {
    fn of(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// The phase as SVG text.
pub(crate) fn draw(title: &str, phase: &PhaseReport) -> Result<String, DrawError> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(DrawError::of)?;
        let (upper, lower) = root.split_vertically(LATENCY_HEIGHT);
        latency(&upper, title, phase)?;
        throughput(&lower, phase)?;
        root.present().map_err(DrawError::of)?;
    }
    Ok(svg)
}

/// A fraction's place on the axis: how many nines it has. 0.9 is 1, 0.99 is 2.
fn nines(fraction: f64) -> f64 {
    -(1.0 - fraction).max(1e-9).log10()
}

/// The label of a place that is a whole number of nines, or none.
fn percentile_label(nines: f64) -> String {
    match nines.round() as i32 {
        0 => "0 %".into(),
        1 => "90 %".into(),
        2 => "99 %".into(),
        more => format!(
            "99.{} %",
            "9".repeat(usize::try_from(more - 2).unwrap_or(0))
        ),
    }
}

/// A power of ten microseconds without decimals.
fn decade_label(us: u64) -> String {
    match us {
        us if us.is_multiple_of(1_000_000) => format!("{} s", us / 1_000_000),
        us if us.is_multiple_of(1_000) => format!("{} ms", us / 1_000),
        us => format!("{us} us"),
    }
}

fn latency<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    title: &str,
    phase: &PhaseReport,
) -> Result<(), DrawError> {
    let (across, up) = latency_bounds(&phase.kinds);
    let mut chart = ChartBuilder::on(area)
        .caption(
            format!("{title}: latency by percentile"),
            (FONT, 20).into_font(),
        )
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(across.clone(), up.log_scale())
        .map_err(DrawError::of)?;
    chart
        .configure_mesh()
        .x_desc("share of the operations that took at most this long")
        .x_labels(across.end.ceil() as usize + 1)
        .x_label_formatter(&|nines| percentile_label(*nines))
        .y_label_formatter(&|us| decade_label(us.round() as u64))
        .axis_style(AXIS)
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .label_style((FONT, 13).into_font())
        .draw()
        .map_err(DrawError::of)?;
    for (kind, colour) in phase.kinds.iter().zip(COLOURS.iter().cycle().copied()) {
        let Some(latency) = &kind.latency else {
            continue;
        };
        let points = latency
            .curve
            .iter()
            .map(|point| (nines(point.fraction), point.us as f64));
        let label = format!(
            "{}: p50 {}, p99 {}",
            kind.operation.name(),
            table::time(latency.p50_us),
            table::time(latency.p99_us)
        );
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))
            .map_err(DrawError::of)?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(GRID)
        .label_font((FONT, 13).into_font())
        .draw()
        .map_err(DrawError::of)
}

/// From no nines to as many as the longest curve has; whole decades around all latencies.
fn latency_bounds(kinds: &[KindReport]) -> (Range<f64>, Range<f64>) {
    let curves = kinds.iter().filter_map(|kind| kind.latency.as_ref());
    let points: Vec<_> = curves.flat_map(|latency| latency.curve.iter()).collect();
    let right = points
        .iter()
        .map(|point| nines(point.fraction))
        .fold(1.0, f64::max);
    let low = points
        .iter()
        .map(|point| point.us)
        .min()
        .unwrap_or(1)
        .max(1) as f64;
    let high = points.iter().map(|point| point.us).max().unwrap_or(10) as f64;
    let bottom = 10_f64.powf(low.log10().floor());
    let top = 10_f64.powf(high.log10().ceil()).max(bottom * 10.0);
    (0.0..right, bottom..top)
}

fn throughput<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    phase: &PhaseReport,
) -> Result<(), DrawError> {
    let peaks = phase
        .timeline
        .iter()
        .map(|point| point.per_s.max(point.failed_per_s));
    let top = peaks.fold(1.0, f64::max) * 1.1;
    let right = phase.timeline.last().map_or(1.0, |point| point.at_s);
    let caption = match phase.failed {
        0 => "operations per second over time",
        _ => "operations per second over time; in red those that failed",
    };
    let mut chart = ChartBuilder::on(area)
        .caption(caption, (FONT, 16).into_font())
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..right, 0.0..top)
        .map_err(DrawError::of)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_label_formatter(&|per_s| table::grouped(per_s.round() as u64))
        .axis_style(AXIS)
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .label_style((FONT, 13).into_font())
        .draw()
        .map_err(DrawError::of)?;
    let succeeded = phase.timeline.iter().map(|point| (point.at_s, point.per_s));
    chart
        .draw_series(LineSeries::new(succeeded, COLOURS[0].stroke_width(2)))
        .map_err(DrawError::of)?;
    if phase.failed > 0 {
        let failed = phase
            .timeline
            .iter()
            .map(|point| (point.at_s, point.failed_per_s));
        chart
            .draw_series(LineSeries::new(failed, FAILED.stroke_width(2)))
            .map_err(DrawError::of)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_labelled_by_their_nines() {
        for (fraction, expected) in [
            (0.0, "0 %"),
            (0.9, "90 %"),
            (0.99, "99 %"),
            (0.999, "99.9 %"),
            (0.9999, "99.99 %"),
        ] {
            assert_eq!(percentile_label(nines(fraction)), expected);
        }
    }

    #[test]
    fn decades_are_labelled_without_decimals() {
        for (us, expected) in [
            (1, "1 us"),
            (100, "100 us"),
            (1_000, "1 ms"),
            (100_000, "100 ms"),
            (10_000_000, "10 s"),
        ] {
            assert_eq!(decade_label(us), expected);
        }
    }

    #[test]
    fn an_axis_spans_whole_decades_even_around_nothing() {
        let (across, up) = latency_bounds(&[]);
        assert_eq!((across, up), (0.0..1.0, 1.0..10.0));
    }
}
