//! Rollouts by the built-in generator: prompts in a seeded order, completions from a seed of the step's own,
//! rewards, and what is worth a column.
//!
//! A step's rows follow from the policy, the recipe's seed and the step's number alone, so that a killed run
//! rolls out the same rows again. Next: `table`, where completions are kept.

use std::sync::Arc;
use std::time::Instant;

use super::batch::Attend;
use super::generator::{Generator, Writer};
use super::source::{Fact, Rollout, Source};
use super::table::{Sampled, Table};
use super::turns::Turns;
use crate::data::random::mix;
use crate::data::{Episode, Prompt, Prompts, Tokenizer};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::rollout::rewards::{RewardInput, Rewards, Scores};
use crate::rollout::{Completion, CompletionConfig, FinishReason, SamplingParams};

/// Completions that the report shows.
const SHOWN: usize = 12;

/// What the generator needs beside the model.
pub struct Native {
    /// What continues prompts.
    pub generator: Generator,
    /// What is asked.
    pub prompts: Prompts,
    /// What is measured on.
    pub heldout: Option<Prompts>,
    /// How it is answered.
    pub measured: SamplingParams,
    /// Text and ids.
    pub tokenizer: Arc<Tokenizer>,
    /// What an answer is worth.
    pub rewards: Rewards,
    /// Names of the rewards' columns.
    pub columns: Vec<Columns>,
    /// Prompts a step.
    pub batch_size: usize,
    /// Completions a prompt.
    pub group: usize,
    /// Whether each epoch asks in a new order.
    pub shuffle: bool,
    /// Seed of order and completions.
    pub seed: u64,
    /// Most new tokens a completion.
    pub max_new_tokens: usize,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// The tokens that end a completion.
    pub eos_ids: Vec<u32>,
    /// Goes on with tools; `None`: one turn.
    pub turns: Option<Turns>,
    /// Rounds in which groups without spread are replaced.
    pub rounds: usize,
    /// Where completions are kept.
    pub table: Table,
}

/// A reward's columns; names live as long as the program, as those of metrics do.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    train: &'static str,
    heldout: &'static str,
}

impl Columns {
    /// Those of the reward called `name`.
    pub fn new(name: &str) -> Self {
        Self { train: format!("reward_{name}").leak(), heldout: format!("heldout_{name}").leak() }
    }
}

/// What followed a prompt, over one turn or several.
pub struct Answer {
    /// Tokens after the prompt.
    pub ids: Vec<u32>,
    /// Which of them the policy wrote.
    pub learn: Vec<bool>,
    /// Their log-probabilities at temperature 1, 0 for those that it did not write.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: FinishReason,
    /// What is judged: the text of the last turn, without the end mark.
    pub text: String,
    /// Assistant turns.
    pub turns: usize,
}

impl Answer {
    /// The first turn.
    pub fn new(completion: Completion, text: String) -> Self {
        Self {
            learn: vec![true; completion.ids.len()],
            logprobs: completion.model_logprobs,
            ids: completion.ids,
            finish: completion.finish,
            text,
            turns: 1,
        }
    }

    fn written(&self) -> usize {
        self.learn.iter().filter(|&&learn| learn).count()
    }
}

/// A group: a prompt with its answers and what they are worth.
struct Group {
    prompt: Prompt,
    rows: Vec<(Answer, Scores)>,
}

impl Group {
    fn flat(&self) -> bool {
        self.rows.windows(2).all(|pair| pair[0].1.total == pair[1].1.total)
    }
}

/// The text of a turn: everything before the token that ended it.
pub fn turn_text(tokenizer: &Tokenizer, ids: &[u32], eos_ids: &[u32]) -> Result<String> {
    let end = ids.iter().position(|id| eos_ids.contains(id)).unwrap_or(ids.len());
    tokenizer.decode(&ids[..end], false)
}

impl Native {
    /// The prompts of a step; epochs are filled up from their own beginning, so that all steps are alike.
    fn asked(&self, epoch: u64, index: u64, round: u64, count: usize) -> Result<Vec<Prompt>> {
        let order = self.prompts.order(epoch, self.shuffle);
        // Replacements are drawn far from what the neighbouring steps ask.
        let start = if round == 0 {
            index as usize * self.batch_size
        } else {
            mix(self.seed ^ mix((epoch << 40) ^ (index << 8) ^ round)) as usize % order.len()
        };
        let pick = |i: usize| order[(start + i) % order.len()];
        (0..count).map(|i| self.prompts.get(&self.tokenizer, pick(i), epoch)).collect()
    }

    fn answered(
        &self,
        writer: Writer<'_>,
        prompts: Vec<Prompt>,
        per: usize,
        config: &CompletionConfig,
    ) -> Result<Vec<Group>> {
        let ids: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.ids.clone()).collect();
        let most = self.turns.as_ref().map_or(usize::MAX, |turns| turns.max_total);
        let first = CompletionConfig { max_new_tokens: config.max_new_tokens.min(most), ..config.clone() };
        let completions = writer.generate_completions(&ids, per, &first)?;
        let mut answers = Vec::with_capacity(completions.len());
        for completion in completions {
            let text = turn_text(&self.tokenizer, &completion.ids, &self.eos_ids)?;
            answers.push(Answer::new(completion, text));
        }
        if let Some(turns) = &self.turns {
            turns.go_on(writer, &self.tokenizer, &prompts, per, &mut answers, config)?;
        }
        let inputs: Vec<RewardInput<'_>> = answers
            .iter()
            .enumerate()
            .map(|(i, answer)| {
                let prompt = &prompts[i / per];
                RewardInput {
                    prompt_messages: &prompt.messages,
                    prompt: &prompt.text,
                    completion: &answer.text,
                    row: &prompt.row.row,
                }
            })
            .collect();
        let scores = self.rewards.score(&inputs)?;
        let mut rows = answers.into_iter().zip(scores);
        Ok(prompts
            .into_iter()
            .map(|prompt| Group { prompt, rows: rows.by_ref().take(per).collect() })
            .collect())
    }

    fn config(&self, epoch: u64, index: u64, round: u64) -> CompletionConfig {
        CompletionConfig {
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling.clone(),
            eos_ids: self.eos_ids.clone(),
            seed: mix(self.seed ^ mix((epoch << 40) ^ (index << 8) ^ round ^ (1 << 63))),
        }
    }

    /// DAPO's dynamic sampling: groups that teach nothing are asked again with other prompts.
    fn replace_flat(&self, writer: Writer<'_>, groups: &mut [Group], epoch: u64, index: u64) -> Result<u64> {
        let mut replaced = 0;
        for round in 1..=self.rounds as u64 {
            let flat: Vec<usize> = (0..groups.len()).filter(|&i| groups[i].flat()).collect();
            if flat.is_empty() {
                break;
            }
            let prompts = self.asked(epoch, index, round, flat.len())?;
            let config = self.config(epoch, index, round);
            for (i, group) in flat.into_iter().zip(self.answered(writer, prompts, self.group, &config)?) {
                if !group.flat() {
                    groups[i] = group;
                    replaced += 1;
                }
            }
        }
        Ok(replaced)
    }

    fn facts(&self, groups: &[Group], seconds: f64) -> Vec<Fact> {
        let rows: Vec<_> = groups.iter().flat_map(|group| &group.rows).collect();
        let count = rows.len().max(1) as f64;
        let share = |hits: usize| hits as f64 / count;
        let mut facts: Vec<Fact> = Vec::new();
        for (place, columns) in self.columns.iter().enumerate() {
            facts.push((columns.train, rows.iter().map(|row| row.1.parts[place].1).sum::<f64>() / count));
        }
        if self.group > 1 {
            let flat = groups.iter().filter(|group| group.flat()).count();
            facts.push(("flat_groups", flat as f64 / groups.len().max(1) as f64));
        }
        facts.push((
            "truncated",
            share(rows.iter().filter(|row| row.0.finish == FinishReason::Length).count()),
        ));
        let failed = rows.iter().filter(|row| !row.1.failed.is_empty()).count();
        if failed > 0 {
            facts.push(("rewards_failed", share(failed)));
        }
        let tokens: usize = rows.iter().map(|row| row.0.written()).sum();
        if self.turns.is_some() {
            facts.push(("turns", rows.iter().map(|row| row.0.turns as f64).sum::<f64>() / count));
        }
        facts.push(("rollout_tokens_per_s", tokens as f64 / seconds.max(1e-9)));
        facts.push(("rollout_s", seconds));
        facts
    }
}

fn episode(prompt: &Prompt, answer: &Answer, reward: f64) -> Episode {
    let before = prompt.ids.len();
    Episode {
        ids: prompt.ids.iter().chain(&answer.ids).map(|&id| i64::from(id)).collect(),
        learn: std::iter::repeat_n(false, before).chain(answer.learn.iter().copied()).collect(),
        logprobs: std::iter::repeat_n(0.0, before).chain(answer.logprobs.iter().copied()).collect(),
        reward,
    }
}

/// Share of the trigrams of tokens that occurred before in their row.
fn repetition(ids: &[u32]) -> f64 {
    let all = ids.len().saturating_sub(2);
    let distinct: std::collections::HashSet<&[u32]> = ids.windows(3).collect();
    if all == 0 { 0.0 } else { (all - distinct.len()) as f64 / all as f64 }
}

impl Source for Native {
    fn steps_per_epoch(&self) -> u64 {
        self.prompts.len().div_ceil(self.batch_size) as u64
    }

    fn rows_per_step(&self) -> usize {
        self.batch_size * self.group
    }

    fn roll(&mut self, policy: &CausalLm, epoch: u64, index: u64) -> Result<Rollout> {
        let started = Instant::now();
        let fresh = self.generator.refresh(policy)?;
        let writer = self.generator.writer(policy);
        let prompts = self.asked(epoch, index, 0, self.batch_size)?;
        let mut groups = self.answered(writer, prompts, self.group, &self.config(epoch, index, 0))?;
        let replaced = self.replace_flat(writer, &mut groups, epoch, index)?;
        let seconds = started.elapsed().as_secs_f64();
        let mut facts = self.facts(&groups, seconds);
        if self.rounds > 0 {
            facts.push(("groups_replaced", replaced as f64));
        }
        let step = epoch * self.steps_per_epoch() + index + 1;
        let rows: Vec<_> =
            groups.iter().flat_map(|g| g.rows.iter().map(|(a, s)| (&g.prompt, a, s))).collect();
        if self.table.keeps(step) {
            // Of several turns all are kept, with what the tools answered; rewards judge the last.
            let whole = |(_, answer, _): &(_, &Answer, _)| match answer.turns {
                1 => Ok(answer.text.clone()),
                _ => self.tokenizer.decode(&answer.ids, false),
            };
            let written = rows.iter().map(whole).collect::<Result<Vec<_>>>()?;
            self.table.keep(rows.iter().zip(&written).map(|((prompt, answer, scores), completion)| {
                Sampled { step, prompt: &prompt.text, completion, scores, finish: answer.finish }
            }))?;
        }
        let repeated = rows.iter().map(|(_, answer, _)| repetition(&answer.ids)).sum::<f64>();
        let repetition = repeated / rows.len().max(1) as f64;
        facts.push(("repetition", repetition));
        let episodes =
            rows.iter().map(|(prompt, answer, scores)| episode(prompt, answer, scores.total)).collect();
        Ok(Rollout { episodes, attend: Attend::All, fresh, facts, repetition: Some(repetition) })
    }

    fn measure(&mut self, policy: &CausalLm) -> Result<Vec<Fact>> {
        let Some(heldout) = &self.heldout else { return Ok(Vec::new()) };
        let prompts =
            (0..heldout.len()).map(|i| heldout.get(&self.tokenizer, i, 0)).collect::<Result<Vec<_>>>()?;
        let config = CompletionConfig { sampling: self.measured.clone(), ..self.config(0, 0, 0) };
        // The policy itself is measured, whoever generates.
        let groups = self.answered(Writer::Native(policy), prompts, 1, &config)?;
        let rows: Vec<&Scores> = groups.iter().map(|group| &group.rows[0].1).collect();
        if rows.is_empty() {
            return Err(Error::input("no prompt is held out"));
        }
        let mean =
            |pick: &dyn Fn(&Scores) -> f64| rows.iter().map(|s| pick(s)).sum::<f64>() / rows.len() as f64;
        let mut facts = vec![("heldout_reward", mean(&|s| s.total))];
        for (place, columns) in self.columns.iter().enumerate() {
            facts.push((columns.heldout, mean(&|s| s.parts[place].1)));
        }
        Ok(facts)
    }

    fn completions(&mut self) -> Result<Vec<serde_json::Value>> {
        self.table.last(SHOWN)
    }

    fn state(&self) -> serde_json::Value {
        self.table.position()
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        self.table.cut(state)
    }
}
