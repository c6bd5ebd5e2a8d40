//! The eval stage, and what `minimind eval` shares with it: loss on rows, exact answers to questions, math, multiple
//! choice, a file each.

pub mod exact_match;
pub mod loss;
pub mod math;
mod measurement;
pub mod multiple_choice;
mod wilson;

use serde_json::{Map, Value, json};

use self::exact_match::Question;
pub use self::measurement::Measurement;
use super::context::{Context, StageResult};
use super::loading;
use crate::data::preview::Preview;
use crate::data::source;
use crate::data::{
    Batching, DataLoader, DataLoaderConfig, DataSource, Dataset, PrepareContext, Tokenizer, prepare,
};
use crate::engine::Ranks;
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::plan::{EvalConfig, EvalTask};

/// Evaluates a model: a JSON object of `metrics`, up to ten `answers` and, of multiple choice, `subjects`.
///
/// # Errors
/// Rows that cannot be read, lack what the task needs, or do not fit the model.
pub fn evaluate(model: &CausalLm, tokenizer: Option<&Tokenizer>, what: &Measurement<'_>) -> Result<Value> {
    let mut metrics = Map::new();
    let mut answers = Vec::new();
    if what.tasks.contains(&EvalTask::Loss) {
        metrics.extend(loss_metrics(model, tokenizer, what)?);
    }
    if what.tasks.contains(&EvalTask::ExactMatch) {
        let (found, shown) = exact_answers(model, needed(tokenizer, "exact_match")?, what)?;
        metrics.extend(found);
        answers.extend(shown);
    }
    if what.tasks.contains(&EvalTask::Math) {
        let (found, shown) = math::measure(model, needed(tokenizer, "math")?, what)?;
        metrics.extend(found);
        answers.extend(shown);
    }
    let mut measured = json!({"metrics": metrics, "answers": answers});
    if what.tasks.contains(&EvalTask::MultipleChoice) {
        let tokenizer = needed(tokenizer, "multiple_choice")?;
        let (found, subjects) = multiple_choice::measure(model, tokenizer, &choice_settings(what)?)?;
        measured = json!({"metrics": found, "subjects": subjects, "answers": []});
    }
    Ok(measured)
}

/// Cross-entropy on the rows.
fn loss_metrics(
    model: &CausalLm,
    tokenizer: Option<&Tokenizer>,
    what: &Measurement<'_>,
) -> Result<Map<String, Value>> {
    let context = PrepareContext {
        tokenizer,
        max_seq_len: what.max_seq_len,
        seed: 0,
        cache_dir: what.cache_dir,
        system_prompt_ratio: 0.0,
        empty_think_ratio: 0.0,
    };
    let rows = limited(what, &context)?;
    loading::check_rows(model.config(), &rows, &what.data.source)?;
    let settings = DataLoaderConfig {
        batch_size: what.batch_size,
        max_seq_len: what.max_seq_len,
        batching: Batching::Bucket,
        shuffle: false,
        seed: 0,
        pad_id: tokenizer.map_or(0, Tokenizer::pad_id),
    };
    let loader = DataLoader::new(rows, settings);
    let values = loss::measure_loss(model, &loader, what.compute, &Ranks::single())?;
    if values.is_empty() {
        return Err(what
            .data
            .source
            .at(Error::input("no training targets in these rows: every label is -100"))
            .hint("a row needs an assistant turn, or labels other than -100, within max_seq_len"));
    }
    // No validation beside training here: the names need no `val_`.
    Ok(values.into_iter().map(|(k, v)| (k.trim_start_matches("val_").to_owned(), json!(v))).collect())
}

/// The share of exact answers, and some answers, wrong ones first.
fn exact_answers(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    what: &Measurement<'_>,
) -> Result<(Map<String, Value>, Vec<Value>)> {
    let questions = questions(what)?;
    let ends = (what.max_new_tokens, what.eos_token_ids);
    let answered = exact_match::exact_match(model, tokenizer, &questions, ends)?;
    let correct = answered.iter().filter(|a| a.correct).count();
    let metrics = Map::from_iter([
        ("exact_match".to_owned(), json!(correct as f64 / answered.len() as f64)),
        ("questions".to_owned(), json!(answered.len())),
    ]);
    let mut shown: Vec<_> = answered.iter().filter(|a| !a.correct).take(5).collect();
    shown.extend(answered.iter().filter(|a| a.correct).take(5));
    let shown = shown
        .iter()
        .map(|a| json!({"question": a.question, "expected": a.expected, "got": a.got, "correct": a.correct}));
    Ok((metrics, shown.collect()))
}

/// The rows of a loss: the first ones where there is a limit.
fn limited(what: &Measurement<'_>, context: &PrepareContext<'_>) -> Result<Dataset> {
    let Some(limit) = what.limit else { return Ok(prepare(what.data, context)?.train) };
    let rows = match Preview::of_all(what.data, limit)? {
        Some((preview, data)) => {
            let own = PrepareContext { cache_dir: preview.folder(), ..*context };
            prepare(&data, &own).map_err(|fault| preview.restore_paths(fault))?.train
        }
        None => prepare(what.data, context)?.train,
    };
    Ok(rows.take(limit))
}

fn needed<'a>(tokenizer: Option<&'a Tokenizer>, task: &str) -> Result<&'a Tokenizer> {
    tokenizer.ok_or_else(|| {
        Error::input(format!("{task} needs a tokenizer")).hint("name one, or measure `tasks: [loss]` alone")
    })
}

fn choice_settings<'a>(what: &'a Measurement<'_>) -> Result<multiple_choice::ChoiceSettings<'a>> {
    let DataSource::Paths(paths) = &what.data.source else {
        return Err(Error::input("the built-in world has no multiple choice").hint("name files of questions"));
    };
    Ok(multiple_choice::ChoiceSettings {
        paths,
        shots: what.choice.shots,
        shots_from: what.choice.shots_from.as_deref(),
        chat: what.choice.chat_template,
        batch_size: what.batch_size,
        max_seq_len: what.max_seq_len,
        limit: what.limit,
        compute: what.compute,
    })
}

fn questions(what: &Measurement<'_>) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    for row in source::rows(what.data)? {
        if what.limit.is_some_and(|limit| questions.len() >= limit) {
            break;
        }
        questions.extend(Question::from_row(&row?.row));
    }
    if questions.is_empty() {
        return Err(Error::input("no row holds a question with an answer")
            .hint("exact_match wants conversations that end in an assistant turn"));
    }
    Ok(questions)
}

/// Evaluates a stage's model.
///
/// # Errors
/// Weights or rows that cannot be read or do not fit each other.
pub fn run(context: &Context<'_>, config: &EvalConfig) -> Result<StageResult> {
    let tokenizer = loading::tokenizer(context, config.tokenizer.as_ref())?;
    let model = loading::model(context, &config.init, config.model.as_ref(), tokenizer.as_ref(), 0.0)?;
    loading::check_vocabulary(&model, tokenizer.as_ref())?;
    let from = (&config.init, config.tokenizer.as_ref());
    loading::warn_of_other_tokenizer_of(context, from, tokenizer.as_ref(), model.config())?;
    let eos_token_ids = loading::eos_token_ids(context, &config.init, tokenizer.as_ref())?;
    let what = Measurement {
        data: &config.data,
        tasks: &config.tasks,
        batch_size: config.batch_size,
        max_seq_len: config.max_seq_len,
        max_new_tokens: config.max_new_tokens,
        limit: config.limit,
        choice: &config.choice,
        eos_token_ids: &eos_token_ids,
        compute: context.compute,
        cache_dir: &context.options.cache_dir,
    };
    Ok(StageResult { summary: evaluate(&model, tokenizer.as_ref(), &what)?, ..StageResult::default() })
}
