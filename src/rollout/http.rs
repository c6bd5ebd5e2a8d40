//! Rollouts from a server: SGLang's `/generate`, or OpenAI's `/v1/completions` where the server sends token ids.
//!
//! Token ids and log-probabilities are read back, never text, so that what is trained on is what was sampled. Before
//! each step the policy goes to the server as a folder it can read (`/update_weights_from_disk`). A server's choices
//! follow its own random state: a run with this engine cannot be repeated to the bit. Next: `service`, `completions`.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::service::{Service, ServiceConfig};
use super::types::{Completion, CompletionConfig, FinishReason, SamplingParams};
use crate::error::{Error, Result};

/// A server's protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// SGLang's own.
    #[default]
    Sglang,
    /// OpenAI's, with token ids: vLLM, and `minimind serve`.
    Openai,
}

/// Which server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HttpEngineConfig {
    /// Where, and with what patience.
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, flatten)]
    pub service: ServiceConfig,
    /// Its protocol: sglang, or openai with token ids.
    pub protocol: Protocol,
    /// The model's name there (openai).
    pub model: Option<String>,
    /// Completions a request.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
}

impl Default for HttpEngineConfig {
    fn default() -> Self {
        let service = ServiceConfig { timeout_secs: 600.0, ..ServiceConfig::default() };
        Self { service, protocol: Protocol::Sglang, model: None, batch_size: 64 }
    }
}

/// A server that continues prompts.
#[derive(Debug)]
pub struct HttpEngine {
    service: Service,
    config: HttpEngineConfig,
}

impl HttpEngine {
    /// A client; nothing is sent yet.
    pub fn new(config: &HttpEngineConfig) -> Self {
        Self { service: Service::new(&config.service), config: config.clone() }
    }

    /// `per_prompt` completions of each prompt, in the order of
    /// [`generate_completions`](super::completions::generate_completions).
    ///
    /// # Errors
    /// Sampling parameters other than temperature 1 over all tokens, since servers report log-probabilities of that alone; a server that fails or answers with something else.
    pub fn generate_completions(
        &self,
        prompts: &[Vec<u32>],
        per_prompt: usize,
        config: &CompletionConfig,
    ) -> Result<Vec<Completion>> {
        let plain = SamplingParams { temperature: 1.0, seed: config.sampling.seed, ..SamplingParams::GREEDY };
        if config.sampling != plain {
            return Err(Error::input(
                "a server tells log-probabilities of the whole distribution at temperature 1 alone",
            )
            .hint("set rollout.temperature: 1.0, top_p: 1.0 and top_k: 0, or use engine: native"));
        }
        let rows: Vec<usize> =
            (0..prompts.len()).flat_map(|prompt| std::iter::repeat_n(prompt, per_prompt)).collect();
        let mut answers = Vec::with_capacity(rows.len());
        for chunk in rows.chunks(self.config.batch_size.max(1)) {
            let inputs: Vec<&[u32]> = chunk.iter().map(|prompt| prompts[*prompt].as_slice()).collect();
            let read = match self.config.protocol {
                Protocol::Sglang => self.sglang(&inputs, config)?,
                Protocol::Openai => self.openai(&inputs, config)?,
            };
            if read.len() != chunk.len() {
                return Err(self.unexpected(format!(
                    "{} answers came for {} prompts",
                    read.len(),
                    chunk.len()
                )));
            }
            for (prompt, (ids, logprobs, finish)) in chunk.iter().zip(read) {
                answers.push(Completion {
                    prompt: *prompt,
                    ids,
                    model_logprobs: logprobs.clone(),
                    logprobs,
                    finish,
                });
            }
        }
        Ok(answers)
    }

    /// Makes the server read the weights of a Hugging Face folder, which it must be able to see under this path.
    ///
    /// # Errors
    /// A server that refuses, or has no such call.
    pub fn update_weights(&self, folder: &Path) -> Result<()> {
        let body = json!({"model_path": folder, "flush_cache": true});
        let answer = self.service.post("/update_weights_from_disk", &body)?;
        if answer["success"].as_bool() == Some(true) {
            return Ok(());
        }
        let message = answer["message"].as_str().map_or_else(|| answer.to_string(), str::to_owned);
        Err(Error::failed(format!("{} did not take the new weights", self.config.service.url))
            .because(message)
            .hint(format!("can the server read {}?", folder.display())))
    }

    /// Makes `minimind serve` read its models again.
    ///
    /// # Errors
    /// A server that refuses, or has no such call.
    pub fn reload(&self) -> Result<()> {
        let body = self.config.model.as_ref().map_or_else(|| json!({}), |model| json!({"model": model}));
        self.service.post("/admin/reload", &body).map(drop)
    }

    fn unexpected(&self, what: String) -> Error {
        Error::failed(format!("{}: {what}", self.config.service.url))
            .hint("check `rollout.protocol` (sglang or openai) and the server's version")
    }

    fn sglang(&self, inputs: &[&[u32]], config: &CompletionConfig) -> Result<Vec<ParsedChoice>> {
        let body = json!({
            "input_ids": inputs,
            "sampling_params": {
                "max_new_tokens": config.max_new_tokens,
                "temperature": 1.0,
                "top_p": 1.0,
                "top_k": -1,
                "stop_token_ids": config.eos_ids,
                "skip_special_tokens": false,
            },
            "return_logprob": true,
        });
        let answer = self.service.post("/generate", &body)?;
        // One prompt is answered by an object, several by a list.
        let list = answer.as_array().map_or(std::slice::from_ref(&answer), Vec::as_slice);
        list.iter().map(|one| read_sglang(one).map_err(|what| self.unexpected(what))).collect()
    }

    fn openai(&self, inputs: &[&[u32]], config: &CompletionConfig) -> Result<Vec<ParsedChoice>> {
        let mut body = json!({
            "prompt": inputs,
            "max_tokens": config.max_new_tokens,
            "temperature": 1.0,
            "top_p": 1.0,
            "logprobs": 0,
            "stop_token_ids": config.eos_ids,
            "return_token_ids": true,
            "return_tokens_as_token_ids": true,
        });
        if let Some(model) = &self.config.model {
            body["model"] = json!(model);
        }
        let answer = self.service.post("/v1/completions", &body)?;
        let Some(choices) = answer["choices"].as_array() else {
            return Err(self.unexpected(format!("no `choices` in the answer: {}", start(&answer))));
        };
        let mut choices: Vec<&Value> = choices.iter().collect();
        choices.sort_by_key(|choice| choice["index"].as_u64());
        choices.into_iter().map(|one| read_openai(one).map_err(|what| self.unexpected(what))).collect()
    }
}

/// Ids, their log-probabilities, and why it ended.
type ParsedChoice = (Vec<u32>, Vec<f32>, FinishReason);

fn start(value: &Value) -> String {
    value.to_string().chars().take(300).collect()
}

fn token(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

fn logprob(value: &Value) -> Option<f32> {
    value.as_f64().map(|x| x as f32).filter(|x| x.is_finite())
}

fn finish_reason(reason: &str) -> Result<FinishReason, String> {
    match reason {
        "stop" => Ok(FinishReason::Stop),
        "length" => Ok(FinishReason::Length),
        other => Err(format!("the server broke an answer off: {other}")),
    }
}

/// `{"meta_info": {"output_token_logprobs": [[logprob, id, text], ...], "finish_reason": {"type": ...}}}`.
fn read_sglang(answer: &Value) -> Result<ParsedChoice, String> {
    let meta = &answer["meta_info"];
    let list = meta["output_token_logprobs"].as_array();
    let list =
        list.ok_or_else(|| format!("no `meta_info.output_token_logprobs` in the answer: {}", start(answer)))?;
    let (mut ids, mut logprobs) = (Vec::with_capacity(list.len()), Vec::with_capacity(list.len()));
    for entry in list {
        let (Some(logprob), Some(id)) = (logprob(&entry[0]), token(&entry[1])) else {
            return Err(format!(
                "an entry of `output_token_logprobs` is {entry}, not [log-probability, id, ...]"
            ));
        };
        ids.push(id);
        logprobs.push(logprob);
    }
    if let Some(own) = answer["output_ids"].as_array()
        && !own.iter().filter_map(token).eq(ids.iter().copied())
    {
        return Err("`output_ids` and `output_token_logprobs` name different tokens".to_owned());
    }
    let reason = meta["finish_reason"]["type"].as_str().unwrap_or("none given");
    Ok((ids, logprobs, finish_reason(reason)?))
}

/// `{"token_ids": [...], "logprobs": {"tokens": ["token_id:5", ...], "token_logprobs": [...]}, "finish_reason"}`.
fn read_openai(choice: &Value) -> Result<ParsedChoice, String> {
    let reported = &choice["logprobs"];
    let own = choice["token_ids"].as_array().map(|list| list.iter().map(token).collect::<Option<Vec<u32>>>());
    let named = || {
        let id = |token: &Value| token.as_str()?.strip_prefix("token_id:")?.parse().ok();
        reported["tokens"].as_array().map(|list| list.iter().map(id).collect::<Option<Vec<u32>>>())
    };
    let ids = own.or_else(named).flatten().ok_or(
        "the server sends no token ids; it must know `return_token_ids` or `return_tokens_as_token_ids`",
    )?;
    let logprobs: Option<Vec<f32>> =
        reported["token_logprobs"].as_array().and_then(|l| l.iter().map(logprob).collect());
    let logprobs =
        logprobs.ok_or_else(|| format!("no `logprobs.token_logprobs` in the answer: {}", start(choice)))?;
    if logprobs.len() != ids.len() {
        return Err(format!("{} log-probabilities came for {} tokens", logprobs.len(), ids.len()));
    }
    Ok((ids, logprobs, finish_reason(choice["finish_reason"].as_str().unwrap_or("none given"))?))
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
