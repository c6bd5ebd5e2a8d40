//! `POST /v1/completions`: text or token ids to continue, as evaluation harnesses send them.
//!
//! Text is taken as it is: no token is put before it unless `add_special_tokens` asks for the opening one.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::fields::Fields;
use super::inputs::read_prompts;
use super::logprobs::{CompletionLogprobs, TextOffsets};
use super::params::{GenerationParams, MAX_LOGPROBS, ParamLimits, check_logprobs};
use super::reply::ResponseHead;
use super::{run_blocking, stream};
use crate::data::Tokenizer;
use crate::rollout::{GenerateRequest, ScoredToken};
use crate::serve::body::RequestBody;
use crate::serve::engine::detokenizer::{IncrementalDetokenizer, TextDelta};
use crate::serve::engine::handle::ModelHandle;
use crate::serve::engine::output::{ChoiceUpdate, OutputStream};
use crate::serve::error::ApiError;
use crate::serve::state::AppState;

/// New tokens where the request names no number, as OpenAI has it.
const DEFAULT_TOKENS: usize = 16;

/// A request, read and checked.
struct Parsed {
    name: String,
    model: Arc<ModelHandle>,
    params: GenerationParams,
    requests: Vec<GenerateRequest>,
    choices: Vec<CompletionChoice>,
    /// Whether stop tokens are listed among the choices' tokens.
    list_stop_tokens: bool,
}

/// Answers with the completions of each prompt, in one piece or as a stream.
///
/// # Errors
/// A field that is wrong, a prompt that is too long, a full queue, a model that fails, too little time.
pub async fn handle(State(state): State<Arc<AppState>>, body: RequestBody) -> Result<Response, ApiError> {
    let shared = Arc::clone(&state);
    let parsed = run_blocking(move || parse(&shared, &body)).await?;
    let Parsed { name, model, params, requests, mut choices, list_stop_tokens } = parsed;
    let permits = state.reserve(&model, requests.len())?;
    let with_detokenizer = |request: GenerateRequest| {
        let detokenizer = IncrementalDetokenizer::new(&params.stop, request.stop_ids.clone());
        (request, detokenizer.listing_stop_tokens(list_stop_tokens))
    };
    let requests = requests.into_iter().map(with_detokenizer).collect();
    let timeout = state.settings.limits.request;
    let mut output = OutputStream::start(model, requests, permits, timeout, Arc::clone(&state.metrics));
    let head = ResponseHead::new("cmpl", "text_completion", name).with_stream_usage(params.include_usage);
    if params.stream {
        let on_update = move |output: &mut OutputStream, index: usize, update: ChoiceUpdate| {
            choices[index].push(&output.model.tokenizer, update);
            choices[index].chunk(index)
        };
        return Ok(stream::events(output, Vec::new(), head, on_update));
    }
    while let Some(update) = output.next().await {
        let (index, update) = update?;
        choices[index].push(&output.model.tokenizer, update);
    }
    let choices = choices.iter_mut().enumerate().map(|(i, choice)| choice.take(i)).collect();
    Ok(axum::Json(head.whole(choices, output.usage())).into_response())
}

fn parse(state: &AppState, body: &[u8]) -> Result<Parsed, ApiError> {
    let fields = Fields::read(body)?;
    let (name, model) = state.model(fields.text("model")?)?;
    let limits = ParamLimits { zero_tokens: true, ..ParamLimits::of(&state.settings.limits, &model) };
    let params = GenerationParams::read(&fields, &limits)?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    let logprobs = match fields.get("logprobs") {
        Some(Value::Bool(flag)) => flag.then_some(0),
        _ => fields.whole("logprobs", 0..=20)?.map(|n| n as usize),
    };
    for unknown in ["suffix", "best_of"] {
        if fields.get(unknown).is_some_and(|v| *v != json!(1) && *v != json!(params.n)) {
            return Err(ApiError::param(unknown, format!("`{unknown}` is not known here")));
        }
    }
    let with_ids = fields.flag("return_token_ids")?.unwrap_or(false);
    let prompts = read_prompts(&fields, &model, state.settings.limits.prompts)?;
    let mut requests = Vec::new();
    let mut choices = Vec::new();
    for (text, prompt) in prompts {
        let room = model.room_for_new_tokens(prompt.len(), "prompt")?;
        let request = GenerateRequest {
            sampling: params.sampling.clone(),
            stop_ids: params.stop_ids(&model),
            logprobs,
            prompt_logprobs: echo && logprobs.is_some(),
            ..GenerateRequest::new(0, prompt, params.max_tokens.unwrap_or(DEFAULT_TOKENS).min(room))
        };
        for number in 0..params.n {
            requests.push(request.for_choice(number));
            choices.push(CompletionChoice {
                logprobs: logprobs.is_some().then(CompletionLogprobs::default),
                ids: with_ids.then(Vec::new),
                ..CompletionChoice::new(if echo { text.clone() } else { String::new() })
            });
        }
    }
    let generated = |r: &GenerateRequest| if params.stream { 0 } else { r.max_new_tokens };
    let of_prompt = |r: &GenerateRequest| if r.prompt_logprobs { r.prompt.len() } else { 0 };
    check_logprobs(requests.iter().map(|r| generated(r) + of_prompt(r)).sum(), logprobs, MAX_LOGPROBS)?;
    let list_stop_tokens = logprobs.is_some() || with_ids;
    Ok(Parsed { name, model, params, requests, choices, list_stop_tokens })
}

/// Builds one choice from its updates.
#[derive(Debug)]
struct CompletionChoice {
    /// Text that has not gone out; at first the prompt, where it is echoed.
    text: String,
    /// Where the next new token starts in the text.
    offsets: TextOffsets,
    logprobs: Option<CompletionLogprobs>,
    /// Ids of new tokens that have not gone out, where they are asked for (vLLM's `return_token_ids`).
    ids: Option<Vec<u32>>,
    finish: Option<&'static str>,
}

impl CompletionChoice {
    /// A choice whose text begins with `text`.
    fn new(text: String) -> Self {
        // An answer's special tokens are not in its text.
        let offsets = TextOffsets::new(text.chars().count(), true);
        Self { offsets, text, logprobs: None, ids: None, finish: None }
    }

    fn push(&mut self, tokenizer: &Tokenizer, update: ChoiceUpdate) {
        match update {
            ChoiceUpdate::Prompt(tokens) => {
                let mut offsets = TextOffsets::new(0, false);
                self.list(tokenizer, tokens.iter(), &mut offsets);
            }
            ChoiceUpdate::Delta(delta) => self.push_delta(tokenizer, delta),
            ChoiceUpdate::End(delta, reason) => {
                self.push_delta(tokenizer, delta);
                self.finish = Some(reason);
            }
        }
    }

    fn push_delta(&mut self, tokenizer: &Tokenizer, delta: TextDelta) {
        let mut offsets = std::mem::take(&mut self.offsets);
        self.list(tokenizer, delta.tokens.iter().map(|span| &span.token), &mut offsets);
        self.offsets = offsets;
        if let Some(ids) = &mut self.ids {
            ids.extend(delta.tokens.iter().map(|span| span.token.id));
        }
        self.text.push_str(&delta.text);
    }

    fn list<'a>(
        &mut self,
        tokenizer: &Tokenizer,
        tokens: impl Iterator<Item = &'a ScoredToken>,
        offsets: &mut TextOffsets,
    ) {
        if let Some(list) = &mut self.logprobs {
            for token in tokens {
                list.push(tokenizer, token, offsets.next(tokenizer, token.id));
            }
        }
    }

    /// What is new, as the choices of a chunk: one, or none.
    fn chunk(&mut self, index: usize) -> Vec<Value> {
        let is_empty = self.text.is_empty() && self.finish.is_none();
        if is_empty { Vec::new() } else { vec![self.take(index)] }
    }

    /// The choice's JSON with all that has not gone out.
    fn take(&mut self, index: usize) -> Value {
        let logprobs = self.logprobs.as_mut().map(|list| std::mem::take(list).json());
        let mut choice = json!({
            "index": index, "text": std::mem::take(&mut self.text), "logprobs": logprobs, "finish_reason": self.finish,
        });
        if let Some(ids) = &mut self.ids {
            choice["token_ids"] = json!(std::mem::take(ids));
        }
        choice
    }
}
