//! An `eval` stage, resolved: which weights, on which rows, by which measures.
//!
//! Apart from `resolve` only for length; the rules are the same.

use std::path::{Path, PathBuf};

use super::resolve::{Resolver, join};
use super::schema::{EvalSection, TaskName};
use super::types::*;
use crate::data::source;

impl Resolver<'_> {
    pub(super) fn eval(
        &mut self,
        base: &[String],
        s: &EvalSection,
        seed: u64,
        below: &[String],
    ) -> StageConfig {
        if s.from.is_some() && s.init.is_some() {
            self.fault(&join(base, "init"), "`from` and `init` mean the same here", "keep `from`");
        }
        let (key, given) = if s.from.is_some() { ("from", &s.from) } else { ("init", &s.init) };
        let last = self.above.iter().rev().find(|a| a.trains()).map(|a| Init::Stage(a.name.clone()));
        let init = match given {
            Some(init) => self.init(&join(base, key), init, below),
            None => last.unwrap_or_else(|| {
                self.missing(
                    base,
                    "from",
                    "stage `eval` needs `from`",
                    "give a training stage above, or a weight file",
                );
                Init::Scratch
            }),
        };
        let model = self.stage_model(base, None, &init);
        let data = self.data(base, s.data.as_ref(), "eval", seed, None);
        let tokenizer = self.tokenizer_of(base, s.tokenizer.as_deref(), &init, data.format, below);
        let trained = match &init {
            Init::Stage(name) => {
                self.above.iter().find(|a| a.name == *name).map_or(768, |a| a.max_seq_len.max(2))
            }
            _ => 768,
        };
        let mut tasks: Vec<EvalTask> = Vec::new();
        for task in s.tasks.iter().flatten().flatten() {
            let task = match task {
                TaskName::Loss => EvalTask::Loss,
                TaskName::ExactMatch => EvalTask::ExactMatch,
                TaskName::Math | TaskName::Gsm8k => EvalTask::Math,
                TaskName::MultipleChoice
                | TaskName::Ceval
                | TaskName::Cmmlu
                | TaskName::Arc
                | TaskName::Piqa
                | TaskName::Openbookqa
                | TaskName::Hellaswag => EvalTask::MultipleChoice,
            };
            if !tasks.contains(&task) {
                tasks.push(task);
            }
        }
        if tasks.is_empty() {
            // As `minimind eval`: sums in words are answered, not read.
            let math = match &data.source {
                DataSource::Paths(paths) => {
                    !paths.is_empty() && paths.iter().all(|path| source::is_math(path))
                }
                DataSource::Synthetic(_) => false,
            };
            tasks.push(if math { EvalTask::Math } else { EvalTask::Loss });
        }
        if tasks.contains(&EvalTask::ExactMatch) && data.format != DataFormat::Chat {
            self.fault(
                &join(base, "tasks"),
                "`exact_match` needs conversations",
                "set data.format: chat, or leave exact_match out",
            );
        }
        let choice = self.choice(base, s, &tasks, &data);
        StageConfig::Eval(EvalConfig {
            choice,
            init,
            model,
            tokenizer,
            data,
            tasks,
            batch_size: self.whole(base, "batch_size", s.batch_size, 1).unwrap_or(16),
            max_seq_len: self.whole(base, "max_seq_len", s.max_seq_len, 2).unwrap_or(trained),
            max_new_tokens: self.whole(base, "max_new_tokens", s.max_new_tokens, 1).unwrap_or(64),
            limit: self.whole(base, "limit", s.limit, 1),
        })
    }

    /// How questions of multiple choice are put, and whether the data can be such.
    fn choice(
        &mut self,
        base: &[String],
        s: &EvalSection,
        tasks: &[EvalTask],
        data: &DataConfig,
    ) -> ChoicePlan {
        let asked = tasks.contains(&EvalTask::MultipleChoice);
        if asked && tasks.len() > 1 {
            self.fault(
                &join(base, "tasks"),
                "`multiple_choice` has files of its own and stands alone",
                "measure the other tasks in a second eval stage",
            );
        }
        let DataSource::Paths(paths) = &data.source else {
            if asked {
                self.fault(
                    &join(base, "data"),
                    "the built-in world has no multiple choice",
                    "name files with data.path",
                );
            }
            return ChoicePlan::default();
        };
        if let Some(folder) = paths.iter().find(|path| path.is_dir()).filter(|_| !asked) {
            self.fault(
                &join(base, "data"),
                format!("{} is a folder, not a file", folder.display()),
                "only multiple_choice reads folders",
            );
        }
        if asked && paths.iter().any(|path| path.extension().is_some_and(|e| e == "safetensors")) {
            self.fault(
                &join(base, "data"),
                "questions are .csv or .jsonl files",
                "give such files, or a folder of them",
            );
        }
        if !asked {
            for (key, given) in [
                ("shots", s.shots.is_some()),
                ("shots_from", s.shots_from.is_some()),
                ("chat_template", s.chat_template.is_some()),
            ] {
                if given {
                    self.fault(
                        &join(base, key),
                        format!("`{key}` is for multiple_choice"),
                        "take it out, or set tasks: [multiple_choice]",
                    );
                }
            }
        }
        let shots = self.whole(base, "shots", s.shots, 0).unwrap_or(0);
        if let Some(from) = s.shots_from.as_ref().filter(|from| !Path::new(from).exists()) {
            self.fault(
                &join(base, "shots_from"),
                format!("no file {from}"),
                "paths count from the current folder",
            );
        }
        if asked && shots > 0 && s.shots_from.is_none() {
            self.fault(
                &join(base, "shots"),
                "`shots` needs `shots_from`",
                "name a file of examples, or a folder with a file of each subject's name",
            );
        }
        ChoicePlan {
            shots,
            shots_from: s.shots_from.as_ref().map(PathBuf::from),
            chat_template: s.chat_template.unwrap_or(false),
        }
    }
}
