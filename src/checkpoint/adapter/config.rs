//! PEFT's `adapter_config.json`, key by key: computed, without effect, or refused by its name.
//!
//! A key that changes numbers must not be passed over, so a key that is not in these tables is refused too where it
//! is set. Keys and their meaning: `LoraConfig` of the peft library (0.21). Next: `peft` (the weights).

use serde_json::{Map, Value as Json};

use super::pattern::{Pattern, ends, quoted};
use super::{CONFIG, Start};
use crate::error::{Error, Result};

/// Without effect on what a trained adapter computes.
const NO_EFFECT: [&str; 11] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "merge_weights",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    // Linears here have inputs last, so peft takes this back itself.
    "fan_in_fan_out",
];

/// How fresh matrices were drawn, where peft reads it for one kind of `init_lora_weights` alone.
const OF_INIT: [&str; 4] = ["loftq_config", "eva_config", "corda_config", "lora_ga_config"];

/// Read by [`Settings::read`].
const COMPUTED: [&str; 18] = [
    "peft_type",
    "task_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "bias",
    "init_lora_weights",
    "lora_bias",
    "trainable_token_indices",
    "ensure_weight_tying",
];

/// Which Linears peft puts an adapter on.
#[derive(Debug)]
enum Targets {
    /// Not stated, or all there are.
    Any,
    /// Names or their ends.
    Names(Vec<String>),
    /// The whole name.
    Regex(Pattern),
}

/// What the config says.
#[derive(Debug)]
pub struct Settings {
    rank: Option<i64>,
    alpha: f64,
    rslora: bool,
    ranks: Vec<(Pattern, f64)>,
    alphas: Vec<(Pattern, f64)>,
    targets: Targets,
    exclude: Option<Targets>,
    layers: Option<Vec<i64>>,
    layers_patterns: Vec<Pattern>,
    /// What the weights under the adapter are before it is added.
    pub start: Start,
    /// Whether each module has a magnitude.
    pub dora: bool,
    /// Whether B has a bias.
    pub lora_bias: bool,
    /// Whether biases of the model come along.
    pub bias: bool,
    /// Modules that come whole, by the end of their names.
    pub modules_to_save: Vec<String>,
    /// Modules with rows that come new, and which.
    pub tokens: Vec<(String, Vec<i64>)>,
    /// Whether a tied output layer stays tied.
    pub keep_tie: bool,
    /// The model it was trained on.
    pub base: Option<String>,
}

/// Whether a key asks for something.
fn is_set(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => false,
        Json::Array(list) => !list.is_empty(),
        Json::Object(map) => !map.is_empty(),
        Json::String(text) => !text.is_empty() && text != "none",
        Json::Number(n) => n.as_f64() != Some(0.0),
        Json::Bool(true) => true,
    }
}

fn unsupported(key: &str, why: &str) -> Error {
    Error::failed(format!("this adapter has `{key}` set, which is not supported"))
        .because(why.to_owned())
        .hint(
            "in Python, peft's merge_and_unload() and save_pretrained() make a model of it that is read here",
        )
}

fn wrong(key: &str, value: &Json, want: &str) -> Error {
    Error::failed(format!("`{key}` in {CONFIG} is {value}, expected {want}"))
}

impl Settings {
    /// Reads the keys.
    ///
    /// # Errors
    /// A key that is set and not computed here, or a value that cannot be.
    pub fn read(config: &Json) -> Result<Self> {
        let object =
            config.as_object().ok_or_else(|| Error::failed(format!("{CONFIG} is no JSON object")))?;
        let start = refuse(object)?;
        let flag = |key: &str| match &config[key] {
            Json::Null => Ok(false),
            Json::Bool(on) => Ok(*on),
            other => Err(wrong(key, other, "true or false")),
        };
        let alpha = match &config["lora_alpha"] {
            Json::Null => Err(Error::failed(format!("{CONFIG} states no `lora_alpha`"))
                .hint("add it; without one nothing can be scaled")),
            value => value.as_f64().ok_or_else(|| wrong("lora_alpha", value, "a number")),
        };
        let rank = match &config["r"] {
            Json::Null => None,
            value => Some(value.as_i64().ok_or_else(|| wrong("r", value, "a whole number"))?),
        };
        let bias = match &config["bias"] {
            Json::Null => false,
            Json::String(kind) if kind == "none" => false,
            Json::String(kind) if kind == "all" || kind == "lora_only" => true,
            other => return Err(wrong("bias", other, "none, all or lora_only")),
        };
        let settings = Self {
            rank,
            alpha: alpha?,
            rslora: flag("use_rslora")?,
            ranks: patterns(config, "rank_pattern")?,
            alphas: patterns(config, "alpha_pattern")?,
            targets: targets(config, "target_modules")?.unwrap_or(Targets::Any),
            exclude: targets(config, "exclude_modules")?,
            layers: layers(&config["layers_to_transform"])?,
            layers_patterns: texts(config, "layers_pattern")?
                .iter()
                .filter(|text| !text.is_empty())
                .map(|text| Pattern::layer("layers_pattern", text))
                .collect::<Result<_>>()?,
            start,
            dora: flag("use_dora")?,
            lora_bias: flag("lora_bias")?,
            bias,
            modules_to_save: texts(config, "modules_to_save")?,
            tokens: tokens(&config["trainable_token_indices"])?,
            keep_tie: flag("ensure_weight_tying")?,
            base: config["base_model_name_or_path"].as_str().filter(|s| !s.is_empty()).map(str::to_owned),
        };
        if settings.layers.is_some() && matches!(settings.targets, Targets::Regex(_)) {
            return Err(Error::failed("`layers_to_transform` goes with a list of `target_modules` alone")
                .because("peft refuses it with a pattern"));
        }
        if settings.dora && settings.lora_bias {
            return Err(Error::failed("`lora_bias` does not go with `use_dora`")
                .because("peft refuses the two together"));
        }
        Ok(settings)
    }

    /// `alpha / rank`, or `alpha / sqrt(rank)` where the config says rslora; patterns win over the defaults.
    ///
    /// # Errors
    /// The config states another rank than the weights have.
    pub fn scale(&self, module: &str, rank: i64) -> Result<f64> {
        let alpha = first(&self.alphas, module)?.unwrap_or(self.alpha);
        let stated = first(&self.ranks, module)?.or(self.rank.map(|r| r as f64));
        if let Some(stated) = stated.filter(|r| *r != rank as f64) {
            return Err(Error::failed(format!(
                "{CONFIG} states rank {stated} for `{module}`, its weights have {rank}"
            )));
        }
        let rank = rank.max(1) as f64;
        Ok(alpha / if self.rslora { rank.sqrt() } else { rank })
    }

    /// That peft would put an adapter on this module: weights for another are passed over there without a word.
    ///
    /// # Errors
    /// It would not, by the key that says so.
    pub fn expect(&self, module: &str) -> Result<()> {
        let not = |key: &str| {
            Error::failed(format!("the weights hold an adapter for `{module}`, which `{key}` leaves out"))
                .because("peft would leave it out too, without a word")
                .hint(format!("put `{key}` in {CONFIG} right, or take the weights out"))
        };
        let chosen = |targets: &Targets| match targets {
            Targets::Any => Ok(true),
            Targets::Names(names) => Ok(names.iter().any(|name| ends(module, name))),
            Targets::Regex(pattern) => pattern.fits(module),
        };
        if let Some(exclude) = &self.exclude
            && chosen(exclude)?
        {
            return Err(not("exclude_modules"));
        }
        if self.saved(module) {
            return Err(not("modules_to_save"));
        }
        if !chosen(&self.targets)? {
            return Err(not("target_modules"));
        }
        let Some(layers) = &self.layers else { return Ok(()) };
        let mut layer = None;
        if self.layers_patterns.is_empty() {
            layer = Pattern::layer("layers_pattern", "[^.]*")?.number(module)?;
        }
        for pattern in &self.layers_patterns {
            layer = layer.or(pattern.number(module)?);
        }
        if layer.is_some_and(|layer| layers.contains(&layer)) {
            Ok(())
        } else {
            Err(not("layers_to_transform"))
        }
    }

    /// Whether the module, or one around it, comes whole. peft asks for the end of the name, with no dot before it.
    pub fn saved(&self, module: &str) -> bool {
        let mut cuts = module.match_indices('.').map(|(at, _)| &module[..at]).chain([module]);
        cuts.any(|outer| self.modules_to_save.iter().any(|name| outer.ends_with(name.as_str())))
    }
}

impl Settings {
    /// Whether a parameter lies in a module that `name` of `modules_to_save` chooses.
    pub fn saved_as(&self, parameter: &str, name: &str) -> bool {
        parameter.match_indices('.').any(|(at, _)| parameter[..at].ends_with(name))
    }
}

/// What would be computed otherwise; gives what the weights are before the adapter is added.
fn refuse(object: &Map<String, Json>) -> Result<Start> {
    let get = |key: &str| object.get(key).unwrap_or(&Json::Null);
    let kind = get("peft_type").as_str().unwrap_or("LORA");
    if kind != "LORA" {
        return Err(Error::failed(format!("this adapter is of type {kind}"))
            .because(format!("`peft_type` in {CONFIG}; LORA alone is supported"))
            .hint("in Python, peft's merge_and_unload() makes a model of most kinds, which is read here"));
    }
    if let Some(task) = get("task_type").as_str().filter(|task| *task != "CAUSAL_LM")
        && !["FEATURE_EXTRACTION", ""].contains(&task)
    {
        return Err(unsupported("task_type", &format!("it is for {task}, not for a language model")));
    }
    for (key, value) in object {
        let known = NO_EFFECT.contains(&key.as_str())
            || COMPUTED.contains(&key.as_str())
            || OF_INIT.contains(&key.as_str());
        if !known && is_set(value) {
            return Err(unsupported(
                key,
                "it changes what the adapter computes, or is a key that is not known here",
            ));
        }
    }
    start(get("init_lora_weights"))
}

/// Of how matrices were drawn only that counts which peft does again to the model's weights when it loads them.
fn start(init: &Json) -> Result<Start> {
    const KEY: &str = "init_lora_weights";
    let text = match init {
        Json::Null | Json::Bool(_) => return Ok(Start::Same),
        Json::String(text) => text.as_str(),
        other => return Err(wrong(KEY, other, "true, false or a name")),
    };
    if text == "pissa" {
        return Ok(Start::Pissa);
    }
    let why = if text.starts_with("pissa_niter_") {
        "peft takes the model's weights apart with random numbers, other ones each time"
    } else if text.starts_with("corda") {
        "peft needs the numbers of its calibration, which no file holds"
    } else if text == "loftq" {
        "peft quantises the model's weights when it loads the adapter"
    } else {
        return match text.to_lowercase().as_str() {
            "olora" => Ok(Start::Olora),
            "gaussian" | "mica" => Ok(Start::Same),
            _ if ["eva", "orthogonal", "lora_ga"].contains(&text) => Ok(Start::Same),
            _ => Err(unsupported(KEY, &format!("`{text}` is no way to begin that is known here"))),
        };
    };
    Err(unsupported(KEY, &format!("it is `{text}`: {why}")))
}

fn patterns(config: &Json, key: &str) -> Result<Vec<(Pattern, f64)>> {
    let Some(map) = config[key].as_object() else {
        return if config[key].is_null() {
            Ok(Vec::new())
        } else {
            Err(wrong(key, &config[key], "an object"))
        };
    };
    let read = |(pattern, value): (&String, &Json)| {
        let number = value.as_f64().ok_or_else(|| wrong(key, value, "a number for each pattern"))?;
        Ok((Pattern::ending(key, pattern)?, number))
    };
    map.iter().map(read).collect()
}

/// The first pattern that fits counts, as in peft.
fn first(patterns: &[(Pattern, f64)], module: &str) -> Result<Option<f64>> {
    for (pattern, value) in patterns {
        if pattern.fits(module)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

fn targets(config: &Json, key: &str) -> Result<Option<Targets>> {
    match &config[key] {
        Json::String(text) if text.is_empty() && key == "exclude_modules" => Ok(None),
        Json::String(text) if text.eq_ignore_ascii_case("all-linear") && key == "target_modules" => {
            Ok(Some(Targets::Any))
        }
        Json::String(text) => Ok(Some(Targets::Regex(Pattern::whole(key, text)?))),
        _ => Ok(Some(texts(config, key)?).filter(|names| !names.is_empty()).map(Targets::Names)),
    }
}

/// A list of texts, or one.
fn texts(config: &Json, key: &str) -> Result<Vec<String>> {
    match &config[key] {
        Json::Null => Ok(Vec::new()),
        Json::String(text) => Ok(vec![text.clone()]),
        Json::Array(list) => {
            let text = |item: &Json| item.as_str().map(str::to_owned);
            let all: Option<Vec<String>> = list.iter().map(text).collect();
            all.ok_or_else(|| wrong(key, &config[key], "a list of texts"))
        }
        other => Err(wrong(key, other, "a list of texts")),
    }
}

fn whole_numbers(key: &str, value: &Json) -> Result<Vec<i64>> {
    let list = value.as_array().and_then(|list| list.iter().map(Json::as_i64).collect::<Option<Vec<i64>>>());
    list.ok_or_else(|| wrong(key, value, "a list of whole numbers"))
}

fn layers(value: &Json) -> Result<Option<Vec<i64>>> {
    match value {
        Json::Null => Ok(None),
        Json::Number(_) => match value.as_i64() {
            Some(layer) => Ok(Some(vec![layer])),
            None => Err(wrong("layers_to_transform", value, "whole numbers")),
        },
        _ => Ok(Some(whole_numbers("layers_to_transform", value)?).filter(|list| !list.is_empty())),
    }
}

/// A list is for the embedding; an object names its modules.
fn tokens(value: &Json) -> Result<Vec<(String, Vec<i64>)>> {
    const KEY: &str = "trainable_token_indices";
    match value {
        Json::Null => Ok(Vec::new()),
        Json::Object(map) => {
            map.iter().map(|(name, list)| Ok((name.clone(), whole_numbers(KEY, list)?))).collect()
        }
        list => Ok(vec![("embed_tokens".to_owned(), whole_numbers(KEY, list)?)]),
    }
}

impl Settings {
    /// What the config asks for beyond plain LoRA, in words for `inspect`.
    pub fn features(&self) -> Vec<String> {
        let mut said = Vec::new();
        let mut put = |on: bool, what: String| {
            if on {
                said.push(what);
            }
        };
        put(self.rslora, "use_rslora".into());
        put(self.dora, "use_dora".into());
        put(!self.ranks.is_empty(), "rank_pattern".into());
        put(!self.alphas.is_empty(), "alpha_pattern".into());
        put(self.start == Start::Pissa, "init_lora_weights=pissa".into());
        put(self.start == Start::Olora, "init_lora_weights=olora".into());
        put(self.lora_bias, "lora_bias".into());
        put(self.bias, "bias".into());
        put(!self.modules_to_save.is_empty(), format!("modules_to_save={}", quoted(&self.modules_to_save)));
        put(!self.tokens.is_empty(), "trainable_token_indices".into());
        said
    }

    /// The default rank and alpha.
    pub fn defaults(&self) -> (Option<i64>, f64) {
        (self.rank, self.alpha)
    }
}
