//! `tools:` of a stage, resolved. Same rules as `resolve`. Next: `rollout::tools`, which carries them out.

use std::path::PathBuf;

use super::resolve::{Resolver, join};
use super::schema::*;
use crate::rollout::tools::{Table, ToolConfig, ToolKind};

// The stages that call tools use these.
impl Resolver<'_> {
    /// The tools of the stage at `stage`; `seed` is the built-in world's.
    pub(super) fn tools(
        &mut self,
        stage: &[String],
        list: Option<&[Option<Tool>]>,
        seed: u64,
    ) -> Vec<ToolConfig> {
        let base = join(stage, "tools");
        let mut planned: Vec<ToolConfig> = Vec::new();
        if list.is_some_and(<[_]>::is_empty) {
            self.fault(&base, "`tools` is empty", format!("name one or more: {}", TOOL_KINDS.join(", ")));
        }
        for (index, tool) in list.unwrap_or_default().iter().enumerate() {
            let element = join(&base, &index.to_string());
            let Some(tool) = tool else {
                if !self.recipe.aside.contains(&element) {
                    self.fault(&element, "a tool is empty", format!("tools: {}", TOOL_KINDS.join(", ")));
                }
                continue;
            };
            let at = join(&element, tool.kind);
            let config = self.tool(&at, tool, seed);
            let fits = |name: &String| {
                !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
            };
            if let Some(name) = config.name.as_ref().filter(|name| !fits(name)) {
                self.fault(
                    &join(&at, "name"),
                    format!("a tool cannot be named `{name}`"),
                    "use letters, digits, `-` and `_`",
                );
            }
            let same = |other: &ToolConfig| {
                other.name == config.name
                    && (config.name.is_some()
                        || std::mem::discriminant(&other.kind) == std::mem::discriminant(&config.kind))
            };
            if planned.iter().any(same) {
                self.fault(&at, "two tools have one name", "give one of them a `name` of its own");
            }
            planned.push(config);
        }
        planned
    }

    fn tool(&mut self, at: &[String], tool: &Tool, seed: u64) -> ToolConfig {
        let plain = |s: &ToolSection, kind| ToolConfig {
            name: s.name.clone(),
            description: s.description.clone(),
            kind,
        };
        match &tool.body {
            ToolBody::Calculator(s) => plain(s, ToolKind::Calculator),
            ToolBody::Units(s) => plain(s, ToolKind::Units),
            ToolBody::Clock(s) => plain(s, ToolKind::Clock),
            ToolBody::Lookup(s) => {
                let table = match &s.file {
                    None => Table::World(seed),
                    Some(file) => {
                        self.file(&join(at, "file"), file);
                        if !(file.ends_with(".json") || file.ends_with(".jsonl")) {
                            self.fault(
                                &join(at, "file"),
                                format!("{file} is neither .json nor .jsonl"),
                                "a table is one JSON object, or rows with `key` and `value`",
                            );
                        }
                        Table::File(PathBuf::from(file))
                    }
                };
                ToolConfig {
                    name: s.name.clone(),
                    description: s.description.clone(),
                    kind: ToolKind::Lookup(table),
                }
            }
            ToolBody::Command(s) => {
                for (key, given) in [("name", s.name.is_some()), ("description", s.description.is_some())] {
                    if !given {
                        self.missing(
                            at,
                            key,
                            format!("tool `command` needs `{key}`"),
                            "it is what the model is told",
                        );
                    }
                }
                let parameters = s
                    .parameters
                    .clone()
                    .unwrap_or_else(|| serde_json::json!({"type": "object", "properties": {}}));
                if parameters["type"] != "object" {
                    self.fault(
                        &join(at, "parameters"),
                        "`parameters` is not a JSON Schema of type object",
                        "for example {type: object, properties: {city: {type: string}}}",
                    );
                }
                let command = self.command(at, s.command.as_deref());
                let timeout_secs = self.seconds(at, s.timeout_secs, 10.0);
                let kind = ToolKind::Command { command, parameters, timeout_secs };
                ToolConfig { name: s.name.clone(), description: s.description.clone(), kind }
            }
        }
    }
}
