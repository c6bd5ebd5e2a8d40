//! Rewards from text alone, as upstream computes them: length, tags, repetition, a pattern.
//!
//! "Character" is a code point, and stripping, lower case and `\w` are Python's, so that values equal upstream's.
//! Formulas: minimind3 `trainer/train_grpo.py` (`calculate_rewards`, `rep_penalty`), minimind2 the same file's
//! `reasoning_model_reward`. Next: `answers`.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;

use super::config::{FormatConfig, FormatStyle, LengthConfig, Part, RepetitionConfig};

/// Upstream's closing tag of thinking.
pub const THINK_END: &str = "</think>";

/// Python's `str.strip()`: white space, and the four separators that Unicode does not count.
pub fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c))
}

/// Thinking and answer of a completion, stripped. Without `</think>` there is no thinking and all is answer.
pub fn split(completion: &str) -> (Option<&str>, &str) {
    match completion.split_once(THINK_END) {
        Some((thinking, answer)) => (Some(strip(thinking)), strip(answer)),
        None => (None, completion),
    }
}

/// The inside of the first `<answer>...</answer>`, stripped.
pub fn tagged_answer(completion: &str) -> Option<&str> {
    let (_, rest) = completion.split_once("<answer>")?;
    Some(strip(rest.split_once("</answer>")?.0))
}

/// What a user would call the answer: after the thinking, and inside `<answer>` where that is used.
pub fn answer(completion: &str) -> &str {
    let (_, answer) = split(completion);
    tagged_answer(answer).unwrap_or_else(|| strip(answer))
}

/// The part of a completion.
pub fn part(completion: &str, part: Part) -> &str {
    match part {
        Part::Completion => completion,
        Part::Thinking => split(completion).0.unwrap_or_default(),
        Part::Answer => answer(completion),
    }
}

/// `inside` or `outside`, by the stripped completion's characters.
pub fn length(completion: &str, config: &LengthConfig) -> f64 {
    let count = strip(completion).chars().count();
    if (config.min..=config.max).contains(&count) { config.inside } else { config.outside }
}

/// Upstream's reward for tags.
pub fn format(completion: &str, config: &FormatConfig) -> f64 {
    match config.style {
        FormatStyle::Think => {
            let (Some(thinking), _) = split(completion) else { return 0.0 };
            let fits = (config.min..=config.max).contains(&thinking.chars().count());
            let once = completion.matches(THINK_END).count() == 1;
            (if fits { 1.0 } else { -0.5 }) + (if once { 0.25 } else { -0.25 })
        }
        FormatStyle::ThinkAnswer => {
            let once = ["<think>", THINK_END, "<answer>", "</answer>"]
                .iter()
                .filter(|t| completion.matches(**t).count() == 1);
            let marks = 0.25 * once.count() as f64;
            if think_answer(completion) { 0.5 + marks } else { marks }
        }
    }
}

/// `^<think>\n.*?\n</think>\n<answer>\n.*?\n</answer>$`, with one or two line ends in the middle, as Python's
/// `re.match` with DOTALL reads it (`$` also stands before a last line end).
fn think_answer(completion: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?s)\A<think>\n.*?\n</think>\n\n?<answer>\n.*?\n</answer>\n?\z")
            .expect("a valid pattern")
    });
    FORM.is_match(completion)
}

/// The penalty of the answer's repeated n-grams, from `-cap` to 0.
pub fn repetition(completion: &str, config: &RepetitionConfig) -> f64 {
    -repeated(split(completion).1, config)
}

fn repeated(text: &str, config: &RepetitionConfig) -> f64 {
    // Python's `\w` is letters, numbers and the underscore; marks are not in it.
    static WORD: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s\x1c-\x1f]").expect("a valid pattern"));
    let lower = text.to_lowercase();
    let words: Vec<&str> = WORD.find_iter(&lower).map(|m| m.as_str()).collect();
    let grams: Vec<&[&str]> = words.windows(config.ngram.max(1)).collect();
    if grams.is_empty() {
        return 0.0;
    }
    let distinct = grams.iter().collect::<HashSet<_>>().len();
    let share = (grams.len() - distinct) as f64 / grams.len() as f64;
    config.cap.min(share * config.cap * 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_characters_are_code_points() {
        let config = LengthConfig::default();
        let value = |n: usize| length(&format!(" \u{1c}{}\n", "字".repeat(n)), &config);
        assert_eq!([19, 20, 800, 801].map(value), [-0.5, 0.5, 0.5, -0.5]);
    }

    #[test]
    fn tags_of_minimind3() {
        let config = FormatConfig::default();
        let value = |n: usize, tail: &str| format(&format!("\n{}\n</think>\n{tail}", "x".repeat(n)), &config);
        assert_eq!([19, 20, 300, 301].map(|n| value(n, "a")), [-0.25, 1.25, 1.25, -0.25]);
        assert_eq!(value(20, "a</think>"), 0.75);
        assert_eq!(format("no tag at all", &config), 0.0);
    }

    #[test]
    fn tags_of_minimind2() {
        let config = FormatConfig { style: FormatStyle::ThinkAnswer, ..FormatConfig::default() };
        let value = |text: &str| format(text, &config);
        assert_eq!(value("<think>\na\n</think>\n<answer>\nb\n</answer>"), 1.5);
        assert_eq!(value("<think>\na\n</think>\n\n<answer>\nb\n</answer>\n"), 1.5);
        assert_eq!(value("<think>\na\n</think>\n\n\n<answer>\nb\n</answer>"), 1.0);
        assert_eq!(value("<think>\na</think>\n<answer>\nb\n</answer>"), 1.0);
        assert_eq!(value("<think><think></think>"), 0.25);
        assert_eq!(value("plain"), 0.0);
    }

    #[test]
    fn repetition_counts_trigrams_of_the_answer_alone() {
        let config = RepetitionConfig::default();
        // One two three four, one two three: 5 trigrams, 4 distinct.
        assert!((repetition("One two three four one TWO three", &config) + 0.2).abs() < 1e-12);
        assert_eq!(repetition("no no no no no no", &config), -0.5);
        assert_eq!(repetition("no no no no no no</think>a b c", &config), 0.0);
        assert_eq!(repetition("a b", &config), 0.0);
        // Every sign is a word of its own: ! ! ! ! has 2 trigrams, 1 distinct.
        assert_eq!(repetition("!!!!", &config), -0.5);
        assert!((repetition("a b a b a", &RepetitionConfig { ngram: 2, cap: 1.0 }) + 1.0).abs() < 1e-12);
    }

    #[test]
    fn parts_of_a_completion() {
        let text = "hm\n</think>\n\n<answer>\n7\n</answer>";
        assert_eq!(part(text, Part::Thinking), "hm");
        assert_eq!(part(text, Part::Answer), "7");
        assert_eq!(part(" 7 ", Part::Answer), "7");
        assert_eq!(part(text, Part::Completion), text);
    }
}
