//! `${NAME}`, `${NAME:-default}` and `~` in the values of a recipe.
//!
//! YAML would end a plain text in `{...}` at the braces of `${NAME}`. So before it reads, [`mask`] puts characters of
//! the private use area in their place, one for one, and every position stays what it was; [`expand`] takes them out
//! again and puts in what the caller's lookup gives. Comments and keys are left alone. Next: `reader`.

use std::collections::{BTreeSet, HashMap};

use serde_yaml::Value;

use super::places::{Places, Steps};
use crate::error::{Error, Place};

/// The value of a variable; `None` where it is not set.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Keys whose values are paths, in which a leading `~` is the home folder.
const PATH_KEYS: [&str; 16] = [
    "output",
    "tokenizer",
    "config",
    "init",
    "from",
    "adapter",
    "reference",
    "teacher",
    "critic",
    "data",
    "heldout",
    "path",
    "paths",
    "validation",
    "shots_from",
    "file",
];

/// What stands before a path in `init: weights:FILE`.
const WEIGHTS: &str = "weights:";

/// A text whose `${...}` are put into characters that mean nothing to YAML.
#[derive(Debug, Clone)]
pub struct Masked {
    /// The text, of as many characters as before.
    pub text: String,
    /// The character that stands for ASCII 0.
    base: u32,
    /// Line and column of each `${`, escaped ones left out, and what follows it in the line.
    spots: Vec<(usize, usize, String)>,
}

/// Puts every `${...}` and `$${...}` of a line into other characters.
pub fn mask(text: &str) -> Masked {
    // Of the private use area, a part that the text does not use itself.
    let free = |base: &u32| !text.chars().any(|c| (*base..*base + 128).contains(&(c as u32)));
    mask_with(text, (0xe000..0xf800).step_by(128).find(free).unwrap_or(0xe000))
}

fn mask_with(text: &str, base: u32) -> Masked {
    let mut masked = Masked { text: String::with_capacity(text.len()), base, spots: Vec::new() };
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let chars: Vec<char> = line.chars().collect();
        let mut at = 0;
        while at < chars.len() {
            let escaped = chars[at..].starts_with(&['$', '$', '{']);
            if !escaped && !chars[at..].starts_with(&['$', '{']) {
                masked.text.push(chars[at]);
                at += 1;
                continue;
            }
            let open = at + if escaped { 3 } else { 2 };
            let end = closing(&chars, open).map_or(open, |end| end + 1);
            for place in at..end {
                if chars[place..].starts_with(&['$', '{']) && (place == 0 || chars[place - 1] != '$') {
                    masked.spots.push((number + 1, place + 1, chars[place + 2..end].iter().collect()));
                }
                masked.text.push(masked.hidden(chars[place]));
            }
            at = end;
        }
    }
    masked
}

/// The brace that closes what was opened before `from`.
fn closing(chars: &[char], from: usize) -> Option<usize> {
    let mut open = 1;
    for (at, c) in chars.iter().enumerate().skip(from) {
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

impl Masked {
    fn hidden(&self, c: char) -> char {
        // Quotes and backslashes stay: inside quotes they are YAML's.
        let kept =
            !c.is_ascii() || c.is_ascii_alphanumeric() || matches!(c, '"' | '\'' | '\\' | '_' | '\n' | '\r');
        if kept { c } else { char::from_u32(self.base + c as u32).unwrap_or(c) }
    }

    fn shown(&self, c: char) -> char {
        let code = (c as u32).wrapping_sub(self.base);
        if code < 128 { char::from(code as u8) } else { c }
    }

    /// Another text, put into the same characters.
    pub fn like(&self, text: &str) -> String {
        mask_with(text, self.base).text
    }

    /// A text as it was written.
    pub fn unmask(&self, text: &str) -> String {
        text.chars().map(|c| self.shown(c)).collect()
    }

    /// A value as it was written.
    pub fn written(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.unmask(text)),
            Value::Sequence(items) => Value::Sequence(items.iter().map(|item| self.written(item)).collect()),
            Value::Mapping(map) => {
                Value::Mapping(map.iter().map(|(k, v)| (self.written(k), self.written(v))).collect())
            }
            other => other.clone(),
        }
    }

    /// Where the `nth` `${` of the text that begins at `place` stands, which names `name`. A text that an alias takes over
    /// stands elsewhere.
    fn spot(&self, place: Place, nth: usize, name: &str) -> Place {
        let (Some(line), Some(column)) = (place.line, place.column) else { return place };
        let first = self.spots.partition_point(|spot| (spot.0, spot.1) < (line, column));
        let same = |spot: &&(usize, usize, String)| spot.2.starts_with(name);
        match self.spots.get(first + nth).filter(same).or_else(|| self.spots.iter().find(same)) {
            Some((line, column, _)) => Place::line_column(place.file, *line, *column),
            None => place,
        }
    }
}

/// What came of expanding a recipe.
#[derive(Debug, Default)]
pub struct Expanded {
    /// Faults, each at its place.
    pub faults: Vec<Error>,
    /// Paths of the values that have them.
    pub faulty: Vec<Steps>,
    /// Variables that were asked for and set.
    pub used: BTreeSet<String>,
    /// What a value is as a text, where it was taken for a number or a truth.
    pub texts: HashMap<Steps, Value>,
}

/// Expands every text of `value` in place. A value that reads like a number then is one; as a text it is kept in
/// [`Expanded::texts`], for keys that want one.
pub fn expand(value: &mut Value, masked: &Masked, places: &Places, lookup: Lookup<'_>) -> Expanded {
    let mut walk = Walk { masked, places, lookup, found: Expanded::default() };
    walk.value(value, &mut Vec::new());
    walk.found
}

struct Walk<'a> {
    masked: &'a Masked,
    places: &'a Places,
    lookup: Lookup<'a>,
    found: Expanded,
}

/// What is wrong with a `${...}`, and what to do.
struct Wrong {
    nth: usize,
    /// The name it begins with.
    name: String,
    what: String,
    hint: String,
}

impl Walk<'_> {
    fn value(&mut self, value: &mut Value, path: &mut Steps) {
        match value {
            Value::String(text) => {
                let (masked, place) = (self.masked, || self.places.value(path));
                let expanded = match self.text(text) {
                    Ok(expanded) => expanded,
                    Err(Wrong { nth, name, what, hint }) => {
                        let place = masked.spot(place(), nth, &name);
                        self.found.faults.push(Error::input(what).at(place).hint(hint));
                        self.found.faulty.push(path.clone());
                        return;
                    }
                };
                let changed = expanded != masked.unmask(text);
                let whole = match self.home(&expanded, path) {
                    Ok(whole) => whole,
                    Err((what, hint)) => {
                        self.found.faults.push(Error::input(what).at(place()).hint(hint));
                        self.found.faulty.push(path.clone());
                        return;
                    }
                };
                let typed = serde_yaml::from_str::<Value>(&whole).ok();
                *value = match typed.filter(|typed| changed && (typed.is_number() || typed.is_bool())) {
                    Some(typed) => {
                        self.found.texts.insert(path.clone(), Value::String(whole));
                        typed
                    }
                    None => Value::String(whole),
                };
            }
            Value::Sequence(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    path.push(index.to_string());
                    self.value(item, path);
                    path.pop();
                }
            }
            Value::Mapping(map) => {
                for (key, item) in map.iter_mut() {
                    let Value::String(key) = key else { continue };
                    if path.is_empty() && key == "x" {
                        continue; // anything; ignored
                    }
                    path.push(key.clone());
                    let plain = self.masked.unmask(key);
                    if plain != *key {
                        let fault = Error::input(format!("the key `{plain}` is not expanded"));
                        let hint = "${NAME} stands in values alone";
                        self.found.faults.push(fault.at(self.places.key(path)).hint(hint));
                    }
                    self.value(item, path);
                    path.pop();
                }
            }
            _ => {}
        }
    }

    /// A text with its variables put in.
    fn text(&mut self, text: &str) -> Result<String, Wrong> {
        let hidden = |c| self.masked.hidden(c);
        let (dollar, open) = (hidden('$'), hidden('{'));
        let chars: Vec<char> = text.chars().collect();
        let (mut out, mut at, mut nth) = (String::with_capacity(text.len()), 0, 0);
        while at < chars.len() {
            if chars[at..].starts_with(&[dollar, dollar, open]) {
                out.push_str("${");
                at += 3;
            } else if chars[at..].starts_with(&[dollar, open]) {
                let shown: Vec<char> = chars[at..].iter().map(|c| self.masked.shown(*c)).collect();
                let end = closing(&shown, 2).ok_or_else(|| Wrong {
                    nth,
                    name: String::new(),
                    what: "`${` without its `}`".to_owned(),
                    hint: "write ${NAME}; $${ is a plain ${".to_owned(),
                })?;
                let inside: String = shown[2..end].iter().collect();
                let value = self.variable(&inside);
                out.push_str(&value.map_err(|wrong| Wrong { nth: nth + wrong.nth, ..wrong })?);
                nth += 1 + mask_with(&inside, self.masked.base).spots.len();
                at += end + 1;
            } else {
                out.push(self.masked.shown(chars[at]));
                at += 1;
            }
        }
        Ok(out)
    }

    /// The value of what stands between the braces: `NAME`, `NAME:-default` or `NAME-default`, as a shell reads them.
    fn variable(&mut self, inside: &str) -> Result<String, Wrong> {
        let length = inside.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inside.len());
        let (name, rest) = inside.split_at(length);
        let wrong = |what: String, hint: String| Err(Wrong { nth: 0, name: name.to_owned(), what, hint });
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            let what = format!("`${{{inside}}}` names no variable");
            return wrong(what, "a name is letters, digits and _; $${ is a plain ${".to_owned());
        }
        let (default, empty_counts) = match (rest.strip_prefix(":-"), rest.strip_prefix('-')) {
            (Some(default), _) => (Some(default), false),
            (None, Some(default)) => (Some(default), true),
            (None, None) if rest.is_empty() => (None, true),
            (None, None) => {
                let what = format!("`${{{inside}}}` is neither ${{NAME}} nor ${{NAME:-default}}");
                return wrong(what, format!("write ${{{name}}} or ${{{name}:-default}}"));
            }
        };
        let set = (self.lookup)(name).filter(|value| empty_counts || !value.is_empty());
        match (set, default) {
            (Some(value), _) => {
                self.found.used.insert(name.to_owned());
                Ok(value)
            }
            // A default may hold variables of its own.
            (None, Some(default)) => self
                .text(&mask_with(default, self.masked.base).text)
                .map_err(|wrong| Wrong { nth: wrong.nth + 1, ..wrong }),
            (None, None) => wrong(
                format!("the variable `{name}` is not set"),
                format!("set it (export {name}=...), or give a default: ${{{name}:-value}}"),
            ),
        }
    }

    /// `~` and `~/x` of a path as the home folder.
    fn home(&self, text: &str, path: &[String]) -> Result<String, (String, String)> {
        let key = path.iter().rev().find(|step| step.parse::<usize>().is_err());
        if !key.is_some_and(|key| PATH_KEYS.contains(&key.as_str())) {
            return Ok(text.to_owned());
        }
        let (before, file) = match text.strip_prefix(WEIGHTS) {
            Some(file) => (WEIGHTS, file),
            None => ("", text),
        };
        let Some(rest) = file.strip_prefix('~') else { return Ok(text.to_owned()) };
        if !rest.is_empty() && !rest.starts_with('/') {
            let user = file.split('/').next().unwrap_or(file);
            let what = format!("`{user}`: another user's home folder is not looked up");
            return Err((what, format!("write the folder out, or ./{file} for a file of that name")));
        }
        match (self.lookup)("HOME").filter(|home| !home.is_empty()) {
            Some(home) => Ok(format!("{before}{}{rest}", home.trim_end_matches('/'))),
            None => Err((
                "`~` is the home folder, and HOME is not set".to_owned(),
                "set HOME, or write the folder out".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::reader::parse_with;

    fn variable(name: &str) -> Option<String> {
        let set = [("HOME", "/home/a"), ("OUT", "/data/runs"), ("N", "7"), ("EMPTY", ""), ("RATE", "1e-3")];
        set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    fn read(text: &str, sets: &[&str]) -> (crate::recipe::Recipe, Vec<String>) {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        let (recipe, faults) = parse_with(Path::new("r.yaml"), text, &sets, &variable).unwrap();
        (recipe, faults.iter().map(|f| f.to_string().replace("error: ", "")).collect())
    }

    #[test]
    fn variables_and_the_home_folder_are_put_in() {
        for (written, output) in [
            ("${OUT}/run", "/data/runs/run"),
            ("\"${OUT}/run\"", "/data/runs/run"),
            ("'${OUT}/${N}'", "/data/runs/7"),
            ("${NONE:-here}/run", "here/run"),
            ("${EMPTY:-here}/run", "here/run"),
            ("a${EMPTY}b", "ab"),
            ("a${EMPTY-x}b", "ab"),
            ("${NONE-x}", "x"),
            ("${NONE:-}x", "x"),
            ("${NONE:-${OUT}/b}", "/data/runs/b"),
            ("${NONE:-${NEITHER:-c}}", "c"),
            ("${NONE:-a: b, c #1}", "a: b, c #1"),
            ("$${OUT}/run", "${OUT}/run"),
            ("$OUT/$$", "$OUT/$$"),
            ("~/run", "/home/a/run"),
            ("\"~\"", "/home/a"),
            ("${NONE:-~/x}", "/home/a/x"),
            ("./~/x", "./~/x"),
            ("a~b", "a~b"),
            ("${N}", "7"),
        ] {
            for text in [format!("output: {written}\n"), format!("{{name: a, output: {written}}}\n")] {
                let (recipe, faults) = read(&text, &[]);
                assert_eq!(recipe.root.output.as_deref(), Some(output), "{text} {faults:?}");
            }
            let (recipe, faults) = read("name: a\n", &[&format!("output={written}")]);
            assert_eq!(recipe.root.output.as_deref(), Some(output), "--set {written} {faults:?}");
        }
    }

    #[test]
    fn numbers_stay_numbers_and_texts_texts() {
        let text = "seed: ${N}\nname: ${N}\nstages:\n  - sft: {batch_size: ${BS:-8}, learning_rate: \"${RATE}\", \
                    samples: [\"~/not a path\", \"${N}\"]}\n";
        let (recipe, faults) = read(text, &[]);
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!((recipe.root.seed, recipe.root.name.as_deref()), (Some(7), Some("7")));
        let stage = recipe.root.stages.unwrap().remove(0).unwrap();
        let crate::recipe::schema::StageBody::Train(sft) = stage.body else { panic!() };
        assert_eq!((sft.batch_size, sft.learning_rate), (Some(8), Some(1e-3)));
        assert_eq!(sft.samples.unwrap(), [Some("~/not a path".to_owned()), Some("7".to_owned())]);
    }

    #[test]
    fn faults_stand_where_the_variable_stands() {
        for (text, wanted) in [
            (
                "name: a\noutput: ${NONE}/run\n",
                "r.yaml:2:9: the variable `NONE` is not set\nhint: set it (export NONE=...)",
            ),
            ("name: a\noutput: x/${OUT}/${NONE}\n", "r.yaml:2:18: the variable `NONE` is not set"),
            (
                "# ${OUT}\nname: a # ${X}\noutput: \"é ${NONE}\"\n",
                "r.yaml:3:12: the variable `NONE` is not set",
            ),
            ("{name: a, output: ${NONE}}\n", "r.yaml:1:19: the variable `NONE` is not set"),
            ("output: ${A B}\n", "r.yaml:1:9: `${A B}` is neither"),
            ("output: ${A:?x}\n", "r.yaml:1:9: `${A:?x}` is neither"),
            ("output: ${}\n", "r.yaml:1:9: `${}` names no variable"),
            ("output: a${OUT\n", "r.yaml:1:10: `${` without its `}`"),
            ("output: ~bob/x\n", "r.yaml:1:9: `~bob`: another user's home folder is not looked up"),
            ("${OUT}: 1\n", "r.yaml:1:1: the key `${OUT}` is not expanded"),
            (
                "x: {o: &o \"${NONE}/a\"}\noutput: *o\nseed: ${N}\n",
                "r.yaml:1:12: the variable `NONE` is not set",
            ),
            ("seed: ${OUT}\n", "r.yaml:1:7: `seed` is `/data/runs`, expected a whole number"),
            // What stands behind an expanded value is where it was.
            ("{output: ${OUT}, sed: 1}\n", "r.yaml:1:18: unknown key `sed`"),
        ] {
            let (_, faults) = read(text, &[]);
            assert!(faults.iter().any(|f| f.starts_with(wanted)), "{text}\n{wanted}\n{}", faults.join("\n"));
        }
        // One fault is enough for one value.
        let text =
            "stages:\n  - sft: {init: ~bob/x, data: \"${NONE}\", epochs: ${NONE}, tokenizer: a/${NONE}}\n";
        let (recipe, faults) = read(text, &[]);
        let told = crate::plan::resolve::finish(&recipe, Vec::new()).err().map(|e| e.to_string());
        assert_eq!((faults.len(), told), (4, None));
        let (_, faults) = read("name: a\n", &["output=${NONE}"]);
        assert!(faults[0].starts_with("--set output: the variable `NONE` is not set"), "{faults:?}");
        let (_, faults) = read("x: {a: \"${NONE}\"}\nname: a\n", &[]);
        assert_eq!(faults, Vec::<String>::new());
    }

    #[test]
    fn what_is_kept_holds_no_value_of_the_environment() {
        let text = "name: a\noutput: ${OUT}/run\n";
        let (recipe, _) = read(text, &[]);
        assert!(recipe.text.ends_with(text) && recipe.text.contains("# from the environment: OUT\n"));
        let (recipe, _) = read(text, &["seed=${N}"]);
        assert!(
            recipe.text.contains("output: ${OUT}/run") && recipe.text.contains("seed: ${N}"),
            "{}",
            recipe.text
        );
        assert!(recipe.text.contains("# from the environment: N, OUT\n"), "{}", recipe.text);
        assert_eq!(read("name: a\n", &[]).0.text, "name: a\n");
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        let (recipe, faults) = read("\u{feff}name: a\nsed: 1\n", &[]);
        assert_eq!(recipe.root.name.as_deref(), Some("a"));
        assert!(faults[0].starts_with("r.yaml:2:1: unknown key `sed`"), "{faults:?}");
        let (_, faults) = read("\u{feff}sed: 1\n", &[]);
        assert!(faults[0].starts_with("r.yaml:1:1: unknown key"), "{faults:?}");
        assert!(read("\u{feff}# note\r\nname: a\r\n", &[]).1.is_empty());
    }
}
