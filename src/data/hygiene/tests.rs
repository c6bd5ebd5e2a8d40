//! Repeats, overlap and odd characters that were planted, and estimates beside exact values.

use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::exact::row_hash;
use super::lengths::{Lengths, padding};
use super::near::{RUN, THRESHOLD};
use super::units::Units;
use super::*;
use crate::data::random::SplitMix64;

fn words(seed: u64, count: usize) -> Vec<String> {
    let mut random = SplitMix64::new(seed, 1);
    (0..count).map(|_| format!("w{}", random.next_u64() % 5000)).collect()
}

fn text(text: &str) -> Value {
    json!({"text": text})
}

fn jaccard(a: &str, b: &str) -> f64 {
    let [a, b] = [a, b].map(|text| Units::of([text]).runs(RUN).collect::<HashSet<_>>());
    a.intersection(&b).count() as f64 / a.union(&b).count().max(1) as f64
}

/// Two texts with a Jaccard similarity near `similarity`.
fn pair(seed: u64, similarity: f64) -> (String, String) {
    let words = words(seed, 400);
    // Runs of both: s·2n/(1+s) of n.
    let shared = (400.0 * 2.0 * similarity / (1.0 + similarity)) as usize;
    let other = self::words(seed + 1_000_000, 400 - shared);
    (words.join(" "), words[..shared].iter().chain(&other).cloned().collect::<Vec<_>>().join(" "))
}

#[test]
fn exact_repeats_ignore_case_width_and_blanks_alone() {
    let hash = |row: &Value| row_hash(&Passages::of(row));
    let one = hash(&text("Hello, World!\nAgain 1"));
    assert_eq!(one, hash(&text("  hello,  world!  \u{200b}again　１\n")));
    for other in ["hello world again 1", "hello, world! again 2", ""] {
        assert_ne!(one, hash(&text(other)), "{other}");
    }
    let chat = |role: &str, said: &str| json!({"conversations": [{"role": "user", "content": "a"}, {"role": role, "content": said}]});
    assert_ne!(hash(&chat("assistant", "b")), hash(&chat("user", "b")));
    assert_ne!(
        hash(&json!({"conversations": [{"role": "user", "content": "ab"}]})),
        hash(&chat("user", "b"))
    );
    let mut index = ExactIndex::default();
    assert_eq!([index.add(1, one), index.add(2, hash(&text("x"))), index.add(3, one)], [None, None, Some(1)]);
}

#[test]
fn near_repeats_are_found_by_their_similarity() {
    // (similarity, least and most share found): 1 - (1 - s^8)^16 and the estimate's error decide.
    for (similarity, least, most) in [(0.95, 1.0, 1.0), (0.9, 0.97, 1.0), (0.7, 0.0, 0.03), (0.5, 0.0, 0.0)] {
        let mut index = NearIndex::default();
        let mut found = 0;
        for i in 0..200 {
            let (a, b) = pair(i * 7 + 1, similarity);
            let exact = jaccard(&a, &b);
            assert!((exact - similarity).abs() < 0.03, "{exact}");
            let [a, b] = [a, b].map(|text| Signature::of(&Units::of([text.as_str()])).unwrap());
            assert!((a.similarity(&b) - exact).abs() < 0.16);
            assert_eq!(index.add(2 * i as usize, &a), None, "unlike texts");
            found +=
                usize::from(index.add(2 * i as usize + 1, &b).is_some_and(|(of, _)| of == 2 * i as usize));
        }
        let share = found as f64 / 200.0;
        assert!((least..=most).contains(&share), "{similarity}: {share}");
    }
    let chinese = "人工智能是计算机科学的一个分支,它企图了解智能的实质,并生产出一种新的能以人类智能相似的方式做出反应的智能机器。";
    let other = chinese.replace("一种新的", "一种崭新的");
    let sign = |text: &str| Signature::of(&Units::of([text])).unwrap();
    assert!((sign(chinese).similarity(&sign(&other)) - jaccard(chinese, &other)).abs() < 0.15);
    assert!(jaccard(chinese, &other) > 0.7);
    assert_eq!(sign("a b"), sign("A, b!"));
    assert_eq!(Signature::of(&Units::of(["?! ..."])), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Five standard errors of 128 minima, and what a byte of each adds.
    #[test]
    fn estimates_are_near_the_exact_similarity(a in "([a-d]{1,2} |[一-丅]){0,60}", b in "([a-d]{1,2} |[一-丅]){0,60}", shared in "([a-z]{1,3} ){0,80}") {
        let (a, b) = (format!("{shared}{a}"), format!("{shared}{b}"));
        if let (Some(x), Some(y)) = (Signature::of(&Units::of([a.as_str()])), Signature::of(&Units::of([b.as_str()]))) {
            let exact = jaccard(&a, &b);
            let error = (exact * (1.0 - exact) / 128.0 + 1.0 / 256.0 / 128.0).sqrt();
            prop_assert!((x.similarity(&y) - exact).abs() <= 5.0 * error + 0.01, "{} {exact}", x.similarity(&y));
            prop_assert!(a != b || x == y);
        }
    }

    /// A run is the same wherever it stands.
    #[test]
    fn windows_do_not_depend_on_what_stands_around(before in "([a-z]{1,5} |[一-丿]){0,20}", middle in "([a-z]{1,5} |[一-丿]){30,40}", after in "([a-z]{1,5} |[一-丿]){0,20}") {
        let inner: HashSet<u64> = Units::of([middle.as_str()]).windows(260).collect();
        let outer: HashSet<u64> = Units::of([format!("{before}, {middle}. {after}").as_str()]).windows(260).collect();
        prop_assert!(!inner.is_empty() && inner.is_subset(&outer));
    }
}

#[test]
fn overlap_is_thirteen_words_or_twenty_characters() {
    let mut held = HeldOut::default();
    let long = "The quick brown fox jumps over the lazy dog while seven wise owls watch from a tree";
    let chinese = "请问在一个标准大气压之下纯净的水会在多少摄氏度的时候开始沸腾呢";
    let middle = "How many legs does a common house spider have";
    let chat = |asked: &str, said: &str| {
        json!({"conversations": [
        {"role": "system", "content": "You are a careful assistant that always answers in one short and polite sentence, whatever is asked."},
        {"role": "user", "content": asked}, {"role": "assistant", "content": said}]})
    };
    for row in [
        text(long),
        chat(chinese, "100"),
        json!({"question": middle, "choices": ["6", "8"]}),
        chat("What is gold?", "A metal."),
    ] {
        held.add(&Passages::of(&row));
    }
    let found = |row: Value| {
        let passages = Passages::of(&row);
        held.overlap(&passages, &passages.units())
    };
    let part = |text: &str, from: usize, words: usize| {
        text.split(' ').skip(from).take(words).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(found(text(&format!("He wrote: {}, and left.", part(long, 2, 13).to_uppercase()))), Some(0));
    assert_eq!(found(text(&format!("He wrote: {}, and left.", part(long, 2, 12)))), None);
    let some = |from: usize, count: usize| chinese.chars().skip(from).take(count).collect::<String>();
    assert_eq!(found(chat(&format!("回答:{}?", some(3, 20)), "x")), Some(1));
    assert_eq!(found(chat(&format!("回答:{}?", some(3, 19)), "x")), None);
    assert_eq!(found(text(&format!("Question: {middle}? Answer: eight"))), Some(2));
    assert_eq!(found(text(&format!("Question: {}? Answer: eight", middle.replace("house", "")))), None);
    assert_eq!(found(chat("what is gold", "I do not know.")), Some(3));
    assert_eq!(found(chat("what is gold made of", "I do not know.")), None);
    assert_eq!(found(chat("Why?", "A metal.")), None);
    assert!((held.containment(&Units::of([long])) - 1.0).abs() < 1e-9);
    // What many held-out rows share is their form.
    for i in 0..11 {
        let form = "Read the following question with care and choose the best of the four answers that are given below";
        held.add(&Passages::of(&text(&format!("{form}: item{i}"))));
    }
    let form = Units::of(["Read the following question with care and choose the best of the four answers"]);
    assert_eq!(held.overlap(&Passages::default(), &form), None);
}

#[test]
fn odd_characters_are_told_from_unusual_ones() {
    let kinds = |text: &str| {
        let found = OddCharacters::of([text]);
        OddKind::ALL
            .into_iter()
            .filter(|kind| found.0[*kind as usize] > 0)
            .map(OddKind::name)
            .collect::<Vec<_>>()
            .join(" ")
    };
    for (text, wanted) in [
        ("a\u{0}b", "control"),
        ("a\u{85}b", "control"),
        ("caf\u{fffd}", "replacement"),
        ("\u{e123}", "private_use"),
        ("a\u{200b}b", "zero_width"),
        ("\u{feff}a", "zero_width"),
        ("a\u{202e}b", "direction"),
        ("cafÃ©", "mojibake"),
        ("itâ€™s", "mojibake"),
        ("ä½ å¥½", "mojibake"),
        ("ðŸ˜€", "mojibake"),
        ("锟斤拷", "mojibake"),
        ("ï¼Œ", "mojibake"),
        ("5Â°C", "mojibake"),
    ] {
        assert_eq!(kinds(text), wanted, "{text:?}");
    }
    for fine in [
        "a\tb\r\n",
        "café à la carte, NÃO, CAFÉ\u{a0}»",
        "你好,世界。",
        "👨‍👩‍👧",
        "می‌خواهم",
        "สวัสดี\u{200b}ครับ",
        "à\u{a0}«\u{a0}Paris\u{a0}»",
        "²³½",
    ] {
        assert_eq!(kinds(fine), "", "{fine:?}");
    }
}

#[test]
fn lengths_are_counted_and_padding_is_the_loaders() {
    let lengths: Vec<u32> = (1..=100).collect();
    let found = Lengths::of("tokens", &lengths);
    assert_eq!(
        (found.min, found.median, found.p90, found.p99, found.max, found.total),
        (1, 50, 90, 99, 100, 5050)
    );
    assert_eq!(found.histogram.iter().map(|bar| bar.rows).sum::<usize>(), 100);
    assert_eq!((found.histogram[0].from, found.histogram.last().unwrap().to), (0, 101));
    assert_eq!(Lengths::of("tokens", &[]).histogram, []);
    assert_eq!(Lengths::of("tokens", &[u32::MAX, 0]).histogram.iter().map(|bar| bar.rows).sum::<usize>(), 2);
    // By hand: 100 rows of 10 in lines of 64. Padded: 100 * 64; in buckets of width 16; packed six to a line: 17 lines.
    let [bucket, pad, pack] = padding(&[10; 100], 64, 10)[..] else { panic!() };
    assert_eq!((bucket.padded_tokens, pad.padded_tokens), (1600, 6400));
    assert!((pad.waste - (1.0 - 1000.0 / 6400.0)).abs() < 1e-9);
    assert!(pack.padded_tokens <= 17 * 64 && pack.padded_tokens >= 1000, "{}", pack.padded_tokens);
    assert!(padding(&[], 64, 10).iter().all(|padding| padding.waste == 0.0));
    assert!((0.0..1.0).contains(&THRESHOLD));
}
