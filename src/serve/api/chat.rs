//! `POST /v1/chat/completions`.
//!
//! Next: [`super::prompt`] (messages to the prompt's text), [`super::output_parser`] (thinking and tool calls),
//! [`super::reply`] (the JSON of an answer).

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::fields::Fields;
use super::forced_tool_call::ForcedToolCall;
use super::messages;
use super::output_parser::{OutputParser, ToolCallMode, ToolSyntax};
use super::params::{GenerationParams, MAX_CHAT_LOGPROBS, ParamLimits, check_logprobs};
use super::prompt::Prompt;
use super::reply::{ChoiceBuilder, ResponseHead};
use super::response_format::ResponseFormat;
use super::{run_blocking, stream};
use crate::rollout::GenerateRequest;
use crate::rollout::tools::calls::PYTHON_TAG;
use crate::serve::body::RequestBody;
use crate::serve::engine::detokenizer::IncrementalDetokenizer;
use crate::serve::engine::handle::ModelHandle;
use crate::serve::engine::output::OutputStream;
use crate::serve::error::ApiError;
use crate::serve::state::AppState;

/// A request, read and checked.
struct Parsed {
    name: String,
    model: Arc<ModelHandle>,
    params: GenerationParams,
    requests: Vec<GenerateRequest>,
    /// The builder of each choice, at its start.
    builder: ChoiceBuilder,
    /// Special tokens that belong to tool calls and are text for the parser.
    call_tokens: Vec<u32>,
}

/// Answers with the assistant's message, in one piece or as a stream.
///
/// # Errors
/// A field that is wrong, messages that are too long, a full queue, a model that fails, too little time.
pub async fn handle(State(state): State<Arc<AppState>>, body: RequestBody) -> Result<Response, ApiError> {
    let shared = Arc::clone(&state);
    let parsed = run_blocking(move || parse(&shared, &body)).await?;
    let Parsed { name, model, params, requests, builder, call_tokens } = parsed;
    let permits = state.reserve(&model, params.n)?;
    let with_detokenizer = |request: GenerateRequest| {
        let detokenizer = IncrementalDetokenizer::new(&params.stop, request.stop_ids.clone());
        (request, detokenizer.with_special_tokens(call_tokens.clone()))
    };
    let requests = requests.into_iter().map(with_detokenizer).collect();
    let timeout = state.settings.limits.request;
    let output = OutputStream::start(model, requests, permits, timeout, Arc::clone(&state.metrics));
    let builders = vec![builder; params.n];
    if params.stream {
        let head = ResponseHead::new("chatcmpl", "chat.completion.chunk", name);
        return Ok(stream::chat(output, builders, head.with_stream_usage(params.include_usage)));
    }
    let head = ResponseHead::new("chatcmpl", "chat.completion", name);
    Ok(axum::Json(collect(output, builders, &head).await?).into_response())
}

fn parse(state: &AppState, body: &[u8]) -> Result<Parsed, ApiError> {
    let fields = Fields::read(body)?;
    let (name, model) = state.model(fields.text("model")?)?;
    let params = GenerationParams::read(&fields, &ParamLimits::of(&state.settings.limits, &model))?;
    let format = ResponseFormat::read(&fields)?;
    let top = top_logprobs(&fields)?;
    let forced = ForcedToolCall::of(&messages::tools(&fields)?);
    if forced.is_some() && format != ResponseFormat::Text {
        let message = "a demanded tool call leaves no room for a format; leave one of the two out";
        return Err(ApiError::param("response_format", message));
    }
    // A forced call and a format start at once: there is no room for thinking.
    let may_think = forced.is_none() && format == ResponseFormat::Text;
    let mut prompt = Prompt::read(&fields, &model.tokenizer, may_think)?;
    if prompt.thinking && !may_think {
        prompt.text.push_str("\n</think>\n\n");
        prompt.thinking = false;
    }
    if forced.is_some() {
        prompt.text.push_str(&model.call_format.open);
    }
    let mode = match &forced {
        Some(forced) => ToolCallMode::Forced { name: forced.name.clone() },
        None if !prompt.tools.list.is_empty() => ToolCallMode::Auto,
        None => ToolCallMode::None,
    };
    let call_tokens = match &mode {
        ToolCallMode::None => Vec::new(),
        _ => call_tokens(&model)?,
    };
    model.check_text_bytes(prompt.text.len(), "messages")?;
    let ids = model.tokenizer.encode(&prompt.text)?;
    let room = model.room_for_new_tokens(ids.len(), "messages")?;
    let max_tokens = params.max_tokens.unwrap_or(state.settings.limits.default_new_tokens).min(room);
    let request = GenerateRequest {
        sampling: params.sampling.clone(),
        stop_ids: params.stop_ids(&model),
        logprobs: top,
        ..GenerateRequest::new(0, ids, max_tokens)
    };
    if !params.stream {
        check_logprobs(params.n.saturating_mul(request.max_new_tokens), top, MAX_CHAT_LOGPROBS)?;
    }
    let mut requests: Vec<GenerateRequest> = (0..params.n).map(|i| request.for_choice(i)).collect();
    for request in &mut requests {
        request.constraint = match &forced {
            Some(forced) => Some(forced.constraint(&model)?),
            None => format.constraint(&model)?,
        };
    }
    let parallel = prompt.tools.parallel;
    let builder = ChoiceBuilder::new(output_parser(mode, prompt, &model))
        .with_parallel_calls(parallel)
        .with_logprobs(top.is_some());
    Ok(Parsed { name, model, params, requests, builder, call_tokens })
}

/// The parser of an answer to a prompt.
fn output_parser(mode: ToolCallMode, prompt: Prompt, model: &ModelHandle) -> OutputParser {
    let is_forced = matches!(mode, ToolCallMode::Forced { .. });
    let syntax = ToolSyntax { form: Arc::clone(&model.call_format), tools: Arc::new(prompt.tools.list) };
    let mut parser = OutputParser::new(mode, syntax);
    if prompt.thinking {
        parser = parser.in_thinking();
    }
    if prompt.continued && !is_forced {
        parser = parser.continuing();
    }
    parser
}

/// The tokens that the model writes around its calls, special ones among them, but for those that end an answer.
fn call_tokens(model: &ModelHandle) -> Result<Vec<u32>, ApiError> {
    let mut ids = Vec::new();
    for text in model.call_format.literals().into_iter().chain([PYTHON_TAG]) {
        ids.extend(model.tokenizer.encode(text)?);
    }
    ids.retain(|id| !model.stop_ids.contains(id));
    Ok(ids)
}

fn top_logprobs(fields: &Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.whole("top_logprobs", 0..=20)?;
    match (wanted, top) {
        (false, Some(_)) => Err(ApiError::param("top_logprobs", "`top_logprobs` needs `logprobs: true`")),
        (true, top) => Ok(Some(top.unwrap_or(0) as usize)),
        (false, None) => Ok(None),
    }
}

/// Waits for all choices and puts the answer together.
async fn collect(
    mut output: OutputStream,
    mut builders: Vec<ChoiceBuilder>,
    head: &ResponseHead,
) -> Result<Value, ApiError> {
    while let Some(update) = output.next().await {
        let (index, update) = update?;
        let ended = builders[index].push(&output.model.tokenizer, update);
        if ended {
            output.end(index);
        }
    }
    let choices = builders.into_iter().enumerate().map(|(i, builder)| builder.choice(i)).collect();
    Ok(head.whole(choices, output.usage()))
}
