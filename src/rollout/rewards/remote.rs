//! Rewards from outside the program: a service over HTTP, a program over pipes.
//!
//! Both get `{"messages", "prompt", "completion", "answer", "row"}` a completion and give a number each. Their wire
//! forms are in `docs/rewards.md`. Next: `rollout::service`, `rollout::process`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::config::{CommandRewardConfig, HttpRewardConfig};
use super::{BatchReward, RewardInput, text};
use crate::error::{Error, Result};
use crate::rollout::process::Program;
use crate::rollout::service::Service;

/// What a scorer gets of a completion.
fn payload(input: &RewardInput<'_>) -> Value {
    json!({
        "messages": input.prompt_messages,
        "prompt": input.prompt,
        "completion": input.completion,
        "answer": text::answer(input.completion),
        "row": input.row,
    })
}

/// A number, or `{"score": number}`.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.get("score")?.as_f64()).filter(|score| score.is_finite())
}

/// A service that is posted `{"rows": [...]}` and answers `{"scores": [...]}`.
#[derive(Debug)]
pub(super) struct HttpReward {
    service: Service,
    batch_size: usize,
}

impl HttpReward {
    pub(super) fn new(config: &HttpRewardConfig) -> Self {
        Self { service: Service::new(&config.service), batch_size: config.batch_size.max(1) }
    }
}

impl BatchReward for HttpReward {
    fn score(&self, inputs: &[RewardInput<'_>]) -> Result<Vec<f64>> {
        let mut scores = Vec::with_capacity(inputs.len());
        for chunk in inputs.chunks(self.batch_size) {
            let answer =
                self.service.post("", &json!({"rows": chunk.iter().map(payload).collect::<Vec<_>>()}))?;
            let list = answer.get("scores").unwrap_or(&answer).as_array();
            let numbers: Option<Vec<f64>> = list.and_then(|list| list.iter().map(number).collect());
            match numbers {
                Some(numbers) if numbers.len() == chunk.len() => scores.extend(numbers),
                _ => {
                    let start: String = answer.to_string().chars().take(300).collect();
                    return Err(Error::failed(format!(
                        "the reward service was asked for {} scores and answered {start}",
                        chunk.len()
                    ))
                    .hint("it must answer {\"scores\": [number, ...]}, one finite number a row"));
                }
            }
        }
        Ok(scores)
    }
}

/// A program that is kept running and started again after a failure.
#[derive(Debug)]
pub(super) struct CommandReward {
    config: CommandRewardConfig,
    program: Mutex<Option<Program>>,
}

impl CommandReward {
    pub(super) fn new(config: &CommandRewardConfig) -> Result<Self> {
        // Started now, so that a wrong name shows before the first rollout.
        let program = Program::start(&config.command)?;
        Ok(Self { config: config.clone(), program: Mutex::new(Some(program)) })
    }

    fn ask(&self, program: &mut Program, inputs: &[RewardInput<'_>]) -> Result<Vec<f64>> {
        // What it wrote unasked would be taken for the scores of these.
        if let Some(line) = std::iter::from_fn(|| program.unread()).find(|line| !line.trim().is_empty()) {
            let start: String = line.chars().take(300).collect();
            return Err(Error::failed(format!("the reward program wrote more lines than it read: {start}"))
                .hint("write one score for each line it reads, and logs to stderr"));
        }
        program.send(inputs.iter().map(|input| format!("{}\n", payload(input))).collect());
        let until = Instant::now() + Duration::from_secs_f64(self.config.timeout_secs);
        let mut scores = Vec::with_capacity(inputs.len());
        while scores.len() < inputs.len() {
            let Some(line) = program.line(until)? else {
                return Err(program.exit_error().hint(format!(
                    "it must write {} lines, one score for each line it reads; it wrote {}",
                    inputs.len(),
                    scores.len()
                )));
            };
            if line.trim().is_empty() {
                continue;
            }
            let score = serde_json::from_str::<Value>(&line).ok().as_ref().and_then(number);
            scores.push(score.ok_or_else(|| {
                let start: String = line.chars().take(300).collect();
                Error::failed(format!("the reward program wrote a line that is no score: {start}"))
                    .hint("write a finite number or {\"score\": number} a line, and logs to stderr")
            })?);
        }
        Ok(scores)
    }
}

impl BatchReward for CommandReward {
    fn score(&self, inputs: &[RewardInput<'_>]) -> Result<Vec<f64>> {
        let mut held = self.program.lock().expect("the holder does not panic");
        let mut program = match held.take() {
            Some(program) => program,
            None => Program::start(&self.config.command)?,
        };
        let scores = self.ask(&mut program, inputs)?;
        // After a failure the next call starts afresh: late lines would be taken for its scores.
        *held = Some(program);
        Ok(scores)
    }
}
