//! The generation parameters of a request (sampling, stops, limits), read and checked; chat and completions share them.

use super::fields::Fields;
use crate::rollout::SamplingParams;
use crate::serve::engine::handle::ModelHandle;
use crate::serve::error::ApiError;
use crate::serve::settings::Limits;

/// Stop strings and bias entries that a request may have.
const MAX_STOPS: usize = 16;
const MAX_BIASES: usize = 1024;

/// How a request wants its answers generated.
#[derive(Debug, Clone)]
pub struct GenerationParams {
    /// Most new tokens (`max_completion_tokens`, else `max_tokens`), within the server's limit; `None` where the request
    /// names no number.
    pub max_tokens: Option<usize>,
    /// Choices of each prompt.
    pub n: usize,
    /// How each token is chosen.
    pub sampling: SamplingParams,
    /// Texts that end an answer (`stop`).
    pub stop: Vec<String>,
    /// Tokens that end an answer as the model's own stop tokens do (vLLM's `stop_token_ids`).
    stop_token_ids: Vec<u32>,
    /// Whether to go on after the model's own stop tokens (vLLM's `ignore_eos`).
    ignore_eos: bool,
    /// Send the answer as a stream of chunks.
    pub stream: bool,
    /// End the stream with the numbers of tokens (`stream_options.include_usage`).
    pub include_usage: bool,
}

/// The limits of a request's parameters.
#[derive(Debug, Clone, Copy)]
pub struct ParamLimits {
    /// Most choices of a prompt.
    pub choices: usize,
    /// Most new tokens of an answer.
    pub new_tokens: usize,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Whether a request may ask for no new token at all.
    pub zero_tokens: bool,
}

/// Log-probabilities that one answer may hold in memory, those of `top_logprobs` counted.
pub const MAX_LOGPROBS: usize = 400_000;
/// The same of a chat's answer, in whose form each takes four times as much.
pub const MAX_CHAT_LOGPROBS: usize = MAX_LOGPROBS / 4;

/// Checks that the log-probabilities of so many `tokens`, with `top` others for each, are at most `most`.
///
/// # Errors
/// 400 where it does not.
pub fn check_logprobs(tokens: usize, top: Option<usize>, most: usize) -> Result<(), ApiError> {
    let asked = top.map_or(0, |top| tokens.saturating_mul(1 + top));
    if asked <= most {
        return Ok(());
    }
    Err(ApiError::param(
        "logprobs",
        format!(
            "up to {asked} log-probabilities are asked for in one piece, at most {most} are given; ask for fewer tokens, \
             answers or likely tokens, or for a stream"
        ),
    ))
}

impl GenerationParams {
    /// Reads the parameters.
    ///
    /// # Errors
    /// 400, naming the field that has a wrong type or is out of its range.
    pub fn read(fields: &Fields, limits: &ParamLimits) -> Result<Self, ApiError> {
        let stream = fields.flag("stream")?.unwrap_or(false);
        let options = match fields.object("stream_options")? {
            Some(_) if !stream => {
                return Err(ApiError::param("stream_options", "`stream_options` needs `stream: true`"));
            }
            Some(map) => Some(Fields::of(map.clone())),
            None => None,
        };
        let include_usage = options.map(|o| o.flag("include_usage")).transpose()?.flatten().unwrap_or(false);
        Ok(Self {
            max_tokens: max_tokens(fields, limits)?,
            n: fields.whole("n", 1..=limits.choices as i64)?.unwrap_or(1) as usize,
            sampling: sampling(fields, limits)?,
            stop: fields.texts("stop", MAX_STOPS)?.into_iter().filter(|s| !s.is_empty()).collect(),
            stop_token_ids: fields.ids("stop_token_ids")?,
            ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
            stream,
            include_usage,
        })
    }

    /// All tokens that end an answer: the model's own, and those that the request names.
    pub fn stop_ids(&self, model: &ModelHandle) -> Vec<u32> {
        let own: &[u32] = if self.ignore_eos { &[] } else { &model.stop_ids };
        own.iter().chain(&self.stop_token_ids).copied().collect()
    }
}

impl ParamLimits {
    /// The limits of a server for one of its models.
    pub fn of(limits: &Limits, model: &ModelHandle) -> Self {
        Self {
            choices: limits.choices,
            new_tokens: limits.new_tokens,
            vocab_size: model.config.vocab_size as usize,
            zero_tokens: false,
        }
    }
}

fn max_tokens(fields: &Fields, limits: &ParamLimits) -> Result<Option<usize>, ApiError> {
    let least = if limits.zero_tokens { 0 } else { 1 };
    let old = fields.whole("max_tokens", least..=i64::MAX)?;
    let new = fields.whole("max_completion_tokens", least..=i64::MAX)?;
    // More than the server's limit is no error, nor is more than the room: the finish reason is `length`.
    Ok(new.or(old).map(|given| usize::try_from(given).unwrap_or(usize::MAX).min(limits.new_tokens)))
}

fn sampling(fields: &Fields, limits: &ParamLimits) -> Result<SamplingParams, ApiError> {
    let top_p = fields.number("top_p", 0.0..=1.0)?.unwrap_or(1.0);
    // Some clients send -1 for all tokens.
    let top_k = fields.whole("top_k", -1..=i64::MAX)?.unwrap_or(0).max(0);
    let seed = fields.whole("seed", i64::MIN..=i64::MAX)?;
    Ok(SamplingParams {
        temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(1.0),
        top_k: top_k as usize,
        // The smallest set that is not empty: the likeliest token.
        top_p: top_p.max(1e-9),
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(0.0),
        repetition_penalty: fields.number("repetition_penalty", 0.01..=10.0)?.unwrap_or(1.0),
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        logit_bias: logit_bias(fields, limits.vocab_size)?,
        seed: seed.map_or_else(rand::random, |seed| seed as u64),
    })
}

fn logit_bias(fields: &Fields, vocab_size: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(map) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let wrong = |key: &str, what: &str| {
        Err(ApiError::param("logit_bias", format!("`logit_bias` of `{key}`: {what}")))
    };
    if map.len() > MAX_BIASES {
        return wrong("", &format!("at most {MAX_BIASES} tokens can have one"));
    }
    let mut biases = Vec::with_capacity(map.len());
    for (key, value) in map {
        let Some(id) = key.parse::<u32>().ok().filter(|&id| (id as usize) < vocab_size) else {
            return wrong(key, &format!("not a token id below {vocab_size}"));
        };
        match value.as_f64() {
            Some(bias) if (-100.0..=100.0).contains(&bias) => biases.push((id, bias as f32)),
            _ => return wrong(key, "give a number from -100 to 100"),
        }
    }
    Ok(biases)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<GenerationParams, String> {
        let limits = ParamLimits { choices: 4, new_tokens: 100, vocab_size: 50, zero_tokens: false };
        GenerationParams::read(&Fields::read(text.as_bytes()).unwrap(), &limits)
            .map_err(|f| f.body()["error"]["param"].as_str().unwrap_or("-").to_owned())
    }

    #[test]
    fn log_probabilities_are_bounded() {
        assert!(check_logprobs(usize::MAX, None, MAX_CHAT_LOGPROBS).is_ok());
        // One of the longest answers, or sixteen plain ones.
        assert!(
            check_logprobs(4096, Some(20), MAX_CHAT_LOGPROBS).is_ok()
                && check_logprobs(16 * 4096, Some(0), MAX_CHAT_LOGPROBS).is_ok()
        );
        assert!(check_logprobs(16 * 4096, Some(20), MAX_CHAT_LOGPROBS).is_err());
        // A harness's batch of prompts.
        assert!(check_logprobs(64 * 2048, Some(1), MAX_LOGPROBS).is_ok());
        assert!(check_logprobs(64 * 8192, Some(20), MAX_LOGPROBS).is_err());
        assert!(check_logprobs(usize::MAX, Some(usize::MAX - 1), MAX_LOGPROBS).is_err());
    }

    #[test]
    fn settings_are_read_and_faults_name_their_field() {
        let params = read(
            r#"{"max_completion_tokens": 7, "n": 2, "stop": ["a", ""], "seed": -1, "top_k": -1, "stream": true,
                "stream_options": {"include_usage": true}, "logit_bias": {"3": -100}, "temperature": 0}"#,
        )
        .unwrap();
        assert_eq!(
            (params.max_tokens, params.n, params.stop, params.include_usage),
            (Some(7), 2, vec!["a".to_owned()], true)
        );
        assert_eq!((params.sampling.logit_bias, params.sampling.seed), (vec![(3, -100.0)], u64::MAX));
        for (text, param) in [
            (r#"{"temperature": 9}"#, "temperature"),
            (r#"{"max_tokens": -1}"#, "max_tokens"),
            (r#"{"max_tokens": 0}"#, "max_tokens"),
            (r#"{"max_tokens": "5"}"#, "max_tokens"),
            (r#"{"n": 5}"#, "n"),
            (r#"{"top_p": 1.5}"#, "top_p"),
            (r#"{"logit_bias": {"50": 1}}"#, "logit_bias"),
            (r#"{"logit_bias": {"1": 101}}"#, "logit_bias"),
            (r#"{"stop": {}}"#, "stop"),
            (r#"{"stream_options": {}}"#, "stream_options"),
        ] {
            assert_eq!(read(text).unwrap_err(), param, "{text}");
        }
        for given in ["101", "9000000000000000000"] {
            let params = read(&format!(r#"{{"max_tokens": {given}}}"#)).unwrap();
            assert_eq!(params.max_tokens, Some(100), "{given}");
        }
        assert_ne!(read("{}").unwrap().sampling.seed, read("{}").unwrap().sampling.seed);
    }
}
