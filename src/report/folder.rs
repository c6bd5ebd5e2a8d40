//! A run's folder as the report reads it: the plan, the recipe, and each stage's rows and summary.
//!
//! Read as free-form JSON: a report can be made of a run of another version, of a run that is still
//! going, and of one that was killed. What is missing is left out. Next: `table` and `html`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Place, Result};

/// A run.
#[derive(Debug, Clone)]
pub struct Run {
    /// The run folder: `output` of its recipe.
    pub folder: PathBuf,
    /// The recipe's name.
    pub name: String,
    /// `plan.json`.
    pub plan: Value,
    /// `recipe.yaml`, empty where there is none.
    pub recipe: String,
    /// Stages in the plan's order.
    pub stages: Vec<Stage>,
}

/// A stage of a run.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Its name, which is its folder's.
    pub name: String,
    /// Its kind (`pretrain`, `sft`, ...).
    pub kind: String,
    /// `summary.json`, `Null` until the stage has written one.
    pub summary: Value,
    /// Whole rows of `metrics.jsonl`.
    pub rows: Vec<Value>,
}

impl Run {
    /// Reads a run's folder.
    ///
    /// # Errors
    /// The folder is not a run's (input), or its files cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("plan.json");
        if !path.is_file() {
            let what = if folder.exists() { "this is not a run's folder" } else { "there is no such folder" };
            return Err(Error::input(what)
                .at(Place::file(folder))
                .because("it has no plan.json, which `minimind run` writes first")
                .hint(
                    "name the recipe's `output` folder, for example `minimind report checkpoints/example`",
                ));
        }
        let plan = json(&path)?;
        let stages = plan.get("stages").and_then(Value::as_array).into_iter().flatten();
        let stages = stages.map(|stage| Stage::read(folder, stage)).collect::<Result<_>>()?;
        let name = plan.get("name").and_then(Value::as_str).unwrap_or("run").to_owned();
        let recipe = std::fs::read_to_string(folder.join("recipe.yaml")).unwrap_or_default();
        Ok(Self { folder: folder.to_owned(), name, plan, recipe, stages })
    }
}

impl Stage {
    fn read(folder: &Path, plan: &Value) -> Result<Self> {
        let text = |key: &str| plan.get(key).and_then(Value::as_str).map(str::to_owned);
        let tagged = plan.get("config").and_then(Value::as_object).and_then(|c| c.keys().next().cloned());
        let name = text("name").unwrap_or_else(|| "stage".to_owned());
        let own = folder.join(&name);
        let summary = own.join("summary.json");
        let summary = if summary.is_file() { json(&summary)? } else { Value::Null };
        let said = summary.get("kind").and_then(Value::as_str).map(str::to_owned);
        let kind = said.or(text("kind")).or(tagged).unwrap_or_else(|| name.clone());
        let rows = std::fs::read(own.join("metrics.jsonl")).unwrap_or_default();
        // A row being written just now, or torn by a kill, is no row yet.
        let rows = rows.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        Ok(Self { name, kind, summary, rows })
    }

    /// What the stage says of its state, or what its files show.
    pub fn status(&self) -> &str {
        match self.summary.get("status").and_then(Value::as_str) {
            Some(status) => status,
            None if !self.summary.is_null() => "done",
            None if !self.rows.is_empty() => "unfinished",
            None => "not run",
        }
    }

    /// A number of the summary.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.summary.get(key).and_then(Value::as_f64).or_else(|| {
            // An unfinished stage has rows that tell the same.
            let row_key = match key {
                "seconds" => "elapsed_s",
                "tokens" => "tokens",
                _ => return None,
            };
            self.rows.iter().rev().find_map(|row| row.get(row_key)?.as_f64())
        })
    }

    /// The results by name; of an unfinished stage its last loss.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        if let Some(metrics) = self.summary.get("metrics").and_then(Value::as_object) {
            return metrics
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)))
                .collect();
        }
        let loss = self.rows.iter().rev().find_map(|row| row.get("loss")?.as_f64());
        loss.map(|loss| ("loss".to_owned(), loss)).into_iter().collect()
    }

    /// The points of one column: step and value, `NaN` where the value was not finite.
    pub fn series(&self, name: &str) -> Vec<(f64, f64)> {
        let point =
            |row: &Value| Some((row.get("step")?.as_f64()?, row.get(name)?.as_f64().unwrap_or(f64::NAN)));
        self.rows.iter().filter_map(point).collect()
    }

    /// Names of the rows' columns in order of appearance.
    pub fn columns(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for row in self.rows.iter().filter_map(Value::as_object) {
            for name in row.keys() {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        names
    }
}

fn json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read the run", path, e))?;
    serde_json::from_str(&text).map_err(|e| {
        Error::failed("this file is not JSON")
            .at(Place::line_column(path, e.line(), e.column()))
            .because(&e)
            .hint("run the recipe again; it writes the file anew")
    })
}
