//! What a change of a setting means for a stage that is under way or done: another result, unless a table beside the
//! setting's type says otherwise. Here is how the tables are read and two records of settings compared.
//!
//! A field that is added later stays out of the record where it holds its default (`skip_serializing_if`), so that
//! records from before it compare equal. Next: `stage::changes`, which decides what follows.

use serde_json::Value;

use super::types::*;

/// What a change of a setting means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SettingKind {
    /// It decides the result: a stage made with another value is another stage.
    Result,
    /// It watches, saves, or says what is done about a fault: what is done stays, what is under way goes on.
    Watch,
    /// How long the stage lasts, or how its end is written: it goes on, from its end where it is done.
    Length,
    /// It names something whose contents are compared under a name of their own.
    Place,
}

/// Kinds by field: names apart by spaces, with dots where a part of a field is another kind than the whole, and `*` for
/// any one name between dots.
pub type Kinds = &'static [(SettingKind, &'static str)];

/// What every stage's `data` has in common.
pub const DATA_KINDS: Kinds = &[
    (SettingKind::Place, "data.source.paths data.source.mixture.*.source.paths data.validation.path"),
    // With `error` no row was bad, or nothing would have been trained.
    (SettingKind::Watch, "data.on_bad_row"),
];

/// One setting that two records have differently.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its key as recipes spell it.
    pub key: String,
    /// What the change means.
    pub kind: SettingKind,
    /// The value before; `None` where there was none.
    pub old: Option<Value>,
    /// The value now.
    pub new: Option<Value>,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = |value: &Option<Value>| match value {
            None | Some(Value::Null) => "not set".to_owned(),
            Some(Value::String(text)) => cut(text),
            Some(other) => cut(&other.to_string()),
        };
        write!(f, "{} {} -> {}", self.key, word(&self.old), word(&self.new))
    }
}

/// A value that fits into a line.
fn cut(text: &str) -> String {
    const MOST: usize = 60;
    let plain: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    let more = if text.chars().count() > MOST { "..." } else { "" };
    plain.replace("\\\"", "\"") + more
}

impl StageConfig {
    /// The tables that hold for a stage, the most particular first.
    pub fn kinds(&self) -> Vec<Kinds> {
        match self {
            Self::Tokenizer(_) => vec![TokenizerConfig::KINDS, DATA_KINDS],
            Self::Pretrain(_) | Self::Sft(_) => vec![TrainConfig::KINDS, DATA_KINDS],
            Self::Lora(_) => vec![LoraConfig::KINDS, TrainConfig::KINDS, DATA_KINDS],
            Self::Merge(_) => vec![MergeConfig::KINDS],
            Self::Reason(_) => vec![ReasonConfig::KINDS, TrainConfig::KINDS, DATA_KINDS],
            Self::Distill(_) => vec![DistillStage::KINDS, TrainConfig::KINDS, DATA_KINDS],
            Self::Dpo(_) => vec![DpoStage::KINDS, TrainConfig::KINDS, DATA_KINDS],
            Self::Reward(_) => vec![RewardConfig::KINDS, TrainConfig::KINDS, DATA_KINDS],
            Self::Eval(_) => vec![EvalConfig::KINDS, DATA_KINDS],
            Self::Export(_) => vec![ExportConfig::KINDS],
            Self::Ppo(_) | Self::Grpo(_) | Self::Spo(_) | Self::Agent(_) => {
                vec![PolicyConfig::KINDS, PolicyKeys::KINDS, TrainConfig::KINDS, DATA_KINDS]
            }
        }
    }

    /// What a record keeps of the settings: JSON under the stage's kind.
    ///
    /// # Errors
    /// None that a plan can have.
    pub fn record(&self) -> crate::error::Result<Value> {
        serde_json::to_value(self)
            .map_err(|e| crate::error::Error::failed("cannot describe a stage").because(e))
    }

    /// Where the settings of `now`, which is this stage's record, differ from those of `old`; against null, which is no
    /// record, all that are set do.
    pub fn changes(&self, old: &Value, now: &Value) -> Vec<Change> {
        let (kind, was) = (tag(now), tag(old));
        if kind != was && !old.is_null() {
            let value = |tag: Option<&str>| tag.map(Value::from);
            return vec![Change {
                key: "kind".to_owned(),
                kind: SettingKind::Result,
                old: value(was),
                new: value(kind),
            }];
        }
        let tables = self.kinds();
        let (old, now) = (leaves(old), leaves(now));
        let find = |all: &[(Vec<String>, Value)], path: &[String]| {
            all.iter().find(|(p, _)| p == path).map(|(_, value)| value.clone())
        };
        let mut changes = Vec::new();
        let mut paths: Vec<&Vec<String>> = now.iter().map(|(path, _)| path).collect();
        paths.extend(old.iter().map(|(path, _)| path).filter(|p| find(&now, p).is_none()));
        for path in paths {
            let (before, after) = (find(&old, path), find(&now, path));
            let set = |value: &Option<Value>| value.clone().filter(|v| !v.is_null());
            // A field that the older program did not have says nothing as long as it is off.
            let off = |value: &Option<Value>| match value {
                Some(Value::Bool(on)) => !on,
                Some(Value::Array(items)) => items.is_empty(),
                Some(Value::Object(map)) => map.is_empty(),
                _ => false,
            };
            if set(&before) == set(&after) || (before.is_none() && off(&after)) {
                continue;
            }
            changes.push(Change {
                key: recipe_key(path),
                kind: kind_of(&tables, path),
                old: before,
                new: after,
            });
        }
        changes
    }
}

/// The kind of stage that a record is of.
fn tag(record: &Value) -> Option<&str> {
    record.as_object()?.keys().next().map(String::as_str)
}

/// Every value of a record below its tag, with the names that lead to it. Lists of plain values are one value.
fn leaves(record: &Value) -> Vec<(Vec<String>, Value)> {
    fn walk(path: &mut Vec<String>, value: &Value, found: &mut Vec<(Vec<String>, Value)>) {
        let mut inside = |name: String, value: &Value| {
            path.push(name);
            walk(path, value, found);
            path.pop();
        };
        match value {
            Value::Object(map) if !map.is_empty() => map.iter().for_each(|(k, v)| inside(k.clone(), v)),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                items.iter().enumerate().for_each(|(i, v)| inside(i.to_string(), v));
            }
            plain => found.push((path.clone(), plain.clone())),
        }
    }
    let mut found = Vec::new();
    for section in record.as_object().into_iter().flat_map(|map| map.values()) {
        walk(&mut Vec::new(), section, &mut found);
    }
    found
}

/// The kind that the longest fitting name of the tables gives; where none fits, a change changes the result.
pub(super) fn kind_of(tables: &[Kinds], path: &[String]) -> SettingKind {
    let path = path.strip_prefix(&["train".to_owned()][..]).unwrap_or(path);
    let fits = |name: &str| {
        let parts: Vec<&str> = name.split('.').collect();
        let same = |(part, own): (&&str, &String)| *part == "*" || *part == own;
        (parts.len() <= path.len() && parts.iter().zip(path).all(same)).then_some(parts.len())
    };
    let mut best = None;
    for (kind, names) in tables.iter().copied().flatten() {
        for length in names.split_whitespace().filter_map(fits) {
            if best.is_none_or(|(longest, _)| length > longest) {
                best = Some((length, *kind));
            }
        }
    }
    best.map_or(SettingKind::Result, |(_, kind)| kind)
}

/// A value's key as recipes spell it: the plan's own steps between are left out.
fn recipe_key(path: &[String]) -> String {
    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    let shown: Vec<&str> = match names.as_slice() {
        ["train", rest @ ..] => return recipe_key(&path[path.len() - rest.len()..]),
        ["data", "source", "mixture", part, "source", rest @ ..] => {
            [&["data", "mixture", part][..], rest].concat()
        }
        ["data", "source", rest @ ..] => [&["data"][..], rest].concat(),
        ["heldout", "source", rest @ ..] => [&["heldout"][..], rest].concat(),
        ["model", "config", "moe", rest @ ..] | ["model", "config", rest @ ..] => {
            [&["model"][..], rest].concat()
        }
        ["method", _, rest @ ..] | ["agent", rest @ ..] if !rest.is_empty() => rest.to_vec(),
        ["rollout", "generated", "server", "engine", "service", rest @ ..]
        | ["rollout", "generated", "server", "engine", rest @ ..]
        | ["rollout", "generated", "server", rest @ ..]
        | ["rollout", "generated", rest @ ..] => [&["rollout"][..], rest].concat(),
        ["rewards", index, "kind", rest @ ..] => [&["rewards", index][..], rest].concat(),
        _ => names.clone(),
    };
    shown.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields of a struct in a source text.
    fn fields(source: &str, name: &str) -> Vec<String> {
        let body = source.split(&format!("pub struct {name} {{\n")).nth(1).expect("the struct");
        let body = body.split("\n}\n").next().expect("its end");
        let field = |line: &str| Some(line.trim().strip_prefix("pub ")?.split_once(':')?.0.to_owned());
        body.lines().filter_map(field).collect()
    }

    #[test]
    fn the_tables_name_fields_that_there_are() {
        let all: [(&str, &str, Kinds); 6] = [
            (include_str!("kinds/train.rs"), "TrainConfig", TrainConfig::KINDS),
            (include_str!("kinds/eval.rs"), "EvalConfig", EvalConfig::KINDS),
            (include_str!("kinds/lora.rs"), "LoraConfig", LoraConfig::KINDS),
            (include_str!("kinds/lora.rs"), "MergeConfig", MergeConfig::KINDS),
            (include_str!("kinds/policy.rs"), "PolicyConfig", PolicyConfig::KINDS),
            (include_str!("kinds/policy.rs"), "PolicyKeys", PolicyKeys::KINDS),
        ];
        for (source, name, kinds) in all {
            let mut fields = fields(source, name);
            if name == "TrainConfig" {
                let engine = include_str!("../engine/settings.rs"); // flattened into it
                fields.extend(
                    ["LoopIntervals", "AnomalyConfig"].iter().flat_map(|name| self::fields(engine, name)),
                );
            }
            assert!(fields.len() > 4, "{name}: {fields:?}");
            for own in kinds.iter().flat_map(|(_, names)| names.split_whitespace()) {
                let first = own.split('.').next().expect("a name");
                assert!(fields.iter().any(|f| f == first), "{name} has no field {first}");
            }
        }
    }

    fn of(path: &str, config: &StageConfig) -> SettingKind {
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        kind_of(&config.kinds(), &path)
    }

    #[test]
    fn the_longest_name_decides() {
        let text = "stages: [{tokenizer: {name: tok, data: {synthetic: true}}}, \
                    {grpo: {init: w.pth, tokenizer: tok, data: {synthetic: true}, rewards: [{regex: {pattern: a}}]}}]";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.yaml");
        std::fs::write(folder.path().join("w.pth"), "").unwrap();
        std::fs::write(&path, text.replace("w.pth", &folder.path().join("w.pth").display().to_string()))
            .unwrap();
        let plan = crate::plan::load(&path, &[]).unwrap();
        let grpo = &plan.stages[1].config;
        assert_eq!(of("train.learning_rate", grpo), SettingKind::Result);
        assert_eq!(of("train.data.source.paths", grpo), SettingKind::Place);
        assert_eq!(of("train.data.shuffle", grpo), SettingKind::Result);
        assert_eq!(of("train.epochs", grpo), SettingKind::Length);
        assert_eq!(of("rewards.0.kind.command.timeout_secs", grpo), SettingKind::Watch);
        assert_eq!(of("rewards.0.weight", grpo), SettingKind::Result);
        assert_eq!(of("nothing", grpo), SettingKind::Result);
        let old = grpo.record().unwrap();
        let mut now = old.clone();
        now["grpo"]["train"]["log_interval"] = 7.into();
        now["grpo"]["method"]["grpo"]["beta"] = 0.5.into();
        now["grpo"]["train"]["new_and_off"] = false.into();
        let changes = grpo.changes(&old, &now);
        let shown: Vec<String> = changes.iter().map(ToString::to_string).collect();
        let before = &old["grpo"]["method"]["grpo"]["beta"];
        assert_eq!(shown, ["log_interval 1 -> 7".to_owned(), format!("beta {before} -> 0.5")], "{changes:?}");
        assert_eq!(changes[0].kind, SettingKind::Watch);
    }
}
