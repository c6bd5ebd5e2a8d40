//! The eval stage, and what `minimind eval` shares with it: loss on rows, exact answers to questions.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::choice;
use super::context::{Context, StageResult};
use super::inputs;
use super::measure::{self, Question};
use super::solve;

use crate::data::preview::Preview;
use crate::data::source;
use crate::data::{
    Batching, DataConfig, DataLoader, DataLoaderConfig, DataSource, Dataset, PrepareContext, Tokenizer,
    prepare,
};
use crate::engine::{Compute, Ranks};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::plan::{ChoicePlan, EvalConfig, EvalTask};

/// What to measure, and how.
#[derive(Debug)]
pub struct Measurement<'a> {
    /// Rows.
    pub data: &'a DataConfig,
    /// Loss, exact answers, or both.
    pub tasks: &'a [EvalTask],
    /// Rows a batch.
    pub batch_size: usize,
    /// Longest row in tokens.
    pub max_seq_len: usize,
    /// Longest answer in tokens.
    pub max_new_tokens: usize,
    /// Most rows; of multiple choice, most a file.
    pub limit: Option<usize>,
    /// How questions of multiple choice are put.
    pub choice: &'a ChoicePlan,
    /// The tokens that end an answer.
    pub ends: &'a [u32],
    /// Arithmetic.
    pub compute: Compute,
    /// Where tokenised rows are kept.
    pub cache_dir: &'a Path,
}

/// Measures; `metrics` and up to ten `answers` as JSON.
pub fn measure(model: &CausalLm, tokenizer: Option<&Tokenizer>, what: &Measurement<'_>) -> Result<Value> {
    let mut metrics = Map::new();
    let mut answers = Vec::new();
    if what.tasks.contains(&EvalTask::Loss) {
        let context = PrepareContext {
            tokenizer,
            max_seq_len: what.max_seq_len,
            seed: 0,
            cache_dir: what.cache_dir,
            system_prompt_ratio: 0.0,
            empty_think_ratio: 0.0,
        };
        let rows = limited(what, &context)?;
        inputs::check_rows(model.config(), &rows, &what.data.source)?;
        let settings = DataLoaderConfig {
            batch_size: what.batch_size,
            max_seq_len: what.max_seq_len,
            batching: Batching::Bucket,
            shuffle: false,
            seed: 0,
            pad_id: tokenizer.map_or(0, Tokenizer::pad_id),
        };
        let values = measure::loss(model, &DataLoader::new(rows, settings), what.compute, &Ranks::single())?;
        if values.is_empty() {
            return Err(what
                .data
                .source
                .at(Error::input("no token of these rows carries loss"))
                .hint("a row needs an assistant turn, or labels other than -100, within max_seq_len"));
        }
        // Here nothing else was trained on: the names need no `val_`.
        metrics.extend(values.into_iter().map(|(k, v)| (k.trim_start_matches("val_").to_owned(), json!(v))));
    }
    if what.tasks.contains(&EvalTask::ExactMatch) {
        let tokenizer = needed(tokenizer, "exact_match")?;
        let questions = questions(what)?;
        let answered = measure::exact_match(model, tokenizer, &questions, (what.max_new_tokens, what.ends))?;
        let correct = answered.iter().filter(|a| a.correct).count();
        metrics.insert("exact_match".into(), json!(correct as f64 / answered.len() as f64));
        metrics.insert("questions".into(), json!(answered.len()));
        // Wrong ones first: they are what a person wants to see.
        let mut shown: Vec<_> = answered.iter().filter(|a| !a.correct).take(5).collect();
        shown.extend(answered.iter().filter(|a| a.correct).take(5));
        answers.extend(shown.iter().map(
            |a| json!({"question": a.question, "expected": a.expected, "got": a.got, "correct": a.correct}),
        ));
    }
    if what.tasks.contains(&EvalTask::Math) {
        let (found, shown) = solve::measure(model, needed(tokenizer, "math")?, what)?;
        metrics.extend(found);
        answers.extend(shown);
    }
    let mut measured = json!({"metrics": metrics, "answers": answers});
    if what.tasks.contains(&EvalTask::MultipleChoice) {
        let (found, subjects) =
            choice::measure(model, needed(tokenizer, "multiple_choice")?, &choice_settings(what)?)?;
        measured = json!({"metrics": found, "subjects": subjects, "answers": []});
    }
    Ok(measured)
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

fn choice_settings<'a>(what: &'a Measurement<'_>) -> Result<choice::ChoiceSettings<'a>> {
    let DataSource::Paths(paths) = &what.data.source else {
        return Err(Error::input("the built-in world has no multiple choice").hint("name files of questions"));
    };
    Ok(choice::ChoiceSettings {
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
        questions.extend(Question::from_row(&row?));
    }
    if questions.is_empty() {
        return Err(Error::input("no row holds a question with an answer")
            .hint("exact_match wants conversations that end in an assistant turn"));
    }
    Ok(questions)
}

/// Measures a stage's model.
pub fn run(context: &Context<'_>, config: &EvalConfig) -> Result<StageResult> {
    let tokenizer = inputs::tokenizer(context, config.tokenizer.as_ref())?;
    let model = inputs::model(context, &config.init, config.model.as_ref(), tokenizer.as_ref(), 0.0)?;
    inputs::check_vocabulary(&model, tokenizer.as_ref())?;
    let from = (&config.init, config.tokenizer.as_ref());
    inputs::say_smaller_of(context, from, tokenizer.as_ref(), model.config())?;
    let ends = inputs::ends(context, &config.init, tokenizer.as_ref())?;
    let what = Measurement {
        data: &config.data,
        tasks: &config.tasks,
        batch_size: config.batch_size,
        max_seq_len: config.max_seq_len,
        max_new_tokens: config.max_new_tokens,
        limit: config.limit,
        choice: &config.choice,
        ends: &ends,
        compute: context.compute,
        cache_dir: &context.options.cache_dir,
    };
    Ok(StageResult { summary: measure(&model, tokenizer.as_ref(), &what)?, ..StageResult::default() })
}
