//! The growth of each cost as a picture: three logarithmic panels, against processes, history and
//! hosts.
//!
//! Colours are legible on light and on dark pages; the background is the page's.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// One point of a curve: the cost at a size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) cost: String,
    /// `processes`, `history` or `hosts`.
    pub(crate) axis: String,
    pub(crate) size: f64,
    pub(crate) nanoseconds: f64,
}

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const TOP: f64 = 34.0;
const RIGHT: f64 = 110.0;
const COLOURS: [&str; 6] = ["#3987e5", "#d95926", "#199e70", "#c98500", "#9085e9", "#d55181"];
const INK: &str = "#808080";

/// One panel: its costs over its axis.
struct Panel<'a> {
    points: Vec<&'a Point>,
    left: f64,
    /// Decades of nanoseconds.
    low: f64,
    high: f64,
    /// Decades of the size; a size of zero is placed at the left edge.
    widest: f64,
}

/// The label at the end of a line.
struct Label<'a> {
    x: f64,
    y: f64,
    cost: &'a str,
    color: &'a str,
}

pub(crate) fn draw(points: &[Point]) -> String {
    let total = 3.0 * (LEFT + WIDTH + RIGHT);
    let height = TOP + HEIGHT + 50.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {total} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" role=\"img\" \
         aria-label=\"Cost of each operation against the number of processes, the length of the history and the number of hosts\">\n"
    );
    let titles = [
        ("processes", "tracked processes"),
        ("history", "rows of history"),
        ("hosts", "hosts that write to one ledger"),
    ];
    for (index, (axis, title)) in titles.into_iter().enumerate() {
        let left = LEFT + index as f64 * (LEFT + WIDTH + RIGHT);
        let of_axis: Vec<&Point> = points.iter().filter(|point| point.axis == axis).collect();
        if !of_axis.is_empty() {
            Panel::new(of_axis, left, points).draw(&mut svg, title);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

impl<'a> Panel<'a> {
    fn new(points: Vec<&'a Point>, left: f64, all: &[Point]) -> Self {
        let decades = || all.iter().map(|point| point.nanoseconds.log10());
        let low = decades().fold(f64::INFINITY, f64::min).floor();
        let high = decades().fold(f64::NEG_INFINITY, f64::max).ceil();
        let widest = points.iter().map(|point| point.size.max(1.0).log10()).fold(1.0, f64::max);
        Self { points, left, low, high, widest }
    }

    fn x(&self, size: f64) -> f64 {
        self.left + size.max(1.0).log10() / self.widest * WIDTH
    }

    fn y(&self, nanoseconds: f64) -> f64 {
        TOP + HEIGHT * (1.0 - (nanoseconds.log10() - self.low) / (self.high - self.low))
    }

    fn draw(&self, svg: &mut String, title: &str) {
        self.grid(svg, title);
        let mut costs: Vec<&str> = Vec::new();
        for point in &self.points {
            if !costs.contains(&point.cost.as_str()) {
                costs.push(&point.cost);
            }
        }
        let named = costs.into_iter().zip(COLOURS);
        let mut labels: Vec<Label<'_>> =
            named.filter_map(|(cost, color)| self.curve(svg, cost, color)).collect();
        // From the bottom up: a label that would overlap another one moves up, and the order stays
        // that of the lines.
        labels.sort_by(|a, b| b.y.total_cmp(&a.y));
        let mut limit = f64::INFINITY;
        for Label { x, y, cost, color } in labels {
            limit = (y + 4.0).min(limit);
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{limit:.1}\" fill=\"{color}\">{cost}</text>",
                x + 8.0
            );
            limit -= 13.0;
        }
    }

    fn grid(&self, svg: &mut String, title: &str) {
        let right = self.left + WIDTH;
        let mut decade = self.low;
        while decade <= self.high {
            let y = self.y(10_f64.powf(decade));
            let _ = writeln!(
                svg,
                "<path d=\"M{} {y:.1}H{right}\" stroke=\"{INK}\" stroke-opacity=\"0.25\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{INK}\">{}</text>",
                self.left,
                self.left - 8.0,
                y + 4.0,
                time(decade)
            );
            decade += 1.0;
        }
        let mut sizes: Vec<f64> = self.points.iter().map(|point| point.size).collect();
        sizes.sort_by(f64::total_cmp);
        sizes.dedup();
        for size in sizes {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"{INK}\">{}</text>",
                self.x(size),
                TOP + HEIGHT + 18.0,
                short(size)
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" fill=\"{INK}\" font-weight=\"600\">{title}</text>",
            self.left,
            TOP - 14.0
        );
    }

    fn curve<'c>(&self, svg: &mut String, cost: &'c str, color: &'c str) -> Option<Label<'c>> {
        let of_cost = self.points.iter().filter(|point| point.cost == cost);
        let places: Vec<(f64, f64)> =
            of_cost.map(|point| (self.x(point.size), self.y(point.nanoseconds))).collect();
        let line: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        for (x, y) in &places {
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>");
        }
        places.last().map(|&(x, y)| Label { x, y, cost, color })
    }
}

fn time(decade: f64) -> String {
    let (unit, below) = match decade as i32 {
        ..3 => ("ns", 0),
        3..6 => ("µs", 3),
        6..9 => ("ms", 6),
        _ => ("s", 9),
    };
    format!("{} {unit}", 10_i64.pow((decade as i32 - below).max(0).cast_unsigned()))
}

fn short(size: f64) -> String {
    match size {
        ..1e3 => format!("{size}"),
        ..1e6 => format!("{} k", size / 1e3),
        _ => format!("{} M", size / 1e6),
    }
}
