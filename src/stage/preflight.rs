//! Reads the first rows of every stage's data before anything trains, with the code that will read all of them.
//!
//! A file that a stage cannot read is known hours before that stage begins. Lengths are checked where the tokenizer
//! exists already: one that a stage of the recipe trains does not. Next: `data::preview`, `runner`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::eval::math;
use super::policy::build::prompt_options;
use crate::checkpoint::{resolve_model_path, safetensors};
use crate::data::preview::Preview;
use crate::data::source::{self, SourceRow};
use crate::data::{
    DataConfig, DataFormat, DataSource, OnBadRow, PrepareContext, Prompts, Recorded, Tokenizer, Validation,
    multiple_choice, prepare, prompts, token_file,
};
use crate::error::{Error, Result};
use crate::plan::{
    EvalConfig, EvalTask, Init, Plan, PolicyConfig, RolloutPlan, StageConfig, StagePlan, TokenizerSource,
    TrainConfig,
};
use crate::rollout::tools::Tools;

/// Rows of a file that are read.
pub const ROWS: usize = 50;

/// The largest file of questions that is read whole: a row may span lines there.
const WHOLE_BYTES: u64 = 8 << 20;

/// Checks the data of every stage, or of the stage `only`.
///
/// # Errors
/// Every fault found, at its file and line.
pub fn check_data(plan: &Plan, only: Option<&str>) -> Result<()> {
    let mut checker = DataChecker { plan, tokenizers: HashMap::new() };
    let mut faults: BTreeMap<String, Error> = BTreeMap::new();
    let mut order = Vec::new();
    for stage in plan.stages.iter().filter(|stage| only.is_none_or(|only| stage.name == only)) {
        if let Err(fault) = checker.stage(stage) {
            let fault = match &stage.place {
                Some(place) if fault.place().is_none() => fault.at(place.clone()),
                _ => fault,
            };
            let text = fault.to_string();
            if faults.insert(text.clone(), fault).is_none() {
                order.push(text);
            }
        }
    }
    let faults: Vec<Error> = order.iter().filter_map(|text| faults.remove(text)).collect();
    Error::all(faults).map_or(Ok(()), Err)
}

struct DataChecker<'a> {
    plan: &'a Plan,
    tokenizers: HashMap<PathBuf, Arc<Tokenizer>>,
}

impl DataChecker<'_> {
    fn stage(&mut self, stage: &StagePlan) -> Result<()> {
        for (_, init, _) in stage.config.stated() {
            if let Init::Path(path) = init
                && path.exists()
            {
                resolve_model_path(&path.to_string_lossy())?;
            }
        }
        match &stage.config {
            StageConfig::Tokenizer(c) => {
                check_head(&c.data, &mut |data, _| source::texts(data)?.try_for_each(|text| text.map(|_| ())))
            }
            StageConfig::Eval(c) => self.eval(c),
            StageConfig::Ppo(c) | StageConfig::Grpo(c) | StageConfig::Spo(c) | StageConfig::Agent(c) => {
                self.policy(c)
            }
            other => other.training().map_or(Ok(()), |c| self.training(c, &c.data)),
        }
    }

    /// The stage's tokenizer, if it exists now.
    fn tokenizer(&mut self, source: Option<&TokenizerSource>) -> Result<Option<Arc<Tokenizer>>> {
        let Some(TokenizerSource::Folder(folder)) = source else { return Ok(None) };
        if !folder.is_dir() {
            return Ok(None); // on a hub, not brought yet
        }
        if let Some(known) = self.tokenizers.get(folder) {
            return Ok(Some(known.clone()));
        }
        let loaded = Arc::new(Tokenizer::load(folder)?);
        self.tokenizers.insert(folder.clone(), loaded.clone());
        Ok(Some(loaded))
    }

    fn training(&mut self, c: &TrainConfig, data: &DataConfig) -> Result<()> {
        let tokenizer = self.tokenizer(c.tokenizer.as_ref())?;
        let ratios = (c.system_prompt_ratio, c.empty_think_ratio);
        self.rows(data, tokenizer.as_deref(), c.max_seq_len, ratios)
    }

    fn rows(
        &self,
        data: &DataConfig,
        tokenizer: Option<&Tokenizer>,
        max_seq_len: usize,
        (system_prompt_ratio, empty_think_ratio): (f64, f64),
    ) -> Result<()> {
        check_head(data, &mut |data, preview| {
            let Some(tokenizer) = tokenizer else {
                return source::rows(data)?.try_for_each(|row| {
                    let SourceRow { place, row } = row?;
                    prepare::check(&row, data.format).map_err(|fault| fault.into_error().at(place))
                });
            };
            let settings = PrepareContext {
                tokenizer: Some(tokenizer),
                max_seq_len,
                seed: self.plan.seed,
                cache_dir: preview.folder(),
                system_prompt_ratio,
                empty_think_ratio,
            };
            let facts = prepare(data, &settings)?.facts;
            // Rows further down may have training targets.
            let none = facts.rows_without_loss == facts.rows && data.format != DataFormat::Preference;
            if none && !preview.is_cut() { facts.check_targets(data.format, max_seq_len) } else { Ok(()) }
        })
    }

    fn policy(&mut self, c: &PolicyConfig) -> Result<()> {
        let t = &c.train;
        if let RolloutPlan::Replay { path } = &c.rollout {
            let known = safetensors::read(path)?.tensors.contains_key("output_ids");
            return if known { Ok(()) } else { Recorded::open(path, false).map(|_| ()) };
        }
        let tokenizer = self.tokenizer(t.tokenizer.as_ref())?;
        let tools = c.agent.as_ref().map(|agent| Tools::new(&agent.tools)).transpose()?;
        let options = prompt_options(c, self.plan.seed, tools.as_ref());
        for data in [Some(&t.data), c.heldout.as_ref()].into_iter().flatten() {
            check_head(data, &mut |data, _| match &tokenizer {
                Some(tokenizer) => Prompts::load(data, tokenizer, &options).map(|_| ()),
                None => {
                    let agent = data.format == DataFormat::Agent;
                    source::rows(data)?.try_for_each(|row| {
                        let SourceRow { place, row } = row?;
                        prompts::check(row, agent).map_err(|fault| fault.into_error().at(place))
                    })
                }
            })?;
        }
        Ok(())
    }

    fn eval(&mut self, c: &EvalConfig) -> Result<()> {
        if c.tasks.contains(&EvalTask::MultipleChoice) {
            let DataSource::Paths(paths) = &c.data.source else { return Ok(()) };
            for path in paths {
                let small = |file: &PathBuf| file.is_file() && size(file) <= WHOLE_BYTES;
                for file in multiple_choice::files(path)?.iter().filter(|file| small(file)) {
                    multiple_choice::read(file)?;
                }
            }
            return Ok(());
        }
        if c.tasks.contains(&EvalTask::Math) {
            check_head(&c.data, &mut |data, _| {
                source::rows(data)?.try_for_each(|row| {
                    let SourceRow { place, row } = row?;
                    math::check(&row).map_err(|fault| fault.at(place))
                })
            })?;
        }
        if c.tasks.iter().all(|task| *task == EvalTask::Math) {
            return Ok(());
        }
        let tokenizer = self.tokenizer(c.tokenizer.as_ref())?;
        self.rows(&c.data, tokenizer.as_deref(), c.max_seq_len, (0.0, 0.0))
    }
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |about| about.len())
}

/// Calls `read` with the first rows of `data`; its faults are placed at the files themselves.
fn check_head(data: &DataConfig, read: &mut dyn FnMut(&DataConfig, &Preview) -> Result<()>) -> Result<()> {
    if let DataSource::Mixture(_) = data.source {
        data.parts().iter().try_for_each(|part| check_head(part, read))?;
        // Validation rows of a file are read as those of the mixture are.
        let Validation::Path(path) = &data.validation else { return Ok(()) };
        let held = DataConfig { source: DataSource::Paths(vec![path.clone()]), ..data.clone() };
        return check_head(&DataConfig { validation: Validation::Off, ..held }, read);
    }
    if let (DataFormat::Tokens, DataSource::Paths(paths)) = (data.format, &data.source) {
        let there = paths.iter().filter(|path| path.is_file());
        return there.map(|path| token_file::TokenFile::open(path)).try_for_each(|file| file.map(|_| ()));
    }
    let Some((preview, own)) = Preview::per_file(data, ROWS)? else { return Ok(()) };
    match read(&own, &preview).map_err(|fault| preview.restore_paths(fault)) {
        // The bad ones are left out, and better ones may follow.
        Err(_) if data.on_bad_row == OnBadRow::Skip && preview.is_cut() => Ok(()),
        done => done,
    }
}
