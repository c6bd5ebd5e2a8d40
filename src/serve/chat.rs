//! `POST /v1/chat/completions`.
//!
//! Next: [`super::messages`] (what is asked), [`super::split`] (thinking and tool calls), [`super::reply`]
//! (how pieces become JSON).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::answer::Answer;
use super::ask::{Ask, check_logprobs};
use super::assemble::Assembler;
use super::demand::Demand;
use super::fault::Fault;
use super::fields::Fields;
use super::format::Format;
use super::messages;
use super::prompt::Prompt;
use super::reply::{Head, Voice};
use super::split::{Calls, Reading};
use super::state::Shared;
use super::worker::Live;
use super::{body, stream};
use crate::rollout::GenerateRequest;
use crate::rollout::tools::calls::PYTHON_TAG;

/// A request, read and made ready.
struct Ready {
    live: Arc<Live>,
    model: String,
    ask: Ask,
    orders: Vec<GenerateRequest>,
    voice: Voice,
    /// Special tokens that belong to calls.
    shown: Vec<u32>,
}

/// Answers.
pub async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Fault> {
    let bytes = body::read(request, &shared.settings.limits).await?;
    let state = Arc::clone(&shared);
    let ready = body::apart(move || read(&state, &bytes)).await?;
    let Ready { live, model, ask, orders, voice, shown } = ready;
    let places = shared.reserve(&live, ask.n)?;
    let assembler = |o: &GenerateRequest| Assembler::new(&ask.stop, o.stop_ids.clone(), false, shown.clone());
    let assemblers = orders.iter().map(assembler).collect();
    let limits = &shared.settings.limits;
    let answer = Answer::start(live, orders, assemblers, places, limits.request, Arc::clone(&shared.metrics));
    let voices = vec![voice; ask.n];
    if ask.stream {
        let head = Head::new("chatcmpl", "chat.completion.chunk", model);
        return Ok(stream::chat(answer, voices, head, ask.include_usage));
    }
    let head = Head::new("chatcmpl", "chat.completion", model);
    Ok(axum::Json(whole(answer, voices, &head).await?).into_response())
}

fn read(shared: &Shared, bytes: &[u8]) -> Result<Ready, Fault> {
    let fields = Fields::read(bytes)?;
    let (model, live) = shared.model(fields.text("model")?)?;
    let ask = Ask::read(&fields, &shared.ask_limits(&live, false))?;
    let format = Format::read(&fields)?;
    let top = top_logprobs(&fields)?;
    let demand = Demand::of(&messages::tools(&fields)?);
    if demand.is_some() && format != Format::Text {
        let message = "a demanded tool call leaves no room for a format; leave one of the two out";
        return Err(Fault::param("response_format", message));
    }
    // A demanded call and a format start at once: there is no room for thinking.
    let may_think = demand.is_none() && format == Format::Text;
    let Prompt { text: mut prompt, tools, thinking, continued } =
        Prompt::read(&fields, &live.tokenizer, may_think)?;
    if thinking && !may_think {
        prompt.push_str("\n</think>\n\n");
    }
    if demand.is_some() {
        prompt.push_str(&live.calls.open);
    }
    let reading = match &demand {
        Some(demand) => Reading::Demanded { name: demand.name.clone() },
        None if !tools.list.is_empty() => Reading::Calls,
        None => Reading::NoCalls,
    };
    let shown = match &reading {
        Reading::NoCalls => Vec::new(),
        _ => marks(&live)?,
    };
    let calls = Calls { form: Arc::clone(&live.calls), tools: Arc::new(tools.list) };
    let voice = Voice::new(thinking && may_think, (reading, calls), tools.parallel, top.is_some());
    let voice = if continued && demand.is_none() { voice.going_on() } else { voice };
    live.fits(prompt.len(), "messages")?;
    let ids = live.tokenizer.encode(&prompt)?;
    let room = shared.room(&live, ids.len(), "messages")?;
    let order = GenerateRequest {
        sampling: ask.sampling.clone(),
        stop_ids: stop_ids(&ask, &live),
        logprobs: top,
        ..GenerateRequest::new(
            0,
            ids,
            ask.max_tokens.unwrap_or(shared.settings.limits.default_new_tokens).min(room),
        )
    };
    if !ask.stream {
        check_logprobs(ask.n.saturating_mul(order.max_new_tokens), top, true)?;
    }
    let mut orders: Vec<GenerateRequest> = (0..ask.n).map(|i| order.for_choice(i)).collect();
    for order in &mut orders {
        order.constraint = match &demand {
            Some(demand) => Some(demand.constraint(&live)?),
            None => format.constraint(&live)?,
        };
    }
    Ok(Ready { live, model, ask, orders, voice, shown })
}

/// The tokens that the model writes around its calls, special ones among them, but for those that end an answer.
fn marks(live: &Live) -> Result<Vec<u32>, Fault> {
    let mut marks = Vec::new();
    for text in live.calls.texts().into_iter().chain([PYTHON_TAG]) {
        marks.extend(live.tokenizer.encode(text)?);
    }
    marks.retain(|id| !live.ends.contains(id));
    Ok(marks)
}

/// The model's end marks and what the client names.
pub fn stop_ids(ask: &Ask, live: &Live) -> Vec<u32> {
    let own: &[u32] = if ask.ignore_eos { &[] } else { &live.ends };
    own.iter().chain(&ask.stop_ids).copied().collect()
}

fn top_logprobs(fields: &Fields) -> Result<Option<usize>, Fault> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.whole("top_logprobs", 0..=20)?;
    match (wanted, top) {
        (false, Some(_)) => Err(Fault::param("top_logprobs", "`top_logprobs` needs `logprobs: true`")),
        (true, top) => Ok(Some(top.unwrap_or(0) as usize)),
        (false, None) => Ok(None),
    }
}

/// The answer in one piece.
async fn whole(mut answer: Answer, mut voices: Vec<Voice>, head: &Head) -> Result<Value, Fault> {
    while let Some(update) = answer.next().await {
        let (index, update) = update?;
        let ends = voices[index].hear(&answer.live.tokenizer, update);
        if ends {
            answer.end(index);
        }
    }
    let choices = voices.into_iter().enumerate().map(|(i, voice)| voice.choice(i)).collect();
    Ok(head.whole(choices, answer.usage()))
}
