//! Bar charts as inline SVG: standing bars of a histogram, lying bars of named values.
//!
//! As in `svg`, colours are CSS classes.

use maud::{Markup, html};

use super::format::{compact, digits, printable};
use super::svg::{BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH};

/// Height of a lying bar with the gap after it.
const ROW: f64 = 26.0;
/// Where lying bars begin: their names stand before.
const NAMES: f64 = 130.0;

/// A bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What it stands for.
    pub name: String,
    /// How high it is; what is negative or not finite has no height.
    pub value: f64,
    /// What the pointer shows.
    pub title: String,
}

fn height(bar: &Bar) -> f64 {
    if bar.value.is_finite() { bar.value.max(0.0) } else { 0.0 }
}

fn highest(bars: &[Bar]) -> f64 {
    let highest = bars.iter().map(height).fold(0.0, f64::max);
    if highest > 0.0 { highest } else { 1.0 }
}

fn tenth(value: f64) -> String {
    format!("{value:.1}")
}

fn figure(title: &str, note: &str, size: (f64, f64), drawing: &Markup) -> Markup {
    html! {
        figure {
            figcaption { span { (printable(title)) } span.legend { (printable(note)) } }
            svg viewBox={ "0 0 " (size.0) " " (tenth(size.1)) } role="img" aria-label=(printable(title)) { (drawing) }
        }
    }
}

/// Standing bars side by side, from left to right; `note` stands beside the title.
pub fn histogram(title: &str, note: &str, bars: &[Bar]) -> Markup {
    let highest = highest(bars);
    let (width, base) = ((WIDTH - LEFT - RIGHT) / bars.len().max(1) as f64, HEIGHT - BOTTOM);
    let up = |value: f64| value / highest * (base - TOP);
    // No more than six names have room.
    let stride = bars.len().div_ceil(6).max(1);
    figure(
        title,
        note,
        (WIDTH, HEIGHT),
        &html! {
            @for tick in [0.5, 1.0].map(|share| highest * share) {
                line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(tenth(base - up(tick))) y2=(tenth(base - up(tick))) {}
                text.y x=(LEFT - 7.0) y=(tenth(base - up(tick) + 3.5)) { (compact(tick)) }
            }
            line.axis x1=(LEFT) x2=(WIDTH - RIGHT) y1=(base) y2=(base) {}
            @for (at, bar) in bars.iter().enumerate() {
                @let x = LEFT + at as f64 * width;
                @if height(bar) > 0.0 {
                    @let tall = up(height(bar)).max(1.0);
                    rect.s0 x=(tenth(x + 0.5)) y=(tenth(base - tall)) width=(tenth((width - 1.0).max(0.5))) height=(tenth(tall)) {
                        title { (printable(&bar.title)) }
                    }
                }
                @if at % stride == 0 {
                    text x=(tenth(x)) y=(base + 17.0) { (printable(&bar.name)) }
                }
            }
        },
    )
}

/// Lying bars with their names, from above; each with its value at its end.
pub fn lying(title: &str, note: &str, bars: &[Bar]) -> Markup {
    let highest = highest(bars);
    let room = WIDTH - NAMES - RIGHT - 60.0;
    figure(
        title,
        note,
        (WIDTH, ROW * bars.len() as f64 + 12.0),
        &html! {
            @for (at, bar) in bars.iter().enumerate() {
                @let y = 6.0 + at as f64 * ROW;
                @let long = (height(bar) / highest * room).max(1.0);
                text.y x=(NAMES - 8.0) y=(tenth(y + 15.0)) { (printable(&bar.name)) }
                rect.s0 x=(NAMES) y=(tenth(y + 4.0)) width=(tenth(long)) height=(tenth(ROW - 10.0)) { title { (printable(&bar.title)) } }
                text x=(tenth(NAMES + long + 7.0)) y=(tenth(y + 15.0)) { (digits(bar.value, 3)) }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_of_any_value_are_drawn() {
        let bar = |name: &str, value| Bar { name: name.to_owned(), value, title: format!("{name}: {value}") };
        for bars in [vec![], vec![bar("a", 0.0)], vec![bar("<b>", 3.0), bar("c", f64::NAN), bar("d", -1.0)]] {
            for page in
                [histogram("t", "n", &bars), lying("t", "n", &bars)].map(maud::PreEscaped::into_string)
            {
                assert!(page.contains("<svg") && !page.contains("inf") && !page.contains("<b>"), "{page}");
                assert!(!page.contains("\"NaN"), "{page}");
            }
        }
        let page = histogram("t", "", &[bar("a", 1.0), bar("b", 2.0)]).into_string();
        assert_eq!(page.matches("<rect").count(), 2);
        assert!(page.contains("height=\"178.0\"") && page.contains("height=\"89.0\""), "{page}");
    }
}
