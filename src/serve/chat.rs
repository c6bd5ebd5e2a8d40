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
use super::engine::Order;
use super::fault::Fault;
use super::fields::Fields;
use super::format::Format;
use super::messages;
use super::reply::{Head, Voice};
use super::split::Reading;
use super::state::Shared;
use super::worker::Live;
use super::{body, stream};
use crate::data::tokenizer::RenderOptions;

/// A request, read and made ready.
struct Ready {
    live: Arc<Live>,
    model: String,
    ask: Ask,
    orders: Vec<Order>,
    voice: Voice,
}

/// Answers.
pub async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Fault> {
    let bytes = body::read(request, &shared.settings.limits).await?;
    let state = Arc::clone(&shared);
    let ready = body::apart(move || read(&state, &bytes)).await?;
    let Ready { live, model, ask, orders, voice } = ready;
    let places = shared.reserve(&live, ask.n)?;
    let assemblers = orders.iter().map(|o| Assembler::new(&ask.stop, o.stop_ids.clone(), false)).collect();
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
    let list = messages::messages(&fields)?;
    let tools = messages::tools(&fields)?;
    let format = Format::read(&fields)?;
    let top = top_logprobs(&fields)?;
    let demand = Demand::of(&tools);
    if demand.is_some() && format != Format::Text {
        let message = "a demanded tool call leaves no room for a format; leave one of the two out";
        return Err(Fault::param("response_format", message));
    }
    // A demanded call and a format start at once: there is no room for thinking.
    let thinking = wants_thinking(&fields)? && demand.is_none() && format == Format::Text;
    if !live.tokenizer.has_template() {
        let message = "this model has no chat template; use /v1/completions";
        return Err(Fault::param("model", message));
    }
    let options = RenderOptions { open_thinking: thinking, ..RenderOptions::prompt() };
    let offered = (!tools.list.is_empty()).then(|| Value::from(tools.list.clone()));
    let mut prompt = live.tokenizer.render(&list, offered.as_ref(), options)?;
    let opened = prompt.trim_end().ends_with("<think>");
    if demand.is_some() {
        if opened {
            prompt.push_str("\n</think>\n\n");
        }
        prompt.push_str(Demand::START);
    }
    let reading = match &demand {
        Some(demand) => demand.reading(),
        None if offered.is_some() => Reading::Calls,
        None => Reading::NoCalls,
    };
    let voice = Voice::new(opened && demand.is_none(), reading, tools.parallel, top.is_some());
    live.fits(prompt.len(), "messages")?;
    let ids = live.tokenizer.encode(&prompt)?;
    let room = shared.room(&live, ids.len(), "messages")?;
    let order = Order {
        sampling: ask.sampling.clone(),
        stop_ids: stop_ids(&ask, &live),
        logprobs: top,
        ..Order::new(0, ids, ask.max_tokens.unwrap_or(shared.settings.limits.default_new_tokens).min(room))
    };
    if !ask.stream {
        check_logprobs(ask.n.saturating_mul(order.max_new_tokens), top, true)?;
    }
    let mut orders: Vec<Order> = (0..ask.n).map(|i| order.again(i)).collect();
    for order in &mut orders {
        order.constraint = match &demand {
            Some(demand) => Some(demand.constraint(&live)?),
            None => format.constraint(&live)?,
        };
    }
    Ok(Ready { live, model, ask, orders, voice })
}

/// The end mark and what the client names.
pub fn stop_ids(ask: &Ask, live: &Live) -> Vec<u32> {
    let own = (!ask.ignore_eos).then(|| live.tokenizer.eos_id());
    own.into_iter().chain(ask.stop_ids.iter().copied()).collect()
}

/// `chat_template_kwargs: {open_thinking | enable_thinking}`, or `open_thinking` beside the messages.
fn wants_thinking(fields: &Fields) -> Result<bool, Fault> {
    let kwargs = fields.object("chat_template_kwargs")?.cloned().map(Fields::of);
    let mut wanted = fields.flag("open_thinking")?;
    for name in ["open_thinking", "enable_thinking"] {
        wanted = wanted.or(kwargs.as_ref().map(|k| k.flag(name)).transpose()?.flatten());
    }
    Ok(wanted.unwrap_or(false))
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
