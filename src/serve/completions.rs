//! `POST /v1/completions`: text or token ids to go on from, as evaluation harnesses send them.
//!
//! Text is taken as it is: no token is put before it unless `add_special_tokens` asks for the opening one.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::{Answer, Update};
use super::ask::{Ask, check_logprobs};
use super::assemble::{Assembler, PlainLogprobs, Shown, TextPlace};
use super::chat::stop_ids;
use super::fault::Fault;
use super::fields::{Fields, token_ids};
use super::reply::Head;
use super::state::Shared;
use super::worker::Live;
use super::{body, stream};
use crate::data::Tokenizer;
use crate::rollout::{GenerateRequest, ScoredToken};

/// New tokens where the client names no number, as the interface says.
const DEFAULT_TOKENS: usize = 16;

/// A request, read and made ready.
struct Ready {
    live: Arc<Live>,
    model: String,
    ask: Ask,
    orders: Vec<GenerateRequest>,
    choices: Vec<Plain>,
    list_end: bool,
}

/// Answers.
pub async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Fault> {
    let bytes = body::read(request, &shared.settings.limits).await?;
    let state = Arc::clone(&shared);
    let ready = body::apart(move || read(&state, &bytes)).await?;
    let Ready { live, model, ask, orders, mut choices, list_end } = ready;
    let places = shared.reserve(&live, orders.len())?;
    let assemblers =
        orders.iter().map(|o| Assembler::new(&ask.stop, o.stop_ids.clone(), list_end, Vec::new())).collect();
    let limits = &shared.settings.limits;
    let mut answer =
        Answer::start(live, orders, assemblers, places, limits.request, Arc::clone(&shared.metrics));
    let head = Head::new("cmpl", "text_completion", model);
    if ask.stream {
        let on_update = move |answer: &mut Answer, index: usize, update: Update| {
            choices[index].hear(answer, update);
            choices[index].chunk(index)
        };
        return Ok(stream::events(answer, Vec::new(), head, ask.include_usage, on_update));
    }
    while let Some(update) = answer.next().await {
        let (index, update) = update?;
        choices[index].hear(&answer, update);
    }
    let choices = choices.iter_mut().enumerate().map(|(i, choice)| choice.take(i)).collect();
    Ok(axum::Json(head.whole(choices, answer.usage())).into_response())
}

fn read(shared: &Shared, bytes: &[u8]) -> Result<Ready, Fault> {
    let fields = Fields::read(bytes)?;
    let (model, live) = shared.model(fields.text("model")?)?;
    let ask = Ask::read(&fields, &shared.ask_limits(&live, true))?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    let logprobs = match fields.get("logprobs") {
        Some(Value::Bool(flag)) => flag.then_some(0),
        _ => fields.whole("logprobs", 0..=20)?.map(|n| n as usize),
    };
    for unknown in ["suffix", "best_of"] {
        if fields.get(unknown).is_some_and(|v| *v != json!(1) && *v != json!(ask.n)) {
            return Err(Fault::param(unknown, format!("`{unknown}` is not known here")));
        }
    }
    let ids = fields.flag("return_token_ids")?.unwrap_or(false);
    let prompts = prompts(&fields, &live, shared.settings.limits.prompts)?;
    let mut orders = Vec::new();
    let mut choices = Vec::new();
    for (text, prompt) in prompts {
        let room = shared.room(&live, prompt.len(), "prompt")?;
        let order = GenerateRequest {
            sampling: ask.sampling.clone(),
            stop_ids: stop_ids(&ask, &live),
            logprobs,
            prompt_logprobs: echo && logprobs.is_some(),
            ..GenerateRequest::new(0, prompt, ask.max_tokens.unwrap_or(DEFAULT_TOKENS).min(room))
        };
        for number in 0..ask.n {
            orders.push(order.for_choice(number));
            choices.push(Plain::new(echo.then(|| text.clone()), logprobs.is_some(), ids));
        }
    }
    let new = |order: &GenerateRequest| if ask.stream { 0 } else { order.max_new_tokens };
    let old = |order: &GenerateRequest| if order.prompt_logprobs { order.prompt.len() } else { 0 };
    check_logprobs(orders.iter().map(|order| new(order) + old(order)).sum(), logprobs, false)?;
    Ok(Ready { live, model, ask, orders, choices, list_end: logprobs.is_some() || ids })
}

/// Each prompt's text and ids: a string, a list of strings, a list of ids, or a list of lists of ids.
pub fn prompts(fields: &Fields, live: &Live, most: usize) -> Result<Vec<(String, Vec<u32>)>, Fault> {
    let name = if fields.get("input").is_some() { "input" } else { "prompt" };
    let wrong = || {
        Fault::param(name, format!("`{name}` must be a string, strings, token ids, or lists of token ids"))
    };
    let bos = fields.flag("add_special_tokens")?.unwrap_or(false);
    let value = fields.get(name).ok_or_else(|| Fault::param(name, format!("`{name}` is missing")))?;
    let of_text = |text: &str| -> Result<(String, Vec<u32>), Fault> {
        live.fits(text.len(), name)?;
        let mut ids = if bos { live.tokenizer.encode_raw(text)? } else { live.tokenizer.encode(text)? };
        // A model needs something to start from.
        if ids.is_empty() {
            ids.push(live.tokenizer.prefix_id());
        }
        Ok((text.to_owned(), ids))
    };
    let of_ids = |value: &Value| -> Result<(String, Vec<u32>), Fault> {
        let ids = token_ids(value).ok_or_else(wrong)?;
        live.fits_tokens(ids.len(), name)?;
        known(name, &ids, live)?;
        if ids.is_empty() {
            return Err(Fault::param(name, format!("`{name}` holds no token")));
        }
        Ok((live.tokenizer.decode(&ids, false)?, ids))
    };
    let list = match value {
        Value::String(text) => return Ok(vec![of_text(text)?]),
        Value::Array(list) if !list.is_empty() => list,
        _ => return Err(wrong()),
    };
    if list[0].is_number() {
        return Ok(vec![of_ids(value)?]);
    }
    if list.len() > most {
        return Err(Fault::param(
            name,
            format!("`{name}` has {} entries; at most {most} go together", list.len()),
        ));
    }
    list.iter()
        .map(|entry| match entry {
            Value::String(text) => of_text(text),
            Value::Array(_) => of_ids(entry),
            _ => Err(wrong()),
        })
        .collect()
}

/// Whether the model has all of a field's tokens.
pub fn known(name: &str, ids: &[u32], live: &Live) -> Result<(), Fault> {
    let vocab_size = live.config.vocab_size;
    match ids.iter().find(|&&id| i64::from(id) >= vocab_size) {
        Some(id) => Err(Fault::param(name, format!("`{name}` holds token {id}; the model has {vocab_size}"))),
        None => Ok(()),
    }
}

/// One choice as it is made.
#[derive(Debug)]
struct Plain {
    /// What was gathered and is not out yet; at first the prompt, where it is repeated.
    text: String,
    /// Where the next new token stands in the text.
    place: TextPlace,
    logprobs: Option<PlainLogprobs>,
    /// New tokens by their ids, where they are asked for (vLLM's `return_token_ids`).
    ids: Option<Vec<u32>>,
    finish: Option<&'static str>,
}

impl Plain {
    fn new(echo: Option<String>, logprobs: bool, ids: bool) -> Self {
        let text = echo.unwrap_or_default();
        let logprobs = logprobs.then(PlainLogprobs::default);
        // An answer's special tokens are not in its text.
        let place = TextPlace::new(text.chars().count(), true);
        Self { place, text, logprobs, ids: ids.then(Vec::new), finish: None }
    }

    fn hear(&mut self, answer: &Answer, update: Update) {
        match update {
            Update::Prompt(scored) => {
                let mut place = TextPlace::new(0, false);
                self.list(&answer.live.tokenizer, scored.iter(), &mut place);
            }
            Update::Shown(shown) => self.shown(answer, shown),
            Update::End(shown, reason) => {
                self.shown(answer, shown);
                self.finish = Some(reason);
            }
        }
    }

    fn shown(&mut self, answer: &Answer, shown: Shown) {
        let mut place = std::mem::take(&mut self.place);
        self.list(&answer.live.tokenizer, shown.entries.iter().map(|entry| &entry.token), &mut place);
        self.place = place;
        if let Some(ids) = &mut self.ids {
            ids.extend(shown.entries.iter().map(|entry| entry.token.id));
        }
        self.text.push_str(&shown.text);
    }

    fn list<'a>(
        &mut self,
        tokenizer: &Tokenizer,
        tokens: impl Iterator<Item = &'a ScoredToken>,
        place: &mut TextPlace,
    ) {
        if let Some(list) = &mut self.logprobs {
            for scored in tokens {
                list.push(tokenizer, scored, place.take(tokenizer, scored.id));
            }
        }
    }

    /// What is new, as a choice of a chunk.
    fn chunk(&mut self, index: usize) -> Vec<Value> {
        let nothing = self.text.is_empty() && self.finish.is_none();
        if nothing { Vec::new() } else { vec![self.take(index)] }
    }

    /// Takes out what was gathered.
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
