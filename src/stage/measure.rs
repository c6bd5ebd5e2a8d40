//! Measuring a model: loss with what follows from it, and exact answers to verifiable questions.
//!
//! B batch, T tokens.

use ndarray::Array2;
use tch::{Kind, Tensor};

use crate::data::loader::DataLoader;
use crate::data::tokenizer::RenderOptions;
use crate::data::{Batch, Tokenizer, synthetic};
use crate::engine::{Compute, Ranks};
use crate::error::{Error, Result};
use crate::loss::cross_entropy::{self, Targets};
use crate::model::{CausalLm, Mask, Packing};
use crate::native::to_device;
use crate::rollout::{GenerateConfig, generate_batch};

/// Token ids of a batch on a device, `[B, T]`.
pub fn upload(ids: &Array2<i64>, device: tch::Device) -> Tensor {
    let (b, t) = ids.dim();
    let flat: Vec<i64> = ids.iter().copied().collect();
    to_device(Tensor::from_slice(&flat), device).view([b as i64, t as i64])
}

/// A batch on a device: what a model reads, and what it should say.
pub struct Uploaded {
    /// `[B, T]`.
    pub ids: Tensor,
    /// The labels.
    pub targets: Targets,
    packing: Option<Packing>,
}

impl Uploaded {
    /// Copies a batch to a device.
    pub fn new(batch: &Batch, device: tch::Device) -> Self {
        Self {
            ids: upload(&batch.input_ids, device),
            targets: Targets::new(&batch.labels, device),
            packing: batch.documents.as_ref().map(|rows| Packing::new(rows, device)),
        }
    }

    /// What a token may look at.
    pub fn mask(&self) -> Mask<'_> {
        self.packing.as_ref().map_or(Mask::Causal, Mask::Documents)
    }
}

/// Cross-entropy over all rows of a loader: `val_loss`, `val_perplexity` and, where the text's bytes are
/// known, `val_bits_per_byte`. The mean is over tokens, whatever the batches, which the ranks share.
pub fn loss(
    model: &CausalLm,
    loader: &DataLoader,
    compute: Compute,
    ranks: &Ranks,
) -> Result<Vec<(&'static str, f64)>> {
    let device = model.device();
    let mut sums = [0.0; 3];
    for index in ranks.own_indices(loader.steps_per_epoch()) {
        let batch = loader.batch(0, index)?;
        let uploaded = Uploaded::new(&batch, device);
        let targets = &uploaded.targets;
        if targets.count == 0 {
            continue;
        }
        let sum = tch::no_grad(|| {
            compute.run(device, || {
                let (hidden, _) = model.hidden(&uploaded.ids, uploaded.mask(), false);
                cross_entropy::sum(&hidden, model.lm_head(), targets)
            })
        })?;
        sums[0] += sum.to_kind(Kind::Double).double_value(&[]);
        sums[1] += targets.count as f64;
        sums[2] += batch.loss_bytes as f64;
    }
    ranks.all_reduce(&mut sums)?;
    let [total, tokens, bytes] = sums;
    if tokens == 0.0 {
        return Ok(Vec::new());
    }
    let mean = total / tokens;
    let mut values = vec![("val_loss", mean), ("val_perplexity", mean.exp())];
    if bytes > 0.0 {
        values.push(("val_bits_per_byte", total / std::f64::consts::LN_2 / bytes));
    }
    Ok(values)
}

/// A question and the one answer that counts.
#[derive(Debug, Clone)]
pub struct Question {
    /// The conversation up to the answer.
    pub messages: Vec<serde_json::Value>,
    /// The answer.
    pub answer: String,
}

impl Question {
    /// Reads `{"conversations": [...], "answer"?}`; without `answer` the last assistant turn counts.
    pub fn from_row(row: &serde_json::Value) -> Option<Self> {
        let mut messages = row.get("conversations")?.as_array()?.clone();
        let last = messages.pop()?;
        if last.get("role")?.as_str()? != "assistant" || messages.is_empty() {
            return None;
        }
        let given = row.get("answer").and_then(|a| a.as_str());
        let answer = given.or_else(|| last.get("content")?.as_str())?.to_owned();
        Some(Self { messages, answer })
    }
}

/// A question with what the model said.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The last user turn.
    pub question: String,
    /// What was expected.
    pub expected: String,
    /// What came.
    pub got: String,
    /// Whether it is the same.
    pub correct: bool,
}

/// Greedy answers to all questions, each of at most so many tokens and up to one of `ends`.
pub fn exact_match(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    questions: &[Question],
    (max_new_tokens, ends): (usize, &[u32]),
) -> Result<Vec<Answered>> {
    let prompts = questions
        .iter()
        .map(|q| prompt_ids(tokenizer, &serde_json::Value::Array(q.messages.clone())))
        .collect::<Result<Vec<_>>>()?;
    let config = GenerateConfig::greedy(max_new_tokens, ends);
    let answers = generate_batch(model, &prompts, &config)?;
    questions
        .iter()
        .zip(answers)
        .map(|(question, ids)| {
            let got = tokenizer.decode(&ids, true)?.trim().to_owned();
            let last = question.messages.last().and_then(|m| m.get("content")).and_then(|c| c.as_str());
            Ok(Answered {
                question: last.unwrap_or_default().to_owned(),
                expected: question.answer.clone(),
                correct: synthetic::verify(&question.answer, &got),
                got,
            })
        })
        .collect()
}

/// Ids of a conversation that waits for the assistant.
pub fn prompt_ids(tokenizer: &Tokenizer, messages: &serde_json::Value) -> Result<Vec<u32>> {
    let options = RenderOptions::prompt();
    tokenizer.encode(&tokenizer.render(messages, None, options)?)
}

/// Greedy continuations of `prompts`: as chat for a fine-tuned model, as plain text for a pretrained one.
pub fn samples(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    prompts: &[String],
    chat: bool,
    (max_new_tokens, ends): (usize, &[u32]),
) -> Result<Vec<String>> {
    let ids = prompts
        .iter()
        .map(|prompt| {
            if chat {
                return prompt_ids(tokenizer, &serde_json::json!([{"role": "user", "content": prompt}]));
            }
            Ok(tokenizer.bos_id().into_iter().chain(tokenizer.encode(prompt)?).collect())
        })
        .collect::<Result<Vec<_>>>()?;
    if ids.iter().any(Vec::is_empty) {
        return Err(Error::input("a sample prompt is empty").hint("give `samples` non-empty texts"));
    }
    let config = GenerateConfig::greedy(max_new_tokens, ends);
    generate_batch(model, &ids, &config)?.iter().map(|ids| tokenizer.decode(ids, true)).collect()
}
