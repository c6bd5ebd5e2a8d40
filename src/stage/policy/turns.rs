//! Several turns with tools: what a call gives goes back to the policy, which goes on, until it calls no more,
//! or turns or length are used up.
//!
//! Tokens that the policy wrote stay as it wrote them; only what follows them is rendered: the text that the
//! template puts after an assistant's turn. Next: `rollout::tools`, which carries calls out.

use serde_json::{Value, json};

use super::generator::Writer;
use super::native::{Answer, turn_text};
use crate::data::random::mix;
use crate::data::tokenizer::RenderOptions;
use crate::data::{Prompt, Tokenizer};
use crate::error::Result;
use crate::rollout::tools::{Tools, parse_tool_calls};
use crate::rollout::{CompleteConfig, Finish};

/// Calls of one turn that are carried out.
const MOST_CALLS: usize = 8;

/// How far a conversation goes on.
pub struct Turns {
    /// The tools there are.
    pub tools: Tools,
    /// Most assistant turns.
    pub max_turns: usize,
    /// Most tokens after the prompt, all turns and results together.
    pub max_total: usize,
}

/// A conversation that goes on.
struct Open {
    row: usize,
    ids: Vec<u32>,
}

impl Turns {
    /// Takes answers that end in calls further, in place.
    pub fn go_on(
        &self,
        writer: Writer<'_>,
        tokenizer: &Tokenizer,
        prompts: &[Prompt],
        per: usize,
        answers: &mut [Answer],
        config: &CompleteConfig,
    ) -> Result<()> {
        for turn in 2..=self.max_turns {
            let mut open = Vec::new();
            for (row, answer) in answers.iter_mut().enumerate() {
                if answer.turns + 1 == turn
                    && let Some(ids) = self.next_prompt(tokenizer, &prompts[row / per], answer)?
                {
                    open.push(Open { row, ids });
                }
            }
            if open.is_empty() {
                break;
            }
            let ids: Vec<Vec<u32>> = open.iter().map(|open| open.ids.clone()).collect();
            // Another seed each turn; rows of a turn differ by their place.
            let config = CompleteConfig { seed: mix(config.seed ^ turn as u64), ..config.clone() };
            for (open, completion) in open.iter().zip(writer.complete(&ids, 1, &config)?) {
                let answer = &mut answers[open.row];
                // What is beyond the bound is neither learned from nor rewarded.
                let taken = completion.ids.len().min(self.max_total.saturating_sub(answer.ids.len()));
                let cut = taken < completion.ids.len();
                let said = &completion.ids[..taken];
                answer.text = turn_text(tokenizer, said, &config.eos_ids)?;
                answer.learn.extend(std::iter::repeat_n(true, taken));
                answer.logprobs.extend(&completion.model_logprobs[..taken]);
                answer.ids.extend(said);
                answer.finish = if cut { Finish::Length } else { completion.finish };
                answer.turns = turn;
            }
        }
        Ok(())
    }

    /// Carries the calls of the last turn out and adds their results; the whole row so far, or `None` where
    /// the conversation is over.
    fn next_prompt(
        &self,
        tokenizer: &Tokenizer,
        prompt: &Prompt,
        answer: &mut Answer,
    ) -> Result<Option<Vec<u32>>> {
        if answer.finish != Finish::Stop {
            return Ok(None);
        }
        let calls = parse_tool_calls(&answer.text);
        if calls.is_empty() {
            return Ok(None);
        }
        let results = self.tools.messages(&calls, MOST_CALLS);
        let added = tokenizer.encode(&after_turn(tokenizer, prompt, &results)?)?;
        if answer.ids.len() + added.len() >= self.max_total {
            answer.finish = Finish::Length;
            return Ok(None);
        }
        answer.learn.extend(std::iter::repeat_n(false, added.len()));
        answer.logprobs.extend(std::iter::repeat_n(0.0, added.len()));
        answer.ids.extend(added);
        Ok(Some(prompt.ids.iter().chain(&answer.ids).copied().collect()))
    }
}

/// What the template puts between the end mark of an assistant's turn and the next one's beginning.
fn after_turn(tokenizer: &Tokenizer, prompt: &Prompt, results: &[Value]) -> Result<String> {
    const MARK: &str = "\u{1}turn\u{1}";
    let mut messages = prompt.messages.clone();
    messages.push(json!({"role": "assistant", "content": MARK}));
    messages.extend(results.iter().cloned());
    let options = RenderOptions::prompt();
    let text = tokenizer.render(&Value::from(messages), prompt.tools.as_ref(), options)?;
    let after = text.rsplit_once(MARK).map_or("", |(_, after)| after);
    Ok(after.strip_prefix(tokenizer.eos_token()).unwrap_or(after).to_owned())
}
