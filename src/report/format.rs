//! Numbers, times and texts as people read them.
//!
//! Not for files that programs read: those keep every digit. Next: `table` and `html`, the users.

/// Three significant digits with k, M, B, T: `1.23M`.
pub fn compact(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let units = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")];
    // 999.6 would round to 1000 of a unit; it belongs to the next one.
    match units.iter().find(|(size, _)| value.abs() >= size * 0.9995) {
        Some((size, unit)) => format!("{}{unit}", digits(value / size, 3)),
        None => digits(value, 3),
    }
}

/// About `significant` digits, without trailing zeros; very small and large ones as `1e-5`.
pub fn digits(value: f64, significant: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e7).contains(&size) {
        let text = format!("{value:.*e}", significant.saturating_sub(1));
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", trim(mantissa));
    }
    let before = if size < 1.0 { 0 } else { size.log10().floor() as usize + 1 };
    let leading = if size > 0.0 && size < 1.0 { (-size.log10()).floor() as usize } else { 0 };
    trim(&format!("{value:.*}", (significant + leading).saturating_sub(before))).to_owned()
}

fn trim(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// `0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".to_owned();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Text as a page shows it: control characters, which a model may well write, become a visible sign. `maud` escapes
/// the rest.
pub fn printable(text: &str) -> String {
    let sign = |letter: char| match letter {
        '\n' | '\t' => letter,
        letter if letter.is_control() => '\u{fffd}',
        letter => letter,
    };
    text.chars().filter(|letter| *letter != '\r').map(sign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let seen = [0.0, 7.0, 999.4, 999.9, 1234.0, 25_800_000.0, 1.5e9].map(compact);
        assert_eq!(seen, ["0", "7", "999", "1k", "1.23k", "25.8M", "1.5B"]);
        assert_eq!(
            [0.0005, 0.25, 3.1459, 12345.6, -2.0].map(|v| digits(v, 4)),
            ["5e-4", "0.25", "3.146", "12346", "-2"]
        );
        assert_eq!([0.42, 12.0, 185.0, 7620.0].map(duration), ["0.4 s", "12 s", "3 min 05 s", "2 h 07 min"]);
        assert_eq!(compact(f64::NAN), "–");
    }

    #[test]
    fn control_characters_are_seen() {
        assert_eq!(printable("<script>'\"&\u{1b}\r\n\t"), "<script>'\"&\u{fffd}\n\t");
    }
}
