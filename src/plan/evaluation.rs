//! An `eval` stage, resolved: which weights, on which rows, by which measures.
//!
//! Apart from `resolve` only for length; the rules are the same.

use super::resolve::{Resolver, join};
use super::types::*;
use crate::recipe::schema::{EvalSection, TaskName};

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
            };
            if !tasks.contains(&task) {
                tasks.push(task);
            }
        }
        if tasks.is_empty() {
            tasks.push(EvalTask::Loss);
        }
        if tasks.contains(&EvalTask::ExactMatch) && data.format != DataFormat::Chat {
            self.fault(
                &join(base, "tasks"),
                "`exact_match` needs conversations",
                "set data.format: chat, or leave exact_match out",
            );
        }
        StageConfig::Eval(EvalConfig {
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
}
