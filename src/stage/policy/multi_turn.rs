//! Multi-turn rollouts with tools: the results of the calls of a turn are appended, and the policy generates the next
//! turn, until it calls no tool, or turns or length are used up.
//!
//! Tokens that the policy generated stay as they are; only what follows them is rendered: the text that the
//! template puts after an assistant's turn. Next: `rollout::tools`, which runs calls.

use serde_json::{Value, json};

use super::answer::{Answer, turn_text};
use super::generator::Completer;
use crate::data::random::mix;
use crate::data::tokenizer::RenderOptions;
use crate::data::{Prompt, Tokenizer};
use crate::error::Result;
use crate::rollout::tools::{ToolCall, ToolCallFormat, Tools};
use crate::rollout::{CompletionConfig, FinishReason};

/// Most calls of one turn that are run.
const MOST_CALLS: usize = 8;

/// Multi-turn generation with tools.
pub struct MultiTurn {
    /// The tools that the stage can run.
    pub tools: Tools,
    /// How the policy writes calls of them.
    pub calls: ToolCallFormat,
    /// Most assistant turns.
    pub max_turns: usize,
    /// Most tokens after the prompt, all turns and results together.
    pub max_total_len: usize,
}

/// An answer that gets another turn.
struct OpenConversation {
    row: usize,
    ids: Vec<u32>,
}

impl MultiTurn {
    /// Continues answers that end in tool calls, in place, turn by turn; there are `per` answers to each prompt.
    ///
    /// # Errors
    /// Generation fails, or the chat template cannot render the results.
    pub fn continue_all(
        &self,
        completer: Completer<'_>,
        tokenizer: &Tokenizer,
        (prompts, per): (&[Prompt], usize),
        answers: &mut [Answer],
        config: &CompletionConfig,
    ) -> Result<()> {
        for turn in 2..=self.max_turns {
            let mut open = Vec::new();
            for (row, answer) in answers.iter_mut().enumerate() {
                if answer.turns + 1 == turn
                    && let Some(ids) =
                        self.next_prompt(tokenizer, &prompts[row / per], answer, &config.eos_ids)?
                {
                    open.push(OpenConversation { row, ids });
                }
            }
            if open.is_empty() {
                break;
            }
            let ids: Vec<Vec<u32>> = open.iter().map(|open| open.ids.clone()).collect();
            // Another seed each turn; rows of a turn differ by their place.
            let config = CompletionConfig { seed: mix(config.seed ^ turn as u64), ..config.clone() };
            for (open, completion) in open.iter().zip(completer.generate_completions(&ids, 1, &config)?) {
                let answer = &mut answers[open.row];
                // What is beyond the bound is neither learned from nor rewarded.
                let taken = completion.ids.len().min(self.max_total_len.saturating_sub(answer.ids.len()));
                let cut = taken < completion.ids.len();
                let said = &completion.ids[..taken];
                answer.text = turn_text(tokenizer, said, &config.eos_ids)?;
                answer.learn.extend(std::iter::repeat_n(true, taken));
                answer.logprobs.extend(&completion.model_logprobs[..taken]);
                answer.ids.extend(said);
                answer.finish = if cut { FinishReason::Length } else { completion.finish };
                answer.turns = turn;
            }
        }
        Ok(())
    }

    /// Runs the calls of the last turn and appends their results; the ids of the whole row so far, or `None` where the
    /// conversation is over.
    fn next_prompt(
        &self,
        tokenizer: &Tokenizer,
        prompt: &Prompt,
        answer: &mut Answer,
        ends: &[u32],
    ) -> Result<Option<Vec<u32>>> {
        if answer.finish != FinishReason::Stop {
            return Ok(None);
        }
        let schemas = prompt.tools.clone().unwrap_or_else(|| self.tools.schemas());
        let calls = self.calls.parse(&answer.text, schemas.as_array().map_or(&[], Vec::as_slice));
        if calls.is_empty() {
            return Ok(None);
        }
        let results = self.tools.messages(&calls, MOST_CALLS);
        let after = after_turn(tokenizer, prompt, (&self.calls, &calls), &results)?;
        // The policy wrote the end mark itself.
        let added = tokenizer.encode(tokenizer.strip_eos(&after, ends))?;
        if answer.ids.len() + added.len() >= self.max_total_len {
            answer.finish = FinishReason::Length;
            return Ok(None);
        }
        answer.learn.extend(std::iter::repeat_n(false, added.len()));
        answer.logprobs.extend(std::iter::repeat_n(0.0, added.len()));
        answer.ids.extend(added);
        Ok(Some(prompt.ids.iter().chain(&answer.ids).copied().collect()))
    }
}

/// What the template puts behind an assistant's turn, its end mark and the results up to the next one's beginning.
fn after_turn(
    tokenizer: &Tokenizer,
    prompt: &Prompt,
    (form, calls): (&ToolCallFormat, &[ToolCall]),
    results: &[Value],
) -> Result<String> {
    const MARK: &str = "\u{1}turn\u{1}";
    let mut messages = prompt.messages.clone();
    messages.push(json!({"role": "assistant", "content": MARK}));
    messages.extend(results.iter().cloned());
    let text =
        tokenizer.apply_chat_template(&Value::from(messages), prompt.tools.as_ref(), RenderOptions::prompt());
    if let Ok(text) = &text
        && let Some((_, after)) = text.rsplit_once(MARK)
    {
        return Ok(after.to_owned());
    }
    // Some templates take results behind calls alone, and by their ids: what stands behind the last call.
    const LAST: &str = "Last7call";
    let id = |i: usize| format!("call{i:05}");
    let mut messages = prompt.messages.clone();
    let called = |(i, call): (usize, &ToolCall)| {
        let arguments = if i + 1 == results.len() { json!({"a": LAST}) } else { call.arguments.clone() };
        json!({"id": id(i), "type": "function", "function": {"name": call.name, "arguments": arguments}})
    };
    let calls: Vec<Value> = calls.iter().take(results.len()).enumerate().map(called).collect();
    messages.push(json!({"role": "assistant", "content": "", "tool_calls": calls}));
    for (i, result) in results.iter().enumerate() {
        let mut result = result.clone();
        (result["tool_call_id"], result["name"]) = (id(i).into(), calls[i]["function"]["name"].clone());
        messages.push(result);
    }
    let again = tokenizer.render_chat(&messages, prompt.tools.as_ref(), &RenderOptions::prompt(), false);
    let Some((_, after)) = again.as_deref().ok().and_then(|whole| whole.rsplit_once(LAST)) else {
        return text.map(|_| String::new());
    };
    let rest = after.strip_prefix("\"}").unwrap_or(after);
    let closed = form.closing_text(&id(results.len().saturating_sub(1)));
    Ok(rest.strip_prefix(closed.as_str()).unwrap_or(rest).to_owned())
}
