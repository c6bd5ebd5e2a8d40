//! `ppo`, `grpo`, `spo` and `agent` stages: what stages that learn from rewards have in common.
//!
//! Next: `methods`, `rollout` and `guards` for their parts, `plan::rewards` and `plan::tools` for the lists.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::guards::GuardPlan;
use super::methods::{GrpoPlan, Method, PpoPlan, SpoPlan};
use super::rollout::{RolloutKeys, RolloutPlan};
use super::train::TrainConfig;
use crate::data::{DataConfig, DataFormat, DataSource};
use crate::plan::changes::{Kinds, SettingKind};
use crate::plan::resolve::{Resolver, on_bad_row};
use crate::plan::schema::{DataSection, FormatName, RewardItem, ToolItem};
use crate::plan::types::{Init, StageConfig};
use crate::recipe::Section;
use crate::rollout::rewards::RewardConfig;
use crate::rollout::tools::{Table, ToolConfig, ToolKind};

/// A ppo, grpo, spo or agent stage.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(transform = without_keys_of_texts)]
pub struct PolicyConfig {
    /// What every training stage has. Its data are the prompts, or the file of recorded rollouts.
    #[schemars(flatten)]
    pub train: TrainConfig,
    /// The model that the KL holds on to: a stage above or a path (the start weights); none where its weight is 0.
    #[schemars(with = "String")]
    pub reference: Option<Init>,
    /// Where rollouts come from.
    #[schemars(with = "RolloutKeys")]
    pub rollout: RolloutPlan,
    /// What a completion is worth: a weighted list. Replay needs none.
    #[schemars(with = "Vec<RewardItem>")]
    pub rewards: Vec<RewardConfig>,
    /// Tools and turns (agent).
    #[schemars(skip)]
    pub agent: Option<AgentPlan>,
    /// Prompts to measure on before, during and after (none).
    #[schemars(with = "DataSection")]
    pub heldout: Option<DataConfig>,
    /// Keys of all such stages that refer to nothing.
    #[serde(flatten)]
    pub keys: PolicyKeys,
    /// What is watched.
    pub guards: GuardPlan,
    /// The method's own.
    #[schemars(skip)]
    pub method: Method,
}

/// Keys of every stage that learns from rewards.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PolicyKeys {
    /// Most held-out prompts.
    #[schemars(range(min = 1), extend("default" = 100))]
    pub heldout_limit: usize,
    /// How held-out prompts are answered: 0 greedily, 1 as training samples.
    #[schemars(range(min = 0), extend("default" = 0.0))]
    pub heldout_temperature: f64,
    /// Chance that a prompt opens a think block, for templates that know it.
    #[schemars(range(min = 0, max = 1), extend("default" = 0.0))]
    pub thinking_ratio: f64,
    /// Completions of a logged step that are kept for the report.
    #[schemars(extend("default" = 4))]
    pub keep_completions: usize,
    /// Most new tokens a completion: the same as rollout.max_new_tokens, by upstream's name.
    #[serde(skip_serializing)]
    #[schemars(range(min = 1))]
    pub max_gen_len: Option<usize>,
}

impl PolicyKeys {
    /// What a change of a setting means that does not change the result.
    pub const KINDS: Kinds = &[(SettingKind::Watch, "heldout_limit heldout_temperature keep_completions")];
}

/// Tools, and how far a conversation goes on.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AgentPlan {
    /// Tools the policy may call: calculator, units, clock, lookup, command (calculator, units, clock; for the built-in
    /// world's errands lookup too).
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "Vec<ToolItem>")]
    pub tools: Vec<ToolConfig>,
    /// Most assistant turns.
    #[schemars(range(min = 1), extend("default" = 3))]
    pub max_turns: usize,
    /// Most tokens after the prompt, all turns and results together (rollout.max_new_tokens a turn).
    #[schemars(range(min = 1))]
    pub max_total_len: usize,
}

/// GRPO and CISPO: a group of completions a prompt, compared with each other. The keys of a `grpo` stage.
#[derive(Debug, JsonSchema)]
pub struct GrpoKeys {
    /// Those of every such stage.
    #[schemars(flatten)]
    pub policy: PolicyConfig,
    /// The method's.
    #[schemars(flatten)]
    pub method: GrpoPlan,
}

/// Tool use over several turns, by GRPO or CISPO; only what the policy wrote carries loss. The keys of an `agent` stage.
#[derive(Debug, JsonSchema)]
pub struct AgentKeys {
    /// Those of every such stage.
    #[schemars(flatten)]
    pub policy: PolicyConfig,
    /// The method's.
    #[schemars(flatten)]
    pub method: GrpoPlan,
    /// Tools and turns.
    #[schemars(flatten)]
    pub agent: AgentPlan,
}

/// PPO: one completion a prompt, a critic for its value. The keys of a `ppo` stage.
#[derive(Debug, JsonSchema)]
pub struct PpoKeys {
    /// Those of every such stage.
    #[schemars(flatten)]
    pub policy: PolicyConfig,
    /// The method's.
    #[schemars(flatten)]
    pub method: PpoPlan,
}

/// SPO: one completion a prompt, against a tracked baseline. The keys of an `spo` stage.
#[derive(Debug, JsonSchema)]
pub struct SpoKeys {
    /// Those of every such stage.
    #[schemars(flatten)]
    pub policy: PolicyConfig,
    /// The method's.
    #[schemars(flatten)]
    pub method: SpoPlan,
}

/// Training settings that mean nothing where the rows are completions.
const KEYS_OF_TEXTS: [&str; 6] =
    ["on_spike", "spike_factor", "dropout", "system_prompt_ratio", "empty_think_ratio", "samples"];

fn without_keys_of_texts(schema: &mut schemars::Schema) {
    if let Some(own) = schema.get_mut("properties").and_then(|own| own.as_object_mut()) {
        own.retain(|key, _| !KEYS_OF_TEXTS.contains(&key.as_str()));
    }
}

impl PolicyConfig {
    /// What a change of a setting means that does not change the result. A guard that stopped a run is to be loosened, or
    /// its reward's patience lengthened, and the run to go on.
    pub const KINDS: Kinds = &[
        (SettingKind::Place, "reference method.*.critic rollout.replay.path"),
        (SettingKind::Place, "rewards.*.kind.model.from rewards.*.kind.model.tokenizer"),
        (SettingKind::Watch, "heldout guards"),
        (SettingKind::Watch, "rewards.*.on_error rewards.*.kind.*.timeout_secs"),
        (SettingKind::Watch, "rewards.*.kind.http.service.timeout_secs rewards.*.kind.http.service.retries"),
        (
            SettingKind::Watch,
            "rewards.*.kind.http.service.headers rollout.generated.server.engine.service.headers",
        ),
        (SettingKind::Watch, "rollout.generated.server.engine.service.timeout_secs"),
        (SettingKind::Watch, "rollout.generated.server.engine.service.retries"),
    ];

    /// Rows a prompt.
    pub fn generations(&self) -> usize {
        match &self.method {
            Method::Grpo(grpo) => grpo.num_generations,
            Method::Ppo(_) | Method::Spo(_) => 1,
        }
    }

    /// Weight files named beside the start weights.
    pub fn others(&self) -> Vec<(&'static str, &Init)> {
        let critic = match &self.method {
            Method::Ppo(ppo) => ppo.critic.as_ref(),
            _ => None,
        };
        let named = [("reference", self.reference.as_ref()), ("critic", critic)];
        named.into_iter().filter_map(|(key, init)| Some((key, init?))).collect()
    }
}

impl Resolver<'_> {
    pub(in crate::plan) fn grpo(&mut self, s: &Section<'_>) -> Option<StageConfig> {
        let method = self.grpo_method(s);
        let config = self.policy(s, Method::Grpo(method))?;
        Some(StageConfig::Grpo(Box::new(config)))
    }

    pub(in crate::plan) fn agent(&mut self, s: &Section<'_>) -> Option<StageConfig> {
        let method = self.grpo_method(s);
        let mut config = self.policy(s, Method::Grpo(method))?;
        let a_turn = match &config.rollout {
            RolloutPlan::Generated(plan) => plan.max_new_tokens,
            RolloutPlan::Replay { .. } => 0,
        };
        let total = |tokens: usize| ("max_total_len".to_owned(), tokens.into());
        let turns = self.read::<AgentPlan>(s, &[total(0)])?.max_turns;
        let mut agent: AgentPlan = self.read(s, &[total(turns * a_turn)])?;
        if matches!(config.rollout, RolloutPlan::Generated(_)) {
            self.lengths(s, &mut config.train, agent.max_total_len, "max_total_len");
        }
        agent.tools = match s.has("tools") {
            true => self.tools(s),
            false => self.usual_tools(s, &config),
        };
        config.agent = Some(agent);
        Some(StageConfig::Agent(Box::new(config)))
    }

    /// Calculator, units and clock; for errands of the built-in world, which ask for its prices, lookup too.
    fn usual_tools(&mut self, s: &Section<'_>, config: &PolicyConfig) -> Vec<ToolConfig> {
        let world = |data: &DataConfig| {
            data.parts().into_iter().find_map(|part| match part.source {
                DataSource::Synthetic(world) => Some(world.seed),
                _ => None,
            })
        };
        let (asked, held) = (world(&config.train.data), config.heldout.as_ref().and_then(world));
        if let (Some(asked), Some(held)) = (asked, held)
            && asked != held
        {
            self.fault(
                &s.at("heldout"),
                format!("`heldout` asks of the world with seed {held}, `data` of that with seed {asked}: prices differ"),
                "give both the same seed, or say under `tools` whose prices `lookup` tells",
            );
        }
        let prices = asked.or(held).map(|seed| ToolConfig::new(ToolKind::Lookup(Table::World(seed))));
        ToolConfig::built_in().into_iter().chain(prices).collect()
    }

    pub(in crate::plan) fn ppo(&mut self, s: &Section<'_>) -> Option<StageConfig> {
        let method = self.ppo_method(s);
        let mini = method.mini_batch_size;
        let config = self.policy(s, Method::Ppo(method))?;
        if let (Some(mini), RolloutPlan::Generated(_)) = (mini, &config.rollout)
            && !config.train.batch_size.is_multiple_of(mini)
        {
            let batch = config.train.batch_size;
            self.fault(
                &s.at("mini_batch_size"),
                format!("`mini_batch_size` is {mini}, which does not divide `batch_size` {batch}"),
                "give a divisor, or leave it out: the whole step is one minibatch then",
            );
        }
        Some(StageConfig::Ppo(Box::new(config)))
    }

    pub(in crate::plan) fn spo(&mut self, s: &Section<'_>) -> Option<StageConfig> {
        let method = self.spo_method(s);
        let config = self.policy(s, Method::Spo(method))?;
        Some(StageConfig::Spo(Box::new(config)))
    }

    /// What all of them have, around their method.
    fn policy(&mut self, s: &Section<'_>, method: Method) -> Option<PolicyConfig> {
        let rollout = self.rollout(s);
        let data = self.prompts(s, &rollout);
        let mut train = self.train_config(s, data)?;
        let reference = match s.text("reference") {
            Some(given) => Some(self.init(&s.at("reference"), given)),
            None if method.kl_weight() > 0.0 => Some(train.init.clone()),
            None => None,
        };
        if let (RolloutPlan::Generated(plan), false) = (&rollout, s.key() == "agent") {
            self.lengths(s, &mut train, plan.max_new_tokens, "rollout.max_new_tokens");
        }
        let heldout = self.heldout(s);
        let rewards = self.rewards(s);
        let replay = matches!(rollout, RolloutPlan::Replay { .. });
        if !replay && rewards.is_empty() {
            let what = format!("stage `{}` needs `rewards`", s.key());
            let hint = "for example rewards: [{math: {}}, {length: {weight: 0.1}}]";
            self.missing(&s.path, "rewards", what, hint);
        }
        if replay && !rewards.is_empty() {
            self.fault(&s.at("rewards"), "recorded rollouts bring their rewards", "remove `rewards`");
        }
        let guards = self.read(&self.section(&s.at("guards")), &[])?;
        let keys = self.read(s, &[])?;
        Some(PolicyConfig { train, reference, rollout, rewards, agent: None, heldout, keys, guards, method })
    }

    /// The prompts, or the file of recorded rollouts.
    fn prompts(&mut self, s: &Section<'_>, rollout: &RolloutPlan) -> DataConfig {
        if let RolloutPlan::Replay { path } = rollout {
            if s.has("data") {
                let hint = "remove it, or use rollout.engine: native";
                self.fault(&s.at("data"), "recorded rollouts need no `data`", hint);
            }
            return DataConfig::files(vec![path.clone()], DataFormat::Tokens);
        }
        let data = self.stage_data(s);
        if data.format == DataFormat::Tokens {
            self.fault(
                &s.at("data"),
                "prompts come as text, not as tokens",
                "give conversations in a .jsonl, or recorded rollouts with rollout: {engine: replay, path: FILE}",
            );
        }
        data
    }

    /// The prompts to measure on.
    fn heldout(&mut self, s: &Section<'_>) -> Option<DataConfig> {
        let mut written: DataSection = self.written(&s.section("heldout")?)?;
        let agent = s.key() == "agent";
        let format = written.rows.format.or(agent.then_some(FormatName::Stated(DataFormat::Agent)));
        written.rows.format = format;
        let mut data = self.data(&s.at("heldout"), Some(&written), "eval", self.seed, on_bad_row(s));
        self.spread_folders(&s.at("heldout"), &mut data);
        data.shuffle = false;
        data.format = if agent { DataFormat::Agent } else { DataFormat::Prompts };
        Some(data)
    }

    /// A prompt and the `new` tokens after it, which `key` bounds, must fit the model's positions; prompts whose length
    /// the recipe leaves open get what is left.
    fn lengths(&mut self, s: &Section<'_>, train: &mut TrainConfig, new: usize, key: &str) {
        let Some(most) = train.model.as_ref().map(|m| m.config.max_position_embeddings as usize) else {
            return;
        };
        if !s.has("max_seq_len") && most > new + 1 {
            train.max_seq_len = train.max_seq_len.min(most - new);
        }
        let both = train.max_seq_len + new;
        if train.max_seq_len <= most && both > most {
            self.fault(
                &s.at("max_seq_len"),
                format!(
                    "prompts of {} and {new} new tokens are {both}, the model sees {most}",
                    train.max_seq_len
                ),
                format!("lower max_seq_len or {key}, or raise model.max_position_embeddings"),
            );
        }
    }
}
