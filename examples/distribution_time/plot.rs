//! The plot: time over N, both on logarithmic scales.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;

use super::Row;

/// Draws the rows into an SVG file.
pub(super) fn draw(rows: &[Row], out: &Path) -> Result<()> {
    let area = SVGBackend::new(out, (800, 500)).into_drawing_area();
    draw_on(rows, &area)
        .and_then(|()| area.present().map_err(|error| anyhow!("{error}")))
        .with_context(|| format!("cannot draw {}", out.display()))
}

fn draw_on(rows: &[Row], area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<()> {
    area.fill(&WHITE)?;
    let most = rows.iter().map(|row| f64::from(row.nodes)).fold(2.0, f64::max);
    let times =
        || rows.iter().flat_map(|row| [Some(row.client_server), Some(row.peer_to_peer), row.simulated, row.real]);
    let longest = times().flatten().fold(1.0, f64::max);
    let shortest = times().flatten().fold(longest, f64::min);
    let mut chart = ChartBuilder::on(area)
        .caption("Until N nodes have the file (origin and nodes send 4 MiB/s each)", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d((1.0..most).log_scale(), (shortest / 2.0..longest * 2.0).log_scale())?;
    let number = |value: &f64| format!("{value:.0}");
    chart
        .configure_mesh()
        .x_desc("nodes N")
        .y_desc("seconds")
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .light_line_style(WHITE)
        .draw()?;
    let points = |time: fn(&Row) -> Option<f64>| {
        rows.iter().filter_map(move |row| Some((f64::from(row.nodes), time(row)?))).collect::<Vec<_>>()
    };
    let lines = [
        ("client-server bound", RED, points(|row| Some(row.client_server))),
        ("peer-to-peer bound", BLACK, points(|row| Some(row.peer_to_peer))),
        ("simulated", BLUE, points(|row| row.simulated)),
    ];
    for (name, colour, line) in lines {
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    let real = points(|row| row.real);
    if !real.is_empty() {
        let mark = |at| TriangleMarker::new(at, 7, GREEN.filled());
        chart
            .draw_series(real.into_iter().map(mark))?
            .label("real processes")
            .legend(move |(x, y)| TriangleMarker::new((x + 10, y), 7, GREEN.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    Ok(())
}
