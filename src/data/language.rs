//! The language of a text, right on short texts too for Chinese, English, Japanese and Korean.
//!
//! Scripts are counted first: a Chinese question about English code stays Chinese. What Latin and other shared scripts say is
//! whatlang's to tell, over trigrams; where a text is too short for that, common English words decide.

use whatlang::{Detector, Lang};

/// The most characters of a text that are looked at.
const LOOKED_AT: usize = 4000;

/// What a character of Chinese, Japanese or Korean counts, in letters: a word of two of them says what five letters do.
const WIDE_LETTERS: usize = 3;

/// From this share of kana among Chinese characters and kana on, a text is Japanese; below, kana are quoted (の on a sign).
const KANA_SHARE: f64 = 0.05;

/// From this share of common English words on, a text that whatlang is not sure of is English.
const ENGLISH_SHARE: f64 = 0.25;

/// Languages in Latin script that whatlang takes for English in short texts; they are told from long ones.
const RARE: [Lang; 14] = [
    Lang::Aka,
    Lang::Afr,
    Lang::Aze,
    Lang::Cym,
    Lang::Epo,
    Lang::Est,
    Lang::Jav,
    Lang::Lat,
    Lang::Lav,
    Lang::Lit,
    Lang::Sna,
    Lang::Tgl,
    Lang::Tuk,
    Lang::Zul,
];

/// Words that make a short text English: none of them is a common word of another language in Latin script.
const ENGLISH: &str = " about after all and any are as at be because been before but by can could day did do does \
    don don't each else every explain find first for from get give go good had has have hello help her here hi his how i \
    i'm if into is it it's its just know let like list ll make many me more most much my name need new no not now of ok \
    okay on one only or other our out over please question re read say see she should show simple so some sorry story tell \
    than thank thanks that that's the their them then there these they thing things think this those time to two up us use \
    using ve very want was way we well were what what's when where which while who why will with word words world would \
    write yes you your ";

/// Two-letter codes (ISO 639-1), and other names that people write, with the three-letter code that is used here.
#[rustfmt::skip]
const ALIASES: [(&str, &str); 77] = [
    ("af", "afr"), ("ak", "aka"), ("am", "amh"), ("ar", "ara"), ("az", "aze"), ("be", "bel"), ("bg", "bul"),
    ("bn", "ben"), ("ca", "cat"), ("chi", "cmn"), ("chinese", "cmn"), ("cs", "ces"), ("cy", "cym"), ("da", "dan"),
    ("de", "deu"), ("el", "ell"), ("en", "eng"), ("english", "eng"), ("eo", "epo"), ("es", "spa"), ("et", "est"),
    ("fa", "pes"), ("fi", "fin"), ("fr", "fra"), ("gu", "guj"), ("he", "heb"), ("hi", "hin"), ("hr", "hrv"),
    ("hu", "hun"), ("hy", "hye"), ("id", "ind"), ("it", "ita"), ("ja", "jpn"), ("japanese", "jpn"), ("jp", "jpn"),
    ("jv", "jav"), ("ka", "kat"), ("km", "khm"), ("kn", "kan"), ("ko", "kor"), ("korean", "kor"), ("la", "lat"),
    ("lt", "lit"), ("lv", "lav"), ("mk", "mkd"), ("ml", "mal"), ("mr", "mar"), ("my", "mya"), ("nb", "nob"),
    ("ne", "nep"), ("nl", "nld"), ("no", "nob"), ("or", "ori"), ("pa", "pan"), ("pl", "pol"), ("pt", "por"),
    ("ro", "ron"), ("ru", "rus"), ("si", "sin"), ("sk", "slk"), ("sl", "slv"), ("sn", "sna"), ("sr", "srp"),
    ("sv", "swe"), ("ta", "tam"), ("te", "tel"), ("th", "tha"), ("tk", "tuk"), ("tl", "tgl"), ("tr", "tur"),
    ("uk", "ukr"), ("ur", "urd"), ("uz", "uzb"), ("vi", "vie"), ("yi", "yid"), ("zh", "cmn"), ("zho", "cmn"),
];

/// The language that most of a text is in, as an ISO 639-3 code (`cmn`, `eng`, `jpn`, `kor`); `None` where it has no letters
/// or too few to tell.
pub fn language_of(text: &str) -> Option<&'static str> {
    let seen = Letters::of(text);
    let wide = seen.chinese + seen.kana + seen.korean;
    if wide > 0 && wide * WIDE_LETTERS >= seen.other {
        let japanese = seen.kana as f64 >= KANA_SHARE * (seen.kana + seen.chinese) as f64 && seen.kana > 0;
        return Some(match seen.korean > seen.kana + seen.chinese {
            true => "kor",
            false if japanese => "jpn",
            false => "cmn",
        });
    }
    if seen.other == 0 {
        return None;
    }
    let looked_at = head(text);
    let sure = whatlang::detect(looked_at).filter(whatlang::Info::is_reliable);
    if let Some(found) = sure.filter(|found| !RARE.contains(&found.lang()) || seen.other >= 200) {
        return Some(found.lang().code());
    }
    if english_share(looked_at) >= ENGLISH_SHARE {
        return Some(Lang::Eng.code());
    }
    let found = Detector::with_denylist(RARE.to_vec()).detect(looked_at)?;
    (found.confidence() > 0.5 || seen.other >= 20).then(|| found.lang().code())
}

/// The three-letter code of a language by that code, by its two letters (`zh`, `en-US`), or by some English names.
pub fn code_of(name: &str) -> Option<&'static str> {
    let name = name.trim().to_lowercase();
    let short = name.split(['-', '_']).next().unwrap_or_default();
    if let Some((_, code)) = ALIASES.iter().find(|(alias, _)| *alias == short) {
        return Some(code);
    }
    Lang::from_code(short).map(|lang| lang.code())
}

/// A language's English name by its code; the code itself for one that is not known.
pub fn name_of(code: &str) -> &str {
    match code {
        "cmn" => "Chinese",
        _ => Lang::from_code(code).map_or(code, |lang| lang.eng_name()),
    }
}

/// How many letters of which script a text begins with.
#[derive(Debug, Default)]
struct Letters {
    chinese: usize,
    kana: usize,
    korean: usize,
    other: usize,
}

impl Letters {
    fn of(text: &str) -> Self {
        let mut seen = Self::default();
        for letter in text.chars().take(LOOKED_AT) {
            match letter {
                'a'..='z' | 'A'..='Z' => seen.other += 1,
                '\0'..='\u{bf}' => {}
                // The mark of long vowels and the middle dot stand in Chinese texts too.
                '\u{3041}'..='\u{309f}' | '\u{30a1}'..='\u{30fa}' | '\u{ff66}'..='\u{ff9d}' => seen.kana += 1,
                _ if is_chinese(letter) => seen.chinese += 1,
                '\u{ac00}'..='\u{d7a3}' | '\u{1100}'..='\u{11ff}' | '\u{3131}'..='\u{318e}' => {
                    seen.korean += 1
                }
                _ if letter.is_alphabetic() => seen.other += 1,
                _ => {}
            }
        }
        seen
    }
}

/// Whether a character is one of Chinese script, which Japanese uses too.
pub fn is_chinese(letter: char) -> bool {
    matches!(letter, '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
}

/// The first characters of a text.
fn head(text: &str) -> &str {
    text.char_indices().nth(LOOKED_AT).map_or(text, |(end, _)| &text[..end])
}

fn english_share(text: &str) -> f64 {
    let (mut words, mut english) = (0usize, 0usize);
    let apart = |c: char| !c.is_alphabetic() && c != '\'' && c != '’';
    for word in text.split(apart).filter(|word| !word.is_empty()) {
        words += 1;
        english += usize::from(ENGLISH.contains(&format!(" {} ", word.to_lowercase().replace('’', "'"))));
    }
    english as f64 / words.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_in_the_four_languages_are_told() {
        for (code, texts) in [
            (
                "cmn",
                &[
                    "你好",
                    "今天天气怎么样?",
                    "用 Python 写一个函数 fibonacci(n)",
                    "請問台北在哪裡",
                    "1+1等于几",
                    "我喜欢の这个字,因为它在中国的招牌上很常见,大家都认识它",
                    "解释一下 machine learning 是什么",
                ][..],
            ),
            (
                "eng",
                &[
                    "Hello",
                    "Hi there",
                    "What is 2 + 2?",
                    "Write a poem about the sea.",
                    "Thank you!",
                    "I am begging pardon",
                    "The capital of France is Paris.",
                    "Who wrote Hamlet?",
                    "Tell me a joke",
                    "Yes, of course.",
                    "Who is 李白 and when did he live?",
                    "Sum 3 and 4.",
                    "def main():\n    print('hello world')  # say hello to the user",
                ],
            ),
            (
                "jpn",
                &[
                    "こんにちは",
                    "東京は日本の首都です。",
                    "カメラ",
                    "これはペンです",
                    "日本語で答えてください",
                    "Pythonで関数を書いて",
                ],
            ),
            ("kor", &["안녕하세요", "서울은 한국의 수도입니다.", "네", "Python으로 함수를 작성해 줘"]),
            (
                "deu",
                &["Wie ist das Wetter heute in Berlin?", "Der Hund läuft über die Straße und bellt laut."],
            ),
            ("fra", &["Quelle est la capitale de la France et combien d'habitants a-t-elle ?"]),
            ("spa", &["¿Cuál es la capital de España y cuántos habitantes tiene?"]),
            ("rus", &["Какая сегодня погода в Москве, и стоит ли мне брать с собой зонтик?"]),
            ("tha", &["สวัสดีครับ"]),
        ] {
            for text in texts {
                assert_eq!(language_of(text), Some(code), "{text}");
            }
        }
        for nothing in ["", "  \n", "123 + 456 = 579", "😀😀", "---"] {
            assert_eq!(language_of(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn languages_have_several_names() {
        for (name, code) in [
            ("zh", "cmn"),
            ("zh-CN", "cmn"),
            ("cmn", "cmn"),
            ("Chinese", "cmn"),
            ("en_US", "eng"),
            ("EN", "eng"),
            ("ja", "jpn"),
            ("ko", "kor"),
            ("deu", "deu"),
            ("de", "deu"),
        ] {
            assert_eq!(code_of(name), Some(code), "{name}");
        }
        assert_eq!((code_of("klingon"), code_of("")), (None, None));
        assert!(ALIASES.iter().all(|(_, code)| Lang::from_code(*code).is_some()));
        assert_eq!((name_of("cmn"), name_of("deu"), name_of("xyz")), ("Chinese", "German", "xyz"));
    }
}
