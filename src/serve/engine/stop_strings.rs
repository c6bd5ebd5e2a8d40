//! Finds stop strings in text as it streams, across tokens. What it gives out never holds one: it holds back only what
//! may still become the start of one.

/// Bytes at the end of `text` that may be the start of `mark`, less than all of it.
pub fn partial_match(text: &str, mark: &str) -> usize {
    let longest = text.len().min(mark.len().saturating_sub(1));
    (1..=longest)
        .rev()
        .find(|&n| text.as_bytes()[text.len() - n..] == mark.as_bytes()[..n] && mark.is_char_boundary(n))
        .unwrap_or(0)
}

/// Looks for stop strings.
#[derive(Debug, Clone)]
pub struct StopStringFinder {
    stops: Vec<String>,
    /// Text that may be the start of a stop string.
    held: String,
}

impl StopStringFinder {
    /// Looks for `stops`; empty ones are left out.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|s| !s.is_empty()).cloned().collect();
        Self { stops, held: String::new() }
    }

    /// Takes text; returns what is safe to send, and whether a stop string ended it.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        // A search looks at the whole stop string first, which may be megabytes long.
        let fit = self.stops.iter().filter(|stop| stop.len() <= self.held.len());
        if let Some(at) = fit.filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|stop| partial_match(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The text held back, where the answer ended without a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stops(list: &[&str]) -> StopStringFinder {
        StopStringFinder::new(&list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_stop_string_over_tokens_is_found_and_never_shown() {
        let mut finder = stops(&["###", "END"]);
        assert_eq!(finder.push("a#"), ("a".to_owned(), false));
        assert_eq!(finder.push("#b#"), ("##b".to_owned(), false));
        assert_eq!(finder.push("##x"), (String::new(), true));
        let mut finder = stops(&["세계"]);
        assert_eq!(finder.push("안녕 세"), ("안녕 ".to_owned(), false));
        assert_eq!(finder.push("상"), ("세상".to_owned(), false));
        assert_eq!(finder.finish(), "");
    }

    proptest! {
        #[test]
        fn what_is_sent_holds_no_stop_string(text in "[ab#é]{0,40}", cuts in prop::collection::vec(1usize..4, 0..20)) {
            let mut finder = stops(&["#a", "b##", "é"]);
            let chars: Vec<char> = text.chars().collect();
            let (mut shown, mut from, mut ended) = (String::new(), 0, false);
            for cut in cuts.into_iter().chain([chars.len()]) {
                let to = (from + cut).min(chars.len());
                let (part, stop) = finder.push(&chars[from..to].iter().collect::<String>());
                shown.push_str(&part);
                ended = stop;
                if ended { break }
                from = to;
            }
            if !ended { shown.push_str(&finder.finish()); }
            for stop in ["#a", "b##", "é"] { prop_assert!(!shown.contains(stop)); }
            prop_assert!(text.starts_with(&shown) && (ended || shown == text));
        }
    }
}
