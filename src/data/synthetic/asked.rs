//! Every question there is, with its answer and whether it is held out.
//!
//! Held out: one wording of some facts; one order of some pairs of numbers (the other order is trained).

use super::world::{KOREANS, PEOPLE, World};
use crate::data::random::chance;

/// Index of facts in [`Question::group`].
pub(super) const FACTS: usize = 0;
/// Index of sums.
pub(super) const SUMS: usize = 1;
/// Index of comparisons.
pub(super) const COMPARISONS: usize = 2;
/// Index of small talk.
pub(super) const SMALL_TALK: usize = 3;

/// Sums go up to this plus this.
pub(super) const SUM_MAX: u64 = 10;
const COMPARE_MAX: u64 = 20;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What the user says.
    pub ask: String,
    /// The one right answer.
    pub answer: String,
    /// A wrong answer of the same kind: another value, a sum that is off, the other number.
    pub wrong: String,
    /// Whether training never asks it.
    pub heldout: bool,
    /// Facts 0, sums 1, comparisons 2, small talk 3.
    pub group: usize,
}

/// Whether the pair in this order is held out; then the other order is not.
fn pair_held(seed: u64, salt: u64, a: u64, b: u64, share: f64) -> bool {
    let (low, high) = (a.min(b), a.max(b));
    let key = low * 1000 + high;
    let which = chance(seed, key, salt + 1) < 0.5;
    low != high && chance(seed, key, salt) < share && which == (a < b)
}

/// Whether this sum is held out.
pub(super) fn sum_held(seed: u64, a: u64, b: u64) -> bool {
    pair_held(seed, 21, a, b, 0.2)
}

const SUM_FORMS: [&str; 4] =
    ["What is {a} + {b}?", "How much is {a} + {b}?", "{a} + {b} = ?", "{a} + {b} 은 얼마입니까?"];
const LARGER: [&str; 3] =
    ["Which is larger, {a} or {b}?", "Which number is larger, {a} or {b}?", "{a} 와 {b} 중에서 큰 수는?"];
const SMALLER: [&str; 3] =
    ["Which is smaller, {a} or {b}?", "Which number is smaller, {a} or {b}?", "{a} 와 {b} 중에서 작은 수는?"];
const GREETINGS: [(&str, &str); 4] = [
    ("Hello, I am {e}.", "Hello, {e}."),
    ("Hi, my name is {e}.", "Hello, {e}."),
    ("Good morning, this is {e}.", "Good morning, {e}."),
    ("Goodbye from {e}.", "Goodbye, {e}."),
];
const KOREAN_GREETINGS: [(&str, &str); 4] = [
    ("안녕하세요, {e}입니다.", "안녕하세요, {e} 씨."),
    ("제 이름은 {e}입니다.", "안녕하세요, {e} 씨."),
    ("반갑습니다, {e}입니다.", "반갑습니다, {e} 씨."),
    ("{e}입니다, 안녕히 계세요.", "안녕히 가세요, {e} 씨."),
];
const TALK: [(&str, &str); 6] = [
    ("How are you?", "I am fine, thank you."),
    ("Thank you.", "You are welcome."),
    ("Who are you?", "I am a small model."),
    ("고맙습니다.", "천만에요."),
    ("누구세요?", "저는 작은 모델입니다."),
    ("잘 지내요?", "네, 잘 지냅니다."),
];

/// One of `all` that is not `right`, by seed.
fn other<'a>(all: &[&'a str], right: &str, seed: u64, row: u64) -> &'a str {
    let others: Vec<&str> = all.iter().copied().filter(|value| *value != right).collect();
    others[(chance(seed, row, 61) * others.len() as f64) as usize]
}

/// A number near `sum` that is not it.
fn off(sum: u64, seed: u64, row: u64) -> u64 {
    let by = 1 + (chance(seed, row, 62) * 3.0) as u64;
    if sum >= by && chance(seed, row, 63) < 0.5 { sum - by } else { sum + by }
}

pub(super) fn fill(form: &str, a: u64, b: u64) -> String {
    form.replace("{a}", &a.to_string()).replace("{b}", &b.to_string())
}

/// All questions of a seed, in a fixed order, each once.
pub fn questions(seed: u64) -> Vec<Question> {
    let mut all = Vec::new();
    for (i, fact) in World::new(seed).facts.iter().enumerate() {
        // One wording of about three facts in four: the other four wordings are trained.
        let held = (chance(seed, i as u64, 30) < 0.75).then(|| (chance(seed, i as u64, 31) * 5.0) as usize);
        for (form, ask) in fact.wording.ask.iter().enumerate() {
            all.push(Question {
                ask: ask.replace("{e}", fact.entity),
                answer: fact.value.to_owned(),
                wrong: other(fact.values, fact.value, seed, (i * 8 + form) as u64).to_owned(),
                heldout: held == Some(form),
                group: FACTS,
            });
        }
    }
    for (a, b) in (0..=SUM_MAX).flat_map(|a| (0..=SUM_MAX).map(move |b| (a, b))) {
        let heldout = sum_held(seed, a, b);
        all.extend(SUM_FORMS.iter().map(|form| Question {
            ask: fill(form, a, b),
            answer: (a + b).to_string(),
            wrong: off(a + b, seed, a * 100 + b).to_string(),
            heldout,
            group: SUMS,
        }));
    }
    for (a, b) in (0..=COMPARE_MAX).flat_map(|a| (0..=COMPARE_MAX).map(move |b| (a, b))) {
        if a == b {
            continue;
        }
        let heldout = pair_held(seed, 41, a, b, 0.2);
        for (forms, answer, wrong) in [(LARGER, a.max(b), a.min(b)), (SMALLER, a.min(b), a.max(b))] {
            all.extend(forms.iter().map(|form| Question {
                ask: fill(form, a, b),
                answer: answer.to_string(),
                wrong: wrong.to_string(),
                heldout,
                group: COMPARISONS,
            }));
        }
    }
    for (names, forms, salt) in [(PEOPLE, GREETINGS, 51), (KOREANS, KOREAN_GREETINGS, 52)] {
        for (i, name) in names.iter().enumerate() {
            let held = (chance(seed, i as u64, salt) < 0.5)
                .then(|| (chance(seed, i as u64, salt + 10) * 4.0) as usize);
            all.extend(forms.iter().enumerate().map(|(form, (ask, answer))| Question {
                ask: ask.replace("{e}", name),
                answer: answer.replace("{e}", name),
                wrong: answer.replace("{e}", other(names, name, seed, (i * 8 + form) as u64)),
                heldout: held == Some(form),
                group: SMALL_TALK,
            }));
        }
    }
    all.extend(TALK.iter().map(|(ask, answer)| Question {
        ask: (*ask).to_owned(),
        answer: (*answer).to_owned(),
        wrong: other(&TALK.map(|(_, answer)| answer), answer, seed, ask.len() as u64).to_owned(),
        heldout: false,
        group: SMALL_TALK,
    }));
    all
}
