//! Stages after fine-tuning, resolved: lora, merge, reason, distill, dpo, reward.
//!
//! What they share with other training stages is `resolve::train`'s; the rules are the same.

use super::resolve::{Above, Makes, Resolver, join};
use super::schema::{
    DistillSection, DpoSection, LoraSection, MergeSection, PairLossName, ReasonSection, ReductionName,
    RewardSection, SaveDtypeName,
};
use super::types::*;
use crate::loss::dpo::{PairLoss, Reduction};
use crate::model::ModelConfig;
use crate::model::lora::TARGETS;
use crate::recipe::faults::hint;

fn positive(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

impl Resolver<'_> {
    pub(super) fn lora(
        &mut self,
        base: &[String],
        s: &LoraSection,
        seed: u64,
        below: &[String],
    ) -> StageConfig {
        let train = self.train(base, "lora", &s.shared(), seed, below);
        let mut target_modules = Vec::new();
        for (i, name) in s.target_modules.iter().flatten().enumerate() {
            let Some(name) = name else { continue };
            if !TARGETS.contains(&name.as_str()) {
                let at = join(&join(base, "target_modules"), &i.to_string());
                self.fault(&at, format!("no layer is called `{name}`"), hint(name, &TARGETS, "layers"));
            }
            target_modules.push(name.clone());
        }
        if target_modules.is_empty() && s.target_modules.is_some() {
            self.missing(
                base,
                "target_modules",
                "`target_modules` names no layer",
                "leave it out for the square ones, or give for example [q_proj, v_proj]",
            );
        }
        let adapter = s.adapter.as_ref().map(|given| self.adapter(&join(base, "adapter"), given, below));
        if adapter.is_some() && s.target_modules.is_some() {
            self.fault(
                &join(base, "target_modules"),
                "an adapter to go on from brings its own layers",
                "leave target_modules out, or adapter",
            );
        }
        StageConfig::Lora(LoraConfig {
            rank: self.whole(base, "rank", s.rank, 1),
            alpha: self.real(base, "alpha", s.alpha, "above 0", positive),
            target_modules,
            adapter,
            train,
        })
    }

    /// An adapter by name: a lora stage above, or a file.
    fn adapter(&mut self, path: &[String], given: &str, below: &[String]) -> Init {
        let wrong = self.above.iter().any(|a| a.name == given && a.makes != Makes::Adapter);
        if wrong {
            self.fault(path, format!("stage `{given}` makes no adapter"), "name a lora stage");
            return Init::Stage(given.to_owned());
        }
        if given == "scratch" {
            self.fault(path, "`adapter: scratch` is no adapter", "leave it out for a fresh one");
        }
        self.init(path, given, below)
    }

    pub(super) fn merge(&mut self, base: &[String], s: &MergeSection, below: &[String]) -> StageConfig {
        let last = self.above.iter().rev().find(|a| a.makes == Makes::Adapter).map(|a| a.name.clone());
        let adapter = match (&s.adapter, last) {
            (Some(given), _) => self.adapter(&join(base, "adapter"), given, below),
            (None, Some(name)) => Init::Stage(name),
            (None, None) => {
                self.missing(
                    base,
                    "adapter",
                    "stage `merge` needs `adapter`",
                    "give a lora stage above, or a file",
                );
                Init::Scratch
            }
        };
        let init = s.init.as_ref().map(|given| self.init(&join(base, "init"), given, below));
        if init == Some(Init::Scratch) {
            self.fault(
                &join(base, "init"),
                "an adapter is merged into trained weights",
                "name a stage or a file",
            );
        }
        if let Some(Init::Stage(name)) = &init
            && self.above.iter().any(|a| a.name == *name && a.makes == Makes::Adapter)
        {
            self.fault(
                &join(base, "init"),
                format!("stage `{name}` makes an adapter: merging into it would merge twice"),
                "name the weights that the adapter was trained on, or leave `init` out",
            );
        }
        let from = init.clone().unwrap_or_else(|| adapter.clone());
        let model = self.stage_model(base, s.model.as_ref(), &from);
        let tokenizer = self.tokenizer_of(base, s.tokenizer.as_deref(), &from, DataFormat::Tokens, below);
        StageConfig::Merge(MergeConfig {
            init,
            model,
            tokenizer,
            adapter,
            scale: self.real(base, "scale", s.scale, "above 0", positive),
            save_dtype: match s.save_dtype {
                None | Some(SaveDtypeName::Fp16) => SaveDtype::Fp16,
                Some(SaveDtypeName::Bf16) => SaveDtype::Bf16,
                Some(SaveDtypeName::Fp32) => SaveDtype::Fp32,
            },
        })
    }

    /// A merge as later stages see it: a model like the one it came from.
    pub(super) fn merged(&self, name: &str, config: &MergeConfig) -> Above {
        let from = config.init.as_ref().unwrap_or(&config.adapter);
        let length = match from {
            Init::Stage(from) => self.above.iter().find(|a| a.name == *from).map_or(0, |a| a.max_seq_len),
            _ => 0,
        };
        Above {
            name: name.to_owned(),
            makes: Makes::Model,
            tokenizer: config.tokenizer.clone(),
            model: config.model.clone(),
            max_seq_len: length,
        }
    }

    pub(super) fn reason(
        &mut self,
        base: &[String],
        s: &ReasonSection,
        seed: u64,
        below: &[String],
    ) -> StageConfig {
        let train = self.train(base, "reason", &s.shared(), seed, below);
        let mut marker_token_ids = Vec::new();
        let at = join(base, "marker_token_ids");
        for (i, id) in s.marker_token_ids.iter().flatten().enumerate() {
            if let Some(id) = self.whole(&at, &i.to_string(), *id, 0) {
                marker_token_ids.push(id as i64);
            }
        }
        if marker_token_ids.is_empty() && train.tokenizer.is_none() {
            self.missing(
                base,
                "marker_token_ids",
                "without a tokenizer the marked tokens are not known",
                "give marker_token_ids, or a tokenizer",
            );
        }
        let weight = self.real(base, "marker_weight", s.marker_weight, "above 0", positive);
        StageConfig::Reason(ReasonConfig { train, marker_token_ids, marker_weight: weight.unwrap_or(10.0) })
    }

    pub(super) fn distill(
        &mut self,
        base: &[String],
        s: &DistillSection,
        seed: u64,
        below: &[String],
    ) -> StageConfig {
        let train = self.train(base, "distill", &s.shared(), seed, below);
        let teacher = match &s.teacher {
            Some(given) => self.init(&join(base, "teacher"), given, below),
            None => {
                self.missing(
                    base,
                    "teacher",
                    "stage `distill` needs `teacher`",
                    "give a stage above, or weights",
                );
                Init::Scratch
            }
        };
        if teacher == Init::Scratch && s.teacher.is_some() {
            self.fault(&join(base, "teacher"), "a teacher has learned something", "name a stage or a file");
        }
        self.same_tokenizer(&join(base, "teacher"), &teacher, train.tokenizer.as_ref());
        let own = s.teacher_model.as_ref();
        let teacher_model = match own {
            Some(section) => self.model(&join(base, "teacher_model"), section),
            None => match &teacher {
                Init::Stage(name) => {
                    self.above.iter().find(|a| a.name == *name).and_then(|a| a.model.clone())
                }
                _ => None,
            },
        };
        let temperature = self.real(base, "temperature", s.temperature, "above 0", positive).unwrap_or(1.5);
        let alpha = self.ratio(base, "alpha", s.alpha).unwrap_or(0.5);
        StageConfig::Distill(DistillStage { train, teacher, teacher_model, alpha, temperature })
    }

    /// A stage above that is a teacher must have learned the student's tokens.
    fn same_tokenizer(&mut self, at: &[String], teacher: &Init, own: Option<&TokenizerSource>) {
        let Init::Stage(name) = teacher else { return };
        let theirs = self.above.iter().find(|a| a.name == *name).and_then(|a| a.tokenizer.clone());
        if let (Some(theirs), Some(own)) = (theirs, own)
            && theirs != *own
        {
            self.fault(
                at,
                format!("the teacher `{name}` was trained with another tokenizer than this stage uses"),
                "a teacher and its student share a vocabulary: give both the same tokenizer",
            );
        }
    }

    /// A stage above that is a reference must have the policy's architecture.
    fn same_shape(&mut self, at: &[String], reference: &Init, own: Option<&ModelPlan>) {
        let Init::Stage(name) = reference else { return };
        let theirs = self.above.iter().find(|a| a.name == *name).and_then(|a| a.model.clone());
        let shape = |m: &ModelPlan| ModelConfig { dropout: 0.0, ..m.config.clone() };
        if let (Some(theirs), Some(own)) = (theirs, own)
            && shape(&theirs) != shape(own)
        {
            self.fault(
                at,
                format!("the reference `{name}` has another architecture than the policy"),
                "name a stage of the same model, or leave `reference` out for the start weights",
            );
        }
    }

    pub(super) fn dpo(
        &mut self,
        base: &[String],
        s: &DpoSection,
        seed: u64,
        below: &[String],
    ) -> StageConfig {
        let train = self.train(base, "dpo", &s.shared(), seed, below);
        let free = s.reference_free == Some(true);
        let reference = match &s.reference {
            None if free => Reference::Free,
            None => Reference::Start,
            Some(given) => {
                let at = join(base, "reference");
                if free {
                    self.fault(&at, "`reference_free: true` uses no reference", "remove one of the two");
                }
                let found = self.init(&at, given, below);
                if found == Init::Scratch {
                    self.fault(&at, "a reference is trained weights", "name a stage or a file");
                }
                self.same_shape(&at, &found, train.model.as_ref());
                Reference::Weights(found)
            }
        };
        let half = |v: f64| (0.0..0.5).contains(&v);
        let smoothing =
            self.real(base, "label_smoothing", s.label_smoothing, "from 0 up to, not with, 0.5", half);
        let ipo = s.loss_type == Some(PairLossName::Ipo);
        if ipo && smoothing.is_some_and(|v| v != 0.0) {
            self.fault(
                &join(base, "label_smoothing"),
                "`label_smoothing` is for loss_type: sigmoid",
                "remove it",
            );
        }
        StageConfig::Dpo(DpoStage {
            reference,
            beta: self.real(base, "beta", s.beta, "above 0", positive).unwrap_or(0.15),
            label_smoothing: smoothing.unwrap_or(0.0),
            loss_type: if ipo { PairLoss::Ipo } else { PairLoss::Sigmoid },
            logprob_reduction: match s.logprob_reduction {
                None | Some(ReductionName::Sum) => Reduction::Sum,
                Some(ReductionName::Mean) => Reduction::Mean,
            },
            train,
        })
    }

    pub(super) fn reward(
        &mut self,
        base: &[String],
        s: &RewardSection,
        seed: u64,
        below: &[String],
    ) -> StageConfig {
        let train = self.train(base, "reward", &s.shared(), seed, below);
        if !train.samples.is_empty() {
            self.fault(&join(base, "samples"), "a reward model does not speak", "remove `samples`");
        }
        let not_negative = |v: f64| v >= 0.0 && v.is_finite();
        let key = "center_rewards_coefficient";
        let center = self.real(base, key, s.center_rewards_coefficient, "of at least 0", not_negative);
        StageConfig::Reward(RewardConfig { train, center_rewards_coefficient: center.unwrap_or(0.0) })
    }
}
