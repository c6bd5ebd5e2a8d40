//! `strftime_now`: the time of day as Python's `strftime` writes it.

use time::OffsetDateTime;

/// `datetime.now().strftime(format)`
pub(super) fn strftime_now(format: &str) -> String {
    strftime(format, OffsetDateTime::now_local().unwrap_or_else(|_| OffsetDateTime::now_utc()))
}

fn strftime(format: &str, at: OffsetDateTime) -> String {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut flag = None;
        let mut letter = chars.next();
        if let Some(found @ ('-' | '_' | '0' | '^' | '#')) = letter {
            flag = Some(found);
            letter = chars.next();
        }
        let Some(letter) = letter else {
            out.push('%');
            out.extend(flag);
            break;
        };
        match field(letter, flag, at) {
            Some(text) if flag == Some('^') => out.push_str(&text.to_uppercase()),
            Some(text) => out.push_str(&text),
            None => {
                out.push('%');
                out.extend(flag);
                out.push(letter);
            }
        }
    }
    out
}

fn field(letter: char, flag: Option<char>, at: OffsetDateTime) -> Option<String> {
    let number = |value: i64, width: usize, fill: char| match (flag, fill) {
        (Some('-'), _) => value.to_string(),
        (Some('_'), _) | (None, ' ') => format!("{value:>width$}"),
        _ => format!("{value:0>width$}"),
    };
    let (month, weekday) = (at.month().to_string(), at.weekday().to_string());
    let hour12 = match i64::from(at.hour()) % 12 {
        0 => 12,
        hour => hour,
    };
    let from_sunday = i64::from(at.weekday().number_days_from_sunday());
    let from_monday = i64::from(at.weekday().number_days_from_monday());
    let day_of_year = i64::from(at.ordinal());
    let again = |format: &str| Some(strftime(format, at));
    Some(match letter {
        'Y' => at.year().to_string(),
        'C' => number(i64::from(at.year()).div_euclid(100), 2, '0'),
        'y' => number(i64::from(at.year()).rem_euclid(100), 2, '0'),
        'G' => at.to_iso_week_date().0.to_string(),
        'g' => number(i64::from(at.to_iso_week_date().0).rem_euclid(100), 2, '0'),
        'V' => number(i64::from(at.iso_week()), 2, '0'),
        'U' => number((day_of_year + 6 - from_sunday) / 7, 2, '0'),
        'W' => number((day_of_year + 6 - from_monday) / 7, 2, '0'),
        'm' => number(i64::from(u8::from(at.month())), 2, '0'),
        'd' => number(i64::from(at.day()), 2, '0'),
        'e' => number(i64::from(at.day()), 2, ' '),
        'H' => number(i64::from(at.hour()), 2, '0'),
        'k' => number(i64::from(at.hour()), 2, ' '),
        'I' => number(hour12, 2, '0'),
        'l' => number(hour12, 2, ' '),
        'M' => number(i64::from(at.minute()), 2, '0'),
        'S' => number(i64::from(at.second()), 2, '0'),
        'f' => format!("{:06}", at.microsecond()),
        'j' => number(day_of_year, 3, '0'),
        's' => at.unix_timestamp().to_string(),
        'u' => (from_monday + 1).to_string(),
        'w' => from_sunday.to_string(),
        'B' => month,
        'b' | 'h' => month.chars().take(3).collect(),
        'A' => weekday,
        'a' => weekday.chars().take(3).collect(),
        'p' => if at.hour() < 12 { "AM" } else { "PM" }.to_owned(),
        'P' => if at.hour() < 12 { "am" } else { "pm" }.to_owned(),
        // A time without a zone, as Python's `now()`.
        'z' | 'Z' => String::new(),
        'F' => return again("%Y-%m-%d"),
        'T' | 'X' => return again("%H:%M:%S"),
        'R' => return again("%H:%M"),
        'D' | 'x' => return again("%m/%d/%y"),
        'c' => return again("%a %b %e %H:%M:%S %Y"),
        'r' => return again("%I:%M:%S %p"),
        'n' => "\n".to_owned(),
        't' => "\t".to_owned(),
        '%' => "%".to_owned(),
        _ => return None,
    })
}

/// Only for tests: a known moment.
#[cfg(test)]
pub(super) fn strftime_at(format: &str, seconds: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    strftime(format, at)
}
