//! The tree of modules behind a table of dotted weight names, in the names' order.

use tch::Tensor;

/// A module: its weights and the modules inside it.
#[derive(Debug, Default)]
pub struct Node {
    /// Weights by their last name.
    pub parameters: Vec<(String, Tensor)>,
    /// Modules by their name.
    pub children: Vec<(String, Node)>,
}

impl Node {
    /// `model.norm.weight` becomes a weight of the module `norm` in the module `model`.
    pub fn from_names(named: Vec<(String, Tensor)>) -> Self {
        let mut root = Self::default();
        for (name, tensor) in named {
            let mut parts: Vec<&str> = name.split('.').collect();
            let last = parts.pop().unwrap_or_default();
            let mut node = &mut root;
            for part in parts {
                let at = node.children.iter().position(|(name, _)| name == part).unwrap_or_else(|| {
                    node.children.push((part.to_owned(), Node::default()));
                    node.children.len() - 1
                });
                node = &mut node.children[at].1;
            }
            node.parameters.push((last.to_owned(), tensor));
        }
        root
    }

    /// Whether the module has a weight of this name.
    pub fn has(&self, parameter: &str) -> bool {
        self.parameters.iter().any(|(name, _)| name == parameter)
    }
}
