//! Line charts as inline SVG: axes with round ticks, a legend, and a title under the pointer.
//!
//! Colours are CSS classes (`s0`, `s1`, `s2`), so that the page's dark scheme reaches them. A value that
//! is not finite leaves a gap. Next: `html`, which places the charts.

use std::fmt::Write;

use super::format::{compact, digits, escape};

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 28.0;
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
    /// Step and value.
    pub points: Vec<(f64, f64)>,
}

/// A chart of `series` over steps.
pub fn chart(title: &str, series: &[Series]) -> String {
    let finite = |s: &Series| {
        s.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect::<Vec<_>>()
    };
    let all: Vec<(f64, f64)> = series.iter().flat_map(finite).collect();
    let mut out =
        format!("<figure><figcaption><span>{}</span>{}</figcaption>", escape(title), legend(series));
    if all.is_empty() {
        out.push_str("<p class=\"none\">no values yet</p></figure>");
        return out;
    }
    let (x_low, x_high) = span(all.iter().map(|p| p.0), 0.0);
    let (y_low, y_high) = span(all.iter().map(|p| p.1), 0.06);
    let x_at = |x: f64| LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT);
    let y_at = |y: f64| HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM);
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(&format!("{title} over steps"))
    );
    for tick in ticks(y_low, y_high, 5) {
        let y = y_at(tick);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
            WIDTH - RIGHT
        );
        let _ =
            write!(out, "<text class=\"y\" x=\"{}\" y=\"{:.1}\">{}</text>", LEFT - 7.0, y + 3.5, label(tick));
    }
    let base = HEIGHT - BOTTOM;
    let _ = write!(
        out,
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{base}\" y2=\"{base}\"/>",
        WIDTH - RIGHT
    );
    let single = all.iter().all(|p| p.0 == all[0].0);
    let x_ticks = if single { vec![all[0].0] } else { ticks(x_low, x_high, 5) };
    for tick in x_ticks.into_iter().filter(|t| t.fract() == 0.0) {
        let _ = write!(
            out,
            "<text class=\"x\" x=\"{:.1}\" y=\"{}\">{}</text>",
            x_at(tick),
            base + 17.0,
            compact(tick)
        );
    }
    for line in series {
        out.push_str(&path(line, x_at, y_at));
    }
    for line in series.iter().filter(|s| s.class != "raw") {
        let points = finite(line);
        let stride = points.len().div_ceil(MOST_TITLES).max(1);
        for (x, y) in points.into_iter().rev().step_by(stride) {
            let text = escape(&format!("step {x}: {} {}", line.name, digits(y, 4)));
            let (cx, cy) = (x_at(x), y_at(y));
            let _ = write!(
                out,
                "<circle class=\"hit {}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"4\"><title>{text}</title></circle>",
                line.class
            );
        }
    }
    out.push_str("</svg></figure>");
    out
}

fn legend(series: &[Series]) -> String {
    let named: Vec<&Series> = series.iter().filter(|s| s.class != "raw" && !s.points.is_empty()).collect();
    let alone = if series.iter().any(|s| s.class == "raw") { "smoothed" } else { "last" };
    let mut out = String::from("<span class=\"legend\">");
    for line in &named {
        let last = line.points.iter().rev().find(|p| p.1.is_finite());
        let value = last.map(|p| format!(" <b>{}</b>", digits(p.1, 4))).unwrap_or_default();
        let name = if named.len() > 1 { escape(&line.name) } else { alone.to_owned() };
        let _ = write!(out, "<span><i class=\"{}\"></i>{name}{value}</span>", line.class);
    }
    out + "</span>"
}

fn path(line: &Series, x_at: impl Fn(f64) -> f64, y_at: impl Fn(f64) -> f64) -> String {
    let points = thin(&line.points);
    let known = points.iter().filter(|p| p.1.is_finite()).count();
    let mut data = String::new();
    let mut pen = 'M';
    for &(x, y) in &points {
        if y.is_finite() && x.is_finite() {
            let _ = write!(data, "{pen}{:.1} {:.1}", x_at(x), y_at(y));
            pen = 'L';
        } else {
            pen = 'M';
        }
    }
    let mut out = format!("<path class=\"{}\" d=\"{data}\"/>", line.class);
    // A path of few points is hard to see; one of one point is invisible.
    if known <= 12 {
        for &(x, y) in points.iter().filter(|p| p.1.is_finite()) {
            let _ = write!(
                out,
                "<circle class=\"dot {}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\"/>",
                line.class,
                x_at(x),
                y_at(y)
            );
        }
    }
    out
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
        let svg = chart("loss", &[Series { name: "a<b".to_owned(), class: "s0", points }]);
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
