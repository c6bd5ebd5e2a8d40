//! Multiple choice: which answer has the highest likelihood, by three normalisations, beside chance.
//!
//! An answer's log-likelihood is the sum over its tokens after the prompt; per byte and per token divide by its length, so
//! that short answers have no advantage. Prompt and answer are joined and tokenised as lm-evaluation-harness does. A letter
//! that is one token costs one pass for all answers of a question.
//!
//! B batch, T tokens, D hidden, N scored tokens, V vocab.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use super::wilson::wilson;
use crate::data::Tokenizer;
use crate::data::multiple_choice::{self, ChoiceItem, Subject};
use crate::data::tokenizer::RenderOptions;
use crate::engine::Compute;
use crate::error::{Error, Result};
use crate::model::{CausalLm, Mask};

/// The questions, and how they are asked.
#[derive(Debug)]
pub struct ChoiceSettings<'a> {
    /// Files, or folders of files, a subject each.
    pub paths: &'a [PathBuf],
    /// Answered examples before each question.
    pub shots: usize,
    /// Where examples come from: a file, or a folder with a file of each subject's name.
    pub shots_from: Option<&'a Path>,
    /// Whether questions are rendered with the chat template.
    pub chat: bool,
    /// Rows a batch.
    pub batch_size: usize,
    /// Longest row in tokens; a longer one loses its beginning.
    pub max_seq_len: usize,
    /// Most questions of a subject.
    pub limit: Option<usize>,
    /// Arithmetic.
    pub compute: Compute,
}

/// Log-likelihoods of one question's answers with their lengths.
#[derive(Debug, Clone, Default)]
struct Likelihoods {
    sums: Vec<f64>,
    tokens: Vec<usize>,
}

/// A row of the forward pass, and which of its positions score which answer: (answer, position, token).
struct ScoredRow {
    question: usize,
    ids: Vec<i64>,
    scored: Vec<(usize, usize, i64)>,
}

/// Right answers by normalisation.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    questions: usize,
    chance: f64,
    sum: usize,
    per_byte: usize,
    per_token: usize,
}

/// Metrics over all questions, and the accuracy of each subject.
///
/// # Errors
/// Questions or examples that cannot be read; logits that are not finite.
pub fn measure(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    settings: &ChoiceSettings<'_>,
) -> Result<(Map<String, Value>, Vec<Value>)> {
    let mut all = Tally::default();
    let mut subjects = Vec::new();
    for path in settings.paths {
        for file in multiple_choice::files(path)? {
            let mut subject = multiple_choice::read(&file)?;
            subject.items.truncate(settings.limit.unwrap_or(usize::MAX));
            let examples = examples(&file, &subject, settings)?;
            let likelihoods = likelihoods(model, tokenizer, &subject, &examples, settings)?;
            let mut own = Tally::default();
            for (item, likelihood) in subject.items.iter().zip(&likelihoods) {
                own.count(item, likelihood);
            }
            all.add(&own);
            tracing::info!(
                "{}: {} question{}, accuracy {:.3}",
                subject.name,
                own.questions,
                if own.questions == 1 { "" } else { "s" },
                own.sum as f64 / own.questions as f64
            );
            subjects.push(json!({"subject": subject.name, "questions": own.questions, "accuracy": own.sum as f64 / own.questions as f64}));
        }
    }
    Ok((all.metrics(), subjects))
}

impl Tally {
    fn count(&mut self, item: &ChoiceItem, likelihood: &Likelihoods) {
        let best = |length: &dyn Fn(usize) -> f64| {
            let mut best = 0;
            for i in 1..likelihood.sums.len() {
                if likelihood.sums[i] / length(i) > likelihood.sums[best] / length(best) {
                    best = i;
                }
            }
            usize::from(best == item.answer)
        };
        self.questions += 1;
        self.chance += 1.0 / item.choices.len() as f64;
        self.sum += best(&|_| 1.0);
        self.per_byte += best(&|i| item.choices[i].len().max(1) as f64);
        self.per_token += best(&|i| likelihood.tokens[i].max(1) as f64);
    }

    fn add(&mut self, other: &Self) {
        self.questions += other.questions;
        self.chance += other.chance;
        self.sum += other.sum;
        self.per_byte += other.per_byte;
        self.per_token += other.per_token;
    }

    fn metrics(&self) -> Map<String, Value> {
        let mut metrics = Map::new();
        let n = self.questions;
        for (name, right) in [
            ("accuracy", self.sum),
            ("accuracy_per_byte", self.per_byte),
            ("accuracy_per_token", self.per_token),
        ] {
            let (low, high) = wilson(right, n);
            metrics.insert(name.to_owned(), json!(right as f64 / n.max(1) as f64));
            metrics.insert(format!("{name}_low"), json!(low));
            metrics.insert(format!("{name}_high"), json!(high));
        }
        metrics.insert("chance".to_owned(), json!(self.chance / n.max(1) as f64));
        metrics.insert("questions".to_owned(), json!(n));
        metrics
    }
}

/// The answered examples that stand before the questions of a file.
fn examples(file: &Path, subject: &Subject, settings: &ChoiceSettings<'_>) -> Result<String> {
    if settings.shots == 0 {
        return Ok(String::new());
    }
    let hint = "name a file of examples, or a folder with a file of each subject's name";
    let from = settings
        .shots_from
        .ok_or_else(|| Error::input("examples are wanted, but no file of them is named").hint(hint))?;
    let path = if from.is_dir() { from.join(file.file_name().unwrap_or_default()) } else { from.to_owned() };
    let items = multiple_choice::read(&path)?.items;
    if items.len() < settings.shots {
        return Err(Error::input(format!(
            "{} examples are wanted for `{}`, {} holds {}",
            settings.shots,
            subject.name,
            path.display(),
            items.len()
        ))
        .hint("lower the number of shots"));
    }
    let asked: Vec<&ChoiceItem> = subject.items.iter().collect();
    if let Some(twice) =
        items[..settings.shots].iter().find(|example| asked.iter().any(|item| item.prompt == example.prompt))
    {
        return Err(Error::input(format!(
            "an example is also a question: {}",
            twice.prompt.lines().next().unwrap_or_default()
        ))
        .hint("take examples from another file"));
    }
    let shown = |item: &ChoiceItem| format!("{} {}\n\n", item.prompt, item.choices[item.answer]);
    Ok(items[..settings.shots].iter().map(shown).collect())
}

/// Prompt ids, and the ids of each answer after it.
fn encoded(
    tokenizer: &Tokenizer,
    item: &ChoiceItem,
    examples: &str,
    chat: bool,
) -> Result<(Vec<u32>, Vec<Vec<u32>>)> {
    let plain = format!("{examples}{}", item.prompt);
    let (context, before) = if chat {
        let options = RenderOptions::prompt();
        (tokenizer.apply_chat_template(&json!([{"role": "user", "content": plain}]), None, options)?, "")
    } else {
        (plain, " ")
    };
    let prompt = tokenizer.encode(&context)?;
    let answers = item.choices.iter().map(|choice| {
        let whole = tokenizer.encode(&format!("{context}{before}{choice}"))?;
        // Where the join changes the prompt's last token, the answer still begins at the prompt's length.
        let start = prompt.len().min(whole.len().saturating_sub(1));
        Ok(whole[start..].to_vec())
    });
    let answers = answers.collect::<Result<_>>()?;
    Ok((prompt, answers))
}

fn likelihoods(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    subject: &Subject,
    examples: &str,
    settings: &ChoiceSettings<'_>,
) -> Result<Vec<Likelihoods>> {
    let mut found = Vec::with_capacity(subject.items.len());
    let mut runs = Vec::new();
    for (question, item) in subject.items.iter().enumerate() {
        let (mut prompt, answers) = encoded(tokenizer, item, examples, settings.chat)?;
        if prompt.is_empty() {
            prompt.push(tokenizer.prefix_id());
        }
        found.push(Likelihoods {
            sums: vec![0.0; answers.len()],
            tokens: answers.iter().map(Vec::len).collect(),
        });
        if answers.iter().all(|answer| answer.len() == 1) {
            let scored =
                answers.iter().enumerate().map(|(i, a)| (i, prompt.len() - 1, i64::from(a[0]))).collect();
            runs.push(truncate_left(
                ScoredRow { question, ids: wide(&prompt), scored },
                settings.max_seq_len,
            ));
            continue;
        }
        for (i, answer) in answers.iter().enumerate() {
            let ids: Vec<u32> = prompt.iter().chain(answer).copied().collect();
            let scored = answer
                .iter()
                .enumerate()
                .map(|(at, id)| (i, prompt.len() - 1 + at, i64::from(*id)))
                .collect();
            // The last token is scored, not read.
            runs.push(truncate_left(
                ScoredRow { question, ids: wide(&ids[..ids.len() - 1]), scored },
                settings.max_seq_len,
            ));
        }
    }
    runs.sort_by_key(|run| run.ids.len());
    for batch in runs.chunks(settings.batch_size.max(1)) {
        for (run, values) in batch.iter().zip(scores(model, batch, settings.compute)?) {
            for ((answer, ..), value) in run.scored.iter().zip(values) {
                found[run.question].sums[*answer] += value;
            }
        }
    }
    Ok(found)
}

fn wide(ids: &[u32]) -> Vec<i64> {
    ids.iter().map(|id| i64::from(*id)).collect()
}

/// Cuts the beginning off a row that is too long.
fn truncate_left(mut run: ScoredRow, most: usize) -> ScoredRow {
    let surplus = run.ids.len().saturating_sub(most);
    run.ids.drain(..surplus);
    run.scored.retain_mut(|(_, position, _)| {
        let stays = *position >= surplus;
        *position = position.saturating_sub(surplus);
        stays
    });
    run
}

/// The log-probability of every scored token of a batch, row by row.
fn scores(model: &CausalLm, batch: &[ScoredRow], compute: Compute) -> Result<Vec<Vec<f64>>> {
    let device = model.device();
    let longest = batch.iter().map(|run| run.ids.len()).max().unwrap_or(1);
    let mut flat = vec![0i64; batch.len() * longest];
    let (mut positions, mut targets) = (Vec::new(), Vec::new());
    for (row, run) in batch.iter().enumerate() {
        flat[row * longest..row * longest + run.ids.len()].copy_from_slice(&run.ids);
        for (_, position, token) in &run.scored {
            positions.push((row * longest + position) as i64);
            targets.push(*token);
        }
    }
    let ids = Tensor::from_slice(&flat).view([batch.len() as i64, longest as i64]).to_device(device); // [B, T]
    let positions = Tensor::from_slice(&positions).to_device(device);
    let targets = Tensor::from_slice(&targets).to_device(device).unsqueeze(-1); // [N, 1]
    let values = tch::no_grad(|| {
        compute.run(device, || {
            // Padding stands right, where a causal model does not look.
            let (hidden, _) = model.hidden(&ids, Mask::Causal, false); // [B, T, D]
            let (_, _, d) = hidden.size3().expect("hidden states are [B, T, D]");
            let read = hidden.reshape([-1, d]).index_select(0, &positions); // [N, D]
            let logits = model.logits(&read).to_kind(Kind::Float); // [N, V]
            Ok(logits.log_softmax(-1, Kind::Float).gather(-1, &targets, false).squeeze_dim(-1)) // [N]
        })
    })?;
    let values: Vec<f64> = Vec::try_from(values.to_kind(Kind::Double).to_device(Device::Cpu))?;
    if values.iter().any(|value| value.is_nan()) {
        return Err(Error::failed("the model's logits are not finite")
            .hint("the weights are broken, or the precision is too low"));
    }
    let mut rest = values.into_iter();
    Ok(batch.iter().map(|run| rest.by_ref().take(run.scored.len()).collect()).collect())
}

#[cfg(test)]
#[path = "multiple_choice_tests.rs"]
mod tests;
