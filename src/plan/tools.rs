//! `tools:` of a stage, resolved. Keys, ranges and defaults stand in `rollout::tools`, which carries them out.

use super::resolve::Resolver;
use super::schema::{Element, kinds_of};
use crate::recipe::Section;
use crate::rollout::tools::{Table, ToolConfig, ToolKind};

// The stages that call tools use these.
impl Resolver<'_> {
    /// The tools of a stage.
    pub(super) fn tools(&mut self, stage: &Section<'_>) -> Vec<ToolConfig> {
        let mut planned: Vec<ToolConfig> = Vec::new();
        if stage.has("tools") && stage.list("tools").is_empty() {
            let hint = format!("name one or more: {}", kinds_of::<ToolConfig>().join(", "));
            self.fault(&stage.at("tools"), "`tools` is empty", hint);
        }
        for s in self.one_keys(stage, "tools") {
            let mut computed = vec![("kind".to_owned(), s.key().into())];
            if s.key() == "lookup" && !s.has("file") {
                computed.push(("world".to_owned(), self.seed.into())); // it knows the world's prices
            }
            let Some(Element(tool)) = self.read::<Element<ToolConfig>>(&s, &computed) else { continue };
            self.tool(&s, &tool);
            let same = |other: &ToolConfig| {
                other.name == tool.name
                    && (tool.name.is_some()
                        || std::mem::discriminant(&other.kind) == std::mem::discriminant(&tool.kind))
            };
            if planned.iter().any(same) {
                self.fault(&s.path, "two tools have one name", "give one of them a `name` of its own");
            }
            planned.push(tool);
        }
        planned
    }

    fn tool(&mut self, s: &Section<'_>, tool: &ToolConfig) {
        let fits = |name: &String| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
        };
        if let Some(name) = tool.name.as_ref().filter(|name| !fits(name)) {
            let what = format!("a tool cannot be named `{name}`");
            self.fault(&s.at("name"), what, "use letters, digits, `-` and `_`");
        }
        match &tool.kind {
            ToolKind::Calculator | ToolKind::Units | ToolKind::Clock | ToolKind::Lookup(Table::World(_)) => {}
            ToolKind::Lookup(Table::File(path)) => {
                let file = path.display().to_string();
                self.file(&s.at("file"), &file);
                if !(file.ends_with(".json") || file.ends_with(".jsonl")) {
                    self.fault(
                        &s.at("file"),
                        format!("{file} is neither .json nor .jsonl"),
                        "a table is one JSON object, or rows with `key` and `value`",
                    );
                }
            }
            ToolKind::Command { command, parameters, .. } => {
                for key in ["name", "description"].into_iter().filter(|key| !s.has(key)) {
                    let what = format!("tool `command` needs `{key}`");
                    self.missing(&s.path, key, what, "it is what the model is told");
                }
                if parameters["type"] != "object" {
                    self.fault(
                        &s.at("parameters"),
                        "`parameters` is not a JSON Schema of type object",
                        "for example {type: object, properties: {city: {type: string}}}",
                    );
                }
                self.command(s, command);
            }
        }
    }
}
