//! Where each key of a recipe stands: an index from path to line and column.
//!
//! Built from saphyr's marked tree; values come from serde_yaml, which keeps no positions.
//! Merge keys (`<<`) index their anchor's keys under the map that takes them in.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use saphyr::{LoadableYamlNode, MarkedYaml, Marker, ScanError, YamlData};

use crate::error::Place;

/// A path into a recipe: keys, and list positions as numbers from 0.
pub type Steps = Vec<String>;

#[derive(Debug, Clone, Copy)]
struct Spot {
    key: Option<(usize, usize)>,
    value: (usize, usize),
    scalar: bool,
}

/// The index of one recipe.
#[derive(Debug, Clone, Default)]
pub struct Places {
    file: PathBuf,
    spots: HashMap<Steps, Spot>,
    sets: Vec<(Steps, String)>,
}

fn position(marker: Marker) -> (usize, usize) {
    (marker.line().max(1), marker.col() + 1)
}

fn key_text(key: &MarkedYaml<'_>) -> String {
    match &key.data {
        YamlData::Value(saphyr::Scalar::String(text)) => text.to_string(),
        YamlData::Value(saphyr::Scalar::Integer(number)) => number.to_string(),
        YamlData::Value(saphyr::Scalar::Boolean(flag)) => flag.to_string(),
        YamlData::Value(saphyr::Scalar::Null) => "null".to_owned(),
        YamlData::Value(saphyr::Scalar::FloatingPoint(number)) => number.to_string(),
        _ => "?".to_owned(),
    }
}

impl Places {
    /// Indexes the first document of `text`.
    ///
    /// # Errors
    /// Where saphyr refuses what serde_yaml took (a duplicate key, mostly).
    pub fn index(file: &Path, text: &str) -> Result<Self, ScanError> {
        let mut places = Self { file: file.to_owned(), ..Self::default() };
        if let Some(root) = MarkedYaml::load_from_str(text)?.first() {
            places.walk(&mut Vec::new(), None, root);
        }
        Ok(places)
    }

    fn walk(&mut self, path: &mut Steps, key: Option<(usize, usize)>, node: &MarkedYaml<'_>) {
        let scalar =
            !matches!(node.data, YamlData::Mapping(_) | YamlData::Sequence(_) | YamlData::Tagged(..));
        let spot = Spot { key, value: position(node.span.start), scalar };
        self.spots.entry(path.clone()).or_insert(spot);
        self.children(path, node);
    }

    fn children(&mut self, path: &mut Steps, node: &MarkedYaml<'_>) {
        match &node.data {
            YamlData::Tagged(_, inner) => self.children(path, inner),
            YamlData::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.push(index.to_string());
                    self.walk(path, None, item);
                    path.pop();
                }
            }
            YamlData::Mapping(map) => {
                let own = map.iter().filter(|(key, _)| key_text(key) != "<<");
                for (key, value) in own {
                    path.push(key_text(key));
                    self.walk(path, Some(position(key.span.start)), value);
                    path.pop();
                }
                for (key, value) in map.iter().filter(|(key, _)| key_text(key) == "<<") {
                    path.push("<<".to_owned());
                    let start = position(key.span.start);
                    self.spots.entry(path.clone()).or_insert(Spot {
                        key: Some(start),
                        value: start,
                        scalar: false,
                    });
                    path.pop();
                    match &value.data {
                        YamlData::Sequence(items) => items.iter().for_each(|item| self.children(path, item)),
                        _ => self.children(path, value),
                    }
                }
            }
            _ => {}
        }
    }

    /// Notes that everything at and under `path` comes from a flag.
    pub fn set(&mut self, path: Steps, flag: String) {
        self.sets.push((path, flag));
    }

    /// Notes that what is written at `path` is read at its key `name`.
    pub fn lower(&mut self, path: &[String], name: &str) {
        let below = |(at, spot): (&Steps, &Spot)| {
            let rest = at.strip_prefix(path)?;
            Some((path.iter().cloned().chain([name.to_owned()]).chain(rest.iter().cloned()).collect(), *spot))
        };
        let lowered: Vec<(Steps, Spot)> = self.spots.iter().filter_map(below).collect();
        self.spots.extend(lowered);
    }

    fn flag(&self, path: &[String]) -> Option<Place> {
        self.sets.iter().rev().find(|(at, _)| path.starts_with(at)).map(|(_, flag)| Place::file(flag))
    }

    fn find(&self, path: &[String], pick: impl Fn(&Spot) -> (usize, usize)) -> Place {
        if let Some(place) = self.flag(path) {
            return place;
        }
        for length in (0..=path.len()).rev() {
            if let Some(spot) = self.spots.get(&path[..length]) {
                let (line, column) =
                    if length == path.len() { pick(spot) } else { spot.key.unwrap_or(spot.value) };
                return Place::line_column(&self.file, line, column);
            }
        }
        Place::file(&self.file)
    }

    /// The value at `path` (of a map or list: its key); the nearest parent where it is not written.
    pub fn value(&self, path: &[String]) -> Place {
        self.find(path, |spot| if spot.scalar { spot.value } else { spot.key.unwrap_or(spot.value) })
    }

    /// The key at `path`; the nearest parent where it is not written.
    pub fn key(&self, path: &[String]) -> Place {
        self.find(path, |spot| spot.key.unwrap_or(spot.value))
    }

    /// The path of the first merge key.
    pub fn merge(&self) -> Option<Steps> {
        self.spots
            .iter()
            .filter(|(path, _)| path.last().is_some_and(|k| k == "<<"))
            .min_by_key(|(_, s)| s.value)
            .map(|(p, _)| p.clone())
    }
}
