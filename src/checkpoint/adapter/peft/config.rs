//! PEFT's `adapter_config.json`, key by key: computed, without effect, or refused by name.
//!
//! A key that changes numbers must not be ignored, so a key that is not in these tables is refused too where it is set. Keys and their meaning: `LoraConfig` of the peft library (0.21). Next: `peft` (the weights).

use serde_json::{Map, Value as Json};

use super::pattern::Pattern;
use super::targets::Targets;
use super::values::{first_match, flag, integers, layers, patterns, texts, unsupported, wrong_value};
use crate::checkpoint::adapter::detect::PEFT_CONFIG;
use crate::checkpoint::adapter::lora::BaseInit;
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

/// Read by [`PeftConfig::read`].
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

/// The keys of a config that are computed here.
#[derive(Debug)]
pub struct PeftConfig {
    rank: Option<i64>,
    alpha: f64,
    rslora: bool,
    ranks: Vec<(Pattern, f64)>,
    alphas: Vec<(Pattern, f64)>,
    targets: Targets,
    exclude: Option<Targets>,
    layers: Option<Vec<i64>>,
    layers_patterns: Vec<Pattern>,
    /// How the base weights are prepared before the adapter is added.
    pub start: BaseInit,
    /// Whether each module has a DoRA magnitude.
    pub dora: bool,
    /// Whether B has a bias.
    pub lora_bias: bool,
    /// Whether biases of the model come with the adapter.
    pub bias: bool,
    /// Modules that come whole, by the end of their names.
    pub modules_to_save: Vec<String>,
    /// Modules with new rows, and the indices of those.
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

impl PeftConfig {
    /// Reads the keys of a config.
    ///
    /// # Errors
    /// A key that is set and not computed here, or a value that cannot be.
    pub fn read(config: &Json) -> Result<Self> {
        let object =
            config.as_object().ok_or_else(|| Error::failed(format!("{PEFT_CONFIG} is no JSON object")))?;
        let start = check_supported(object)?;
        let alpha = match &config["lora_alpha"] {
            Json::Null => Err(Error::failed(format!("{PEFT_CONFIG} states no `lora_alpha`"))
                .hint("add it; without one nothing can be scaled")),
            value => value.as_f64().ok_or_else(|| wrong_value("lora_alpha", value, "a number")),
        };
        let rank = match &config["r"] {
            Json::Null => None,
            value => Some(value.as_i64().ok_or_else(|| wrong_value("r", value, "a whole number"))?),
        };
        let bias = match &config["bias"] {
            Json::Null => false,
            Json::String(kind) if kind == "none" => false,
            Json::String(kind) if kind == "all" || kind == "lora_only" => true,
            other => return Err(wrong_value("bias", other, "none, all or lora_only")),
        };
        let settings = Self {
            rank,
            alpha: alpha?,
            rslora: flag(config, "use_rslora")?,
            ranks: patterns(config, "rank_pattern")?,
            alphas: patterns(config, "alpha_pattern")?,
            targets: Targets::read(config, "target_modules")?.unwrap_or(Targets::Any),
            exclude: Targets::read(config, "exclude_modules")?,
            layers: layers(&config["layers_to_transform"])?,
            layers_patterns: texts(config, "layers_pattern")?
                .iter()
                .filter(|text| !text.is_empty())
                .map(|text| Pattern::layer("layers_pattern", text))
                .collect::<Result<_>>()?,
            start,
            dora: flag(config, "use_dora")?,
            lora_bias: flag(config, "lora_bias")?,
            bias,
            modules_to_save: texts(config, "modules_to_save")?,
            tokens: tokens(&config["trainable_token_indices"])?,
            keep_tie: flag(config, "ensure_weight_tying")?,
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

    /// `alpha / rank`, or `alpha / sqrt(rank)` with `use_rslora`; patterns win over the defaults.
    ///
    /// # Errors
    /// The config states another rank than the weights have.
    pub fn scale(&self, module: &str, rank: i64) -> Result<f64> {
        let alpha = first_match(&self.alphas, module)?.unwrap_or(self.alpha);
        let stated = first_match(&self.ranks, module)?.or(self.rank.map(|r| r as f64));
        if let Some(stated) = stated.filter(|r| *r != rank as f64) {
            return Err(Error::failed(format!(
                "{PEFT_CONFIG} states rank {stated} for `{module}`, its weights have {rank}"
            )));
        }
        let rank = rank.max(1) as f64;
        Ok(alpha / if self.rslora { rank.sqrt() } else { rank })
    }

    /// Demands that peft would put an adapter on this module; it ignores weights for other modules silently.
    ///
    /// # Errors
    /// It would not; the key that leaves the module out is named.
    pub fn expect_target(&self, module: &str) -> Result<()> {
        let not = |key: &str| {
            Error::failed(format!("the weights hold an adapter for `{module}`, which `{key}` leaves out"))
                .because("peft would silently leave it out too")
                .hint(format!("put `{key}` in {PEFT_CONFIG} right, or take the weights out"))
        };
        if let Some(exclude) = &self.exclude
            && exclude.choose(module)?
        {
            return Err(not("exclude_modules"));
        }
        if self.saves(module) {
            return Err(not("modules_to_save"));
        }
        if !self.targets.choose(module)? {
            return Err(not("target_modules"));
        }
        let Some(layers) = &self.layers else { return Ok(()) };
        let mut layer = None;
        if self.layers_patterns.is_empty() {
            layer = Pattern::layer("layers_pattern", "[^.]*")?.layer_index(module)?;
        }
        for pattern in &self.layers_patterns {
            layer = layer.or(pattern.layer_index(module)?);
        }
        if layer.is_some_and(|layer| layers.contains(&layer)) {
            Ok(())
        } else {
            Err(not("layers_to_transform"))
        }
    }

    /// Whether the module, or one that contains it, comes whole (`modules_to_save`). peft compares the end of the name,
    /// without a dot before it.
    pub fn saves(&self, module: &str) -> bool {
        let mut cuts = module.match_indices('.').map(|(at, _)| &module[..at]).chain([module]);
        cuts.any(|outer| self.modules_to_save.iter().any(|name| outer.ends_with(name.as_str())))
    }

    /// Whether a parameter is in a module that the entry `name` of `modules_to_save` chooses.
    pub fn saves_as(&self, parameter: &str, name: &str) -> bool {
        parameter.match_indices('.').any(|(at, _)| parameter[..at].ends_with(name))
    }
}

/// Refuses what would be computed differently here; returns how the base weights are prepared.
fn check_supported(object: &Map<String, Json>) -> Result<BaseInit> {
    let get = |key: &str| object.get(key).unwrap_or(&Json::Null);
    let kind = get("peft_type").as_str().unwrap_or("LORA");
    if kind != "LORA" {
        return Err(Error::failed(format!("this adapter is of type {kind}"))
            .because(format!("`peft_type` in {PEFT_CONFIG}; LORA alone is supported"))
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
    base_init(get("init_lora_weights"))
}

/// `init_lora_weights`: only what peft repeats on the model's weights when it loads an adapter matters here.
fn base_init(init: &Json) -> Result<BaseInit> {
    const KEY: &str = "init_lora_weights";
    let text = match init {
        Json::Null | Json::Bool(_) => return Ok(BaseInit::Same),
        Json::String(text) => text.as_str(),
        other => return Err(wrong_value(KEY, other, "true, false or a name")),
    };
    if text == "pissa" {
        return Ok(BaseInit::Pissa);
    }
    let why = if text.starts_with("pissa_niter_") {
        "peft takes the model's weights apart with random numbers, other ones each time"
    } else if text.starts_with("corda") {
        "peft needs the numbers of its calibration, which no file holds"
    } else if text == "loftq" {
        "peft quantises the model's weights when it loads the adapter"
    } else {
        return match text.to_lowercase().as_str() {
            "olora" => Ok(BaseInit::Olora),
            "gaussian" | "mica" => Ok(BaseInit::Same),
            _ if ["eva", "orthogonal", "lora_ga"].contains(&text) => Ok(BaseInit::Same),
            _ => Err(unsupported(KEY, &format!("`{text}` is no way to begin that is known here"))),
        };
    };
    Err(unsupported(KEY, &format!("it is `{text}`: {why}")))
}

/// A list is for the embedding; an object names its modules.
fn tokens(value: &Json) -> Result<Vec<(String, Vec<i64>)>> {
    const KEY: &str = "trainable_token_indices";
    match value {
        Json::Null => Ok(Vec::new()),
        Json::Object(map) => {
            map.iter().map(|(name, list)| Ok((name.clone(), integers(KEY, list)?))).collect()
        }
        list => Ok(vec![("embed_tokens".to_owned(), integers(KEY, list)?)]),
    }
}

impl PeftConfig {
    /// The features beyond plain LoRA that the config uses, for `inspect`.
    pub fn features(&self) -> Vec<String> {
        let mut used = Vec::new();
        let mut put = |on: bool, what: String| {
            if on {
                used.push(what);
            }
        };
        put(self.rslora, "use_rslora".into());
        put(self.dora, "use_dora".into());
        put(!self.ranks.is_empty(), "rank_pattern".into());
        put(!self.alphas.is_empty(), "alpha_pattern".into());
        put(self.start == BaseInit::Pissa, "init_lora_weights=pissa".into());
        put(self.start == BaseInit::Olora, "init_lora_weights=olora".into());
        put(self.lora_bias, "lora_bias".into());
        put(self.bias, "bias".into());
        put(!self.modules_to_save.is_empty(), format!("modules_to_save={}", self.modules_to_save.join(",")));
        put(!self.tokens.is_empty(), "trainable_token_indices".into());
        used
    }

    /// The default rank and alpha.
    pub fn defaults(&self) -> (Option<i64>, f64) {
        (self.rank, self.alpha)
    }
}
