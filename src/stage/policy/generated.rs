//! Rollouts by the built-in generator: prompts in a seeded order, completions from a seed of the step's own,
//! rewards, and their metrics.
//!
//! A step's rows follow from the policy, the recipe's seed and the step's number alone, so that a killed run
//! generates the same rows again. Next: `answer`, `multi_turn`, and `completions_log`, where completions are kept.

use std::sync::Arc;
use std::time::Instant;

use super::answer::{Answer, turn_text};
use super::batch::Attend;
use super::completions_log::{CompletionsLog, LoggedCompletion};
use super::generator::{Completer, Generator};
use super::multi_turn::MultiTurn;
use super::source::{Metric, Rollout, RolloutSource, StepIndex};
use crate::data::random::mix;
use crate::data::{Episode, Prompt, Prompts, Tokenizer};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::rollout::rewards::{RewardInput, Rewards, Scores};
use crate::rollout::{CompletionConfig, FinishReason, SamplingParams};

/// Completions that the report shows.
const SHOWN: usize = 12;

/// Generates rollouts; the policy itself is handed in step by step.
pub struct GeneratedRollouts {
    /// What continues prompts.
    pub generator: Generator,
    /// Training prompts.
    pub prompts: Prompts,
    /// Held-out prompts.
    pub heldout: Option<Prompts>,
    /// How held-out prompts are sampled.
    pub heldout_sampling: SamplingParams,
    /// The policy's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The reward functions.
    pub rewards: Rewards,
    /// Names of the rewards' columns.
    pub columns: Vec<RewardColumns>,
    /// Prompts a step.
    pub batch_size: usize,
    /// Completions a prompt.
    pub group_size: usize,
    /// Whether each epoch takes the prompts in a new order.
    pub shuffle: bool,
    /// Seed of order and completions.
    pub seed: u64,
    /// Most new tokens a completion.
    pub max_new_tokens: usize,
    /// How tokens are sampled.
    pub sampling: SamplingParams,
    /// The tokens that end a completion.
    pub eos_ids: Vec<u32>,
    /// Further turns with tools; `None`: one turn.
    pub multi_turn: Option<MultiTurn>,
    /// Most rounds of dynamic sampling: groups whose rewards are all equal are replaced.
    pub resampling_rounds: usize,
    /// `completions.jsonl`.
    pub log: CompletionsLog,
}

/// Names of a reward's columns; leaked, since those of metrics live as long as the program.
#[derive(Debug, Clone, Copy)]
pub struct RewardColumns {
    train: &'static str,
    heldout: &'static str,
}

impl RewardColumns {
    /// Those of the reward called `name`.
    pub fn new(name: &str) -> Self {
        Self { train: format!("reward_{name}").leak(), heldout: format!("heldout_{name}").leak() }
    }
}

/// A prompt with its answers and their rewards.
struct Group {
    prompt: Prompt,
    rows: Vec<(Answer, Scores)>,
}

impl Group {
    /// Whether all rewards are equal, so that every advantage is zero.
    fn is_flat(&self) -> bool {
        self.rows.windows(2).all(|pair| pair[0].1.total == pair[1].1.total)
    }
}

impl GeneratedRollouts {
    /// `count` prompts of a step; the last step of an epoch is filled up from its beginning. `round`: 0, or that of
    /// dynamic sampling.
    fn next_prompts(&self, at: StepIndex, round: u64, count: usize) -> Result<Vec<Prompt>> {
        let StepIndex { epoch, index } = at;
        let order = self.prompts.order(epoch, self.shuffle);
        // Replacements are taken far from the prompts of neighbouring steps.
        let start = if round == 0 {
            index as usize * self.batch_size
        } else {
            mix(self.seed ^ mix((epoch << 40) ^ (index << 8) ^ round)) as usize % order.len()
        };
        let pick = |i: usize| order[(start + i) % order.len()];
        (0..count).map(|i| self.prompts.get(&self.tokenizer, pick(i), epoch)).collect()
    }

    /// `per` answers to each prompt, over all turns, with their rewards.
    fn complete(
        &self,
        completer: Completer<'_>,
        prompts: Vec<Prompt>,
        per: usize,
        config: &CompletionConfig,
    ) -> Result<Vec<Group>> {
        let ids: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.ids.clone()).collect();
        let most = self.multi_turn.as_ref().map_or(usize::MAX, |turns| turns.max_total_len);
        let first = CompletionConfig { max_new_tokens: config.max_new_tokens.min(most), ..config.clone() };
        let completions = completer.generate_completions(&ids, per, &first)?;
        let mut answers = Vec::with_capacity(completions.len());
        for completion in completions {
            let text = turn_text(&self.tokenizer, &completion.ids, &self.eos_ids)?;
            answers.push(Answer::new(completion, text));
        }
        if let Some(turns) = &self.multi_turn {
            turns.continue_all(completer, &self.tokenizer, (&prompts[..], per), &mut answers, config)?;
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

    fn config(&self, at: StepIndex, round: u64) -> CompletionConfig {
        let StepIndex { epoch, index } = at;
        CompletionConfig {
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling.clone(),
            eos_ids: self.eos_ids.clone(),
            seed: mix(self.seed ^ mix((epoch << 40) ^ (index << 8) ^ round ^ (1 << 63))),
        }
    }

    /// DAPO's dynamic sampling (arXiv 2503.14476): flat groups are replaced by those of other prompts; how many were.
    fn replace_flat(&self, completer: Completer<'_>, groups: &mut [Group], at: StepIndex) -> Result<u64> {
        let mut replaced = 0;
        for round in 1..=self.resampling_rounds as u64 {
            let flat: Vec<usize> = (0..groups.len()).filter(|&i| groups[i].is_flat()).collect();
            if flat.is_empty() {
                break;
            }
            let prompts = self.next_prompts(at, round, flat.len())?;
            let config = self.config(at, round);
            for (i, group) in
                flat.into_iter().zip(self.complete(completer, prompts, self.group_size, &config)?)
            {
                if !group.is_flat() {
                    groups[i] = group;
                    replaced += 1;
                }
            }
        }
        Ok(replaced)
    }

    /// The metrics of a step whose rollout took `seconds`.
    fn metrics(&self, groups: &[Group], seconds: f64) -> Vec<Metric> {
        let rows: Vec<_> = groups.iter().flat_map(|group| &group.rows).collect();
        let count = rows.len().max(1) as f64;
        let share = |hits: usize| hits as f64 / count;
        let mut metrics: Vec<Metric> = Vec::new();
        for (place, columns) in self.columns.iter().enumerate() {
            metrics.push((columns.train, rows.iter().map(|row| row.1.parts[place].1).sum::<f64>() / count));
        }
        if self.group_size > 1 {
            let flat = groups.iter().filter(|group| group.is_flat()).count();
            metrics.push(("flat_groups", flat as f64 / groups.len().max(1) as f64));
        }
        metrics.push((
            "truncated",
            share(rows.iter().filter(|row| row.0.finish == FinishReason::Length).count()),
        ));
        let failed = rows.iter().filter(|row| !row.1.failed.is_empty()).count();
        if failed > 0 {
            metrics.push(("rewards_failed", share(failed)));
        }
        let tokens: usize = rows.iter().map(|row| row.0.generated()).sum();
        if self.multi_turn.is_some() {
            metrics.push(("turns", rows.iter().map(|row| row.0.turns as f64).sum::<f64>() / count));
        }
        metrics.push(("rollout_tokens_per_s", tokens as f64 / seconds.max(1e-9)));
        metrics.push(("rollout_s", seconds));
        metrics
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

impl RolloutSource for GeneratedRollouts {
    fn steps_per_epoch(&self) -> u64 {
        self.prompts.per_epoch().div_ceil(self.batch_size) as u64
    }

    fn rows_per_step(&self) -> usize {
        self.batch_size * self.group_size
    }

    fn rollout(&mut self, policy: &CausalLm, at: StepIndex) -> Result<Rollout> {
        let started = Instant::now();
        let on_policy = self.generator.refresh(policy)?;
        let completer = self.generator.completer(policy);
        let prompts = self.next_prompts(at, 0, self.batch_size)?;
        let mut groups = self.complete(completer, prompts, self.group_size, &self.config(at, 0))?;
        let replaced = self.replace_flat(completer, &mut groups, at)?;
        let seconds = started.elapsed().as_secs_f64();
        let mut metrics = self.metrics(&groups, seconds);
        if self.resampling_rounds > 0 {
            metrics.push(("groups_replaced", replaced as f64));
        }
        let step = at.in_run(self.steps_per_epoch()) + 1;
        let rows: Vec<_> =
            groups.iter().flat_map(|g| g.rows.iter().map(|(a, s)| (&g.prompt, a, s))).collect();
        if self.log.is_logged(step) {
            // Of several turns all are kept, with what the tools answered; rewards judge the last.
            let whole = |(_, answer, _): &(_, &Answer, _)| match answer.turns {
                1 => Ok(answer.text.clone()),
                _ => self.tokenizer.decode(&answer.ids, false),
            };
            let written = rows.iter().map(whole).collect::<Result<Vec<_>>>()?;
            self.log.log(rows.iter().zip(&written).map(|((prompt, answer, scores), completion)| {
                LoggedCompletion { step, prompt: &prompt.text, completion, scores, finish: answer.finish }
            }))?;
        }
        let repeated = rows.iter().map(|(_, answer, _)| repetition(&answer.ids)).sum::<f64>();
        let repetition = repeated / rows.len().max(1) as f64;
        metrics.push(("repetition", repetition));
        let episodes =
            rows.iter().map(|(prompt, answer, scores)| episode(prompt, answer, scores.total)).collect();
        Ok(Rollout { episodes, attend: Attend::All, on_policy, metrics, repetition: Some(repetition) })
    }

    fn measure_heldout(&mut self, policy: &CausalLm) -> Result<Vec<Metric>> {
        let Some(heldout) = &self.heldout else { return Ok(Vec::new()) };
        let prompts =
            (0..heldout.len()).map(|i| heldout.get(&self.tokenizer, i, 0)).collect::<Result<Vec<_>>>()?;
        let config = CompletionConfig {
            sampling: self.heldout_sampling.clone(),
            ..self.config(StepIndex { epoch: 0, index: 0 }, 0)
        };
        // The policy itself is measured, whoever generates.
        let groups = self.complete(Completer::Native(policy), prompts, 1, &config)?;
        let rows: Vec<&Scores> = groups.iter().map(|group| &group.rows[0].1).collect();
        if rows.is_empty() {
            return Err(Error::input("no prompt is held out"));
        }
        let mean =
            |pick: &dyn Fn(&Scores) -> f64| rows.iter().map(|s| pick(s)).sum::<f64>() / rows.len() as f64;
        let mut metrics = vec![("heldout_reward", mean(&|s| s.total))];
        for (place, columns) in self.columns.iter().enumerate() {
            metrics.push((columns.heldout, mean(&|s| s.parts[place].1)));
        }
        Ok(metrics)
    }

    fn completions(&mut self) -> Result<Vec<serde_json::Value>> {
        self.log.last(SHOWN)
    }

    fn state(&self) -> serde_json::Value {
        self.log.position()
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        self.log.truncate(state)
    }
}
