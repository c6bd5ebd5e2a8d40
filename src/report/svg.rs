//! Line charts as inline SVG: axes with round ticks, a legend, and a title under the pointer.
//!
//! Colours are CSS classes (`s0`, `s1`, `s2`), so that the page's dark scheme reaches them. A value that
//! is not finite leaves a gap. Next: `html`, which places the charts.

use maud::{Markup, html};

use super::format::{compact, digits, printable};

pub(super) const WIDTH: f64 = 440.0;
pub(super) const HEIGHT: f64 = 220.0;
pub(super) const LEFT: f64 = 48.0;
pub(super) const RIGHT: f64 = 14.0;
pub(super) const TOP: f64 = 14.0;
pub(super) const BOTTOM: f64 = 28.0;
/// Most points of a path: more than a chart has pixels helps nobody.
const MOST_POINTS: usize = 400;
/// Most places that show a value under the pointer.
const MOST_TITLES: usize = 80;

/// One line of a chart.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its CSS class: `s0` (main), `s1` (second), `raw` (faint, without legend).
    pub class: &'static str,
    /// The points of the line: step and value.
    pub points: Vec<(f64, f64)>,
}

/// Maps steps and values to places in the drawing.
struct Scale {
    x: (f64, f64),
    y: (f64, f64),
}

impl Scale {
    fn x_at(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y_at(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - (y - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - TOP - BOTTOM)
    }
}

/// A chart of `series` over steps.
pub fn chart(title: &str, series: &[Series]) -> Markup {
    let all: Vec<(f64, f64)> = series.iter().flat_map(finite).collect();
    html! {
        figure {
            figcaption { span { (printable(title)) } (legend(series)) }
            @if all.is_empty() {
                p.none { "no values yet" }
            } @else {
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label={ (printable(title)) " over steps" } {
                    (drawing(series, &all))
                }
            }
        }
    }
}

fn finite(series: &Series) -> Vec<(f64, f64)> {
    series.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
}

/// Grid, axis and lines; `all` are the points of all lines, at least one.
fn drawing(series: &[Series], all: &[(f64, f64)]) -> Markup {
    let scale = Scale { x: span(all.iter().map(|p| p.0), 0.0), y: span(all.iter().map(|p| p.1), 0.06) };
    let base = HEIGHT - BOTTOM;
    let single = all.iter().all(|p| p.0 == all[0].0);
    let x_ticks = if single { vec![all[0].0] } else { ticks(scale.x.0, scale.x.1, 5) };
    html! {
        @for tick in ticks(scale.y.0, scale.y.1, 5) {
            @let y = scale.y_at(tick);
            line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(tenth(y)) y2=(tenth(y)) {}
            text.y x=(LEFT - 7.0) y=(tenth(y + 3.5)) { (label(tick)) }
        }
        line.axis x1=(LEFT) x2=(WIDTH - RIGHT) y1=(base) y2=(base) {}
        @for tick in x_ticks.into_iter().filter(|t| t.fract() == 0.0) {
            text.x x=(tenth(scale.x_at(tick))) y=(base + 17.0) { (compact(tick)) }
        }
        @for line in series { (path(line, &scale)) }
        @for line in series.iter().filter(|s| s.class != "raw") { (titles(line, &scale)) }
    }
}

/// Circles that show a value under the pointer.
fn titles(line: &Series, scale: &Scale) -> Markup {
    let points = finite(line);
    let stride = points.len().div_ceil(MOST_TITLES).max(1);
    html! {
        @for (x, y) in points.into_iter().rev().step_by(stride) {
            circle.hit.(line.class) cx=(tenth(scale.x_at(x))) cy=(tenth(scale.y_at(y))) r="4" {
                title { "step " (x) ": " (printable(&line.name)) " " (digits(y, 4)) }
            }
        }
    }
}

fn legend(series: &[Series]) -> Markup {
    let named: Vec<&Series> = series.iter().filter(|s| s.class != "raw" && !s.points.is_empty()).collect();
    let alone = if series.iter().any(|s| s.class == "raw") { "smoothed" } else { "last" };
    html! {
        span.legend {
            @for line in &named {
                span {
                    i class=(line.class) {}
                    @if named.len() > 1 { (printable(&line.name)) } @else { (alone) }
                    @if let Some(last) = line.points.iter().rev().find(|p| p.1.is_finite()) {
                        " " b { (digits(last.1, 4)) }
                    }
                }
            }
        }
    }
}

fn path(line: &Series, scale: &Scale) -> Markup {
    let points = thin(&line.points);
    let known = points.iter().filter(|p| p.1.is_finite()).count();
    let mut data = String::new();
    let mut pen = 'M';
    for &(x, y) in &points {
        if y.is_finite() && x.is_finite() {
            data += &format!("{pen}{} {}", tenth(scale.x_at(x)), tenth(scale.y_at(y)));
            pen = 'L';
        } else {
            pen = 'M';
        }
    }
    // A path of few points is hard to see; one of one point is invisible.
    let dots = points.iter().filter(|p| known <= 12 && p.1.is_finite());
    html! {
        path class=(line.class) d=(data) {}
        @for &(x, y) in dots {
            circle.dot.(line.class) cx=(tenth(scale.x_at(x))) cy=(tenth(scale.y_at(y))) r="2.6" {}
        }
    }
}

/// A coordinate with one digit after the point.
fn tenth(value: f64) -> String {
    format!("{value:.1}")
}

/// At most [`MOST_POINTS`] points: of each group its lowest and highest, so that spikes stay.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let mut out = Vec::with_capacity(MOST_POINTS + 2);
    for group in points.chunks(points.len().div_ceil(MOST_POINTS / 2)) {
        let order = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let mut ends =
            [group.iter().min_by(order), group.iter().max_by(order)].map(|p| p.copied().unwrap_or_default());
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        out.extend(ends);
    }
    out
}

/// Lowest and highest with some air; never empty.
fn span(values: impl Iterator<Item = f64>, air: f64) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if high - low <= f64::EPSILON * high.abs().max(1e-300) {
        let half = if low == 0.0 { 1.0 } else { low.abs() * 0.5 };
        return (low - half, high + half);
    }
    let pad = (high - low) * air;
    // What is never negative gets no axis below zero.
    (if low >= 0.0 { (low - pad).max(0.0) } else { low - pad }, high + pad)
}

/// Round numbers between `low` and `high`, about `count` of them.
fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count as f64;
    let size = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * size).into_iter().find(|s| *s >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (first..first + 20).map(|i| i as f64 * step).take_while(|t| *t <= high + step * 1e-9).collect()
}

fn label(value: f64) -> String {
    if value.abs() >= 1e3 { compact(value) } else { digits(value, 3) }
}

/// A running mean over about a hundredth of the points: what came before, never what comes after.
pub fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 100.0).max(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let mut mean = |&(x, y): &(f64, f64)| {
        if !y.is_finite() {
            return (x, f64::NAN);
        }
        sum = sum * keep + y;
        weight = weight * keep + 1.0;
        (x, sum / weight)
    };
    points.iter().map(&mut mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(points: Vec<(f64, f64)>) -> String {
        let svg = chart("loss", &[Series { name: "a<b".to_owned(), class: "s0", points }]).into_string();
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("a<b"), "{svg}");
        svg
    }

    #[test]
    fn charts_of_any_number_of_points() {
        assert!(draw(vec![]).contains("no values yet"));
        assert!(draw(vec![(1.0, f64::NAN)]).contains("no values yet"));
        assert!(draw(vec![(5.0, 2.5)]).contains("class=\"dot s0\""));
        assert!(draw((0..30).map(|i| (i as f64, 3.0)).collect()).contains("<path class=\"s0\" d=\"M"));
        assert!(draw((0..30).map(|i| (i as f64, 0.0)).collect()).contains("<path"));
        let many = draw((0..20_000).map(|i| (i as f64, 1.0 / (i + 1) as f64)).collect());
        assert!(many.len() < 40_000 && many.matches("<title>").count() <= MOST_TITLES, "{}", many.len());
    }

    #[test]
    fn a_hole_splits_the_line_and_a_spike_stays() {
        let svg = draw(vec![(1.0, 1.0), (2.0, 2.0), (3.0, f64::NAN), (4.0, 1.0), (5.0, 2.0)]);
        assert_eq!(svg.split(" d=\"").nth(1).unwrap().split('"').next().unwrap().matches('M').count(), 2);
        let mut points: Vec<(f64, f64)> = (0..5000).map(|i| (i as f64, 1.0)).collect();
        points[1234].1 = 9.0;
        assert!(thin(&points).contains(&(1234.0, 9.0)));
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(0.3, 9.7, 5), [2.0, 4.0, 6.0, 8.0]);
        assert_eq!(smoothed(&[(1.0, 2.0), (2.0, 4.0)]), [(1.0, 2.0), (2.0, 4.0)]);
    }
}
