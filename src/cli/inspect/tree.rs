//! Tensors as a tree: nested for programs, indented for people, with layers that look alike told once.

use serde_json::{Map, Value as Json, json};

/// A tensor to show: name, type, shape.
pub type Row = (String, String, Vec<i64>);

#[derive(Debug, Default)]
struct Node {
    tensor: Option<(String, Vec<i64>)>,
    children: Vec<(String, Node)>,
}

fn grow(rows: &[Row]) -> Node {
    let mut root = Node::default();
    for (name, dtype, shape) in rows {
        let mut node = &mut root;
        for part in name.split('.') {
            let at = node.children.iter().position(|(name, _)| name == part).unwrap_or_else(|| {
                node.children.push((part.to_owned(), Node::default()));
                node.children.len() - 1
            });
            node = &mut node.children[at].1;
        }
        node.tensor = Some((dtype.clone(), shape.clone()));
    }
    root
}

/// `{"model": {"norm": {"weight": {"dtype": "f16", "shape": [512]}}}}`.
pub fn nested(rows: &[Row]) -> Json {
    fn json_of(node: &Node) -> Json {
        match &node.tensor {
            // A name that is a tensor and a module at once keeps the tensor.
            Some((dtype, shape)) => json!({"dtype": dtype, "shape": shape}),
            None => {
                let parts = node.children.iter().map(|(name, child)| (name.clone(), json_of(child)));
                Json::Object(parts.collect::<Map<_, _>>())
            }
        }
    }
    json_of(&grow(rows))
}

/// Lines for people. Neighbours `0`, `1`, ... with the same inside are one entry, `0..7`.
pub fn lines(rows: &[Row]) -> Vec<String> {
    let mut out = Vec::new();
    write(&grow(rows), 1, &mut out);
    out
}

fn write(node: &Node, depth: usize, out: &mut Vec<String>) {
    let mut at = 0;
    while at < node.children.len() {
        let (name, child) = &node.children[at];
        let number = |name: &str| name.parse::<usize>().ok();
        let mut end = at + 1;
        while end < node.children.len()
            && number(name).is_some_and(|n| number(&node.children[end].0) == Some(n + end - at))
            && alike(child, &node.children[end].1)
        {
            end += 1;
        }
        let (shown, child) = joined(name, child);
        let shown = match end - at {
            1 => shown,
            n => format!("{shown}..{} ({n} alike)", node.children[end - 1].0),
        };
        let label = format!("{}{shown}", "  ".repeat(depth));
        match &child.tensor {
            Some((dtype, shape)) => out.push(format!("{label:<44} {dtype:<5} {shape:?}")),
            None => out.push(label),
        }
        write(child, depth + 1, out);
        at = end;
    }
}

/// A module with one part is told in one line: `q_proj.weight`. Numbers stay on a line of their own.
fn joined<'a>(name: &str, node: &'a Node) -> (String, &'a Node) {
    let (mut name, mut node) = (name.to_owned(), node);
    let numbered = |name: &str| name.parse::<usize>().is_ok();
    while let ([(part, child)], None, false) = (&node.children[..], &node.tensor, numbered(&name)) {
        if numbered(part) {
            break;
        }
        name = format!("{name}.{part}");
        node = child;
    }
    (name, node)
}

fn alike(a: &Node, b: &Node) -> bool {
    a.tensor == b.tensor
        && a.children.len() == b.children.len()
        && a.children.iter().zip(&b.children).all(|((n, a), (m, b))| n == m && alike(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_look_alike_are_told_once() {
        let mut rows: Vec<Row> = Vec::new();
        for layer in 0..4 {
            let width = if layer == 3 { 9 } else { 8 };
            rows.push((format!("model.layers.{layer}.q_proj.weight"), "f16".into(), vec![width, 4]));
            rows.push((format!("model.layers.{layer}.norm.weight"), "f16".into(), vec![4]));
        }
        rows.push(("head".into(), "f32".into(), vec![2]));
        let text = lines(&rows).join("\n");
        assert_eq!(text.matches("q_proj.weight").count(), 2, "{text}");
        assert!(text.contains("0..2 (3 alike)") && text.contains("[9, 4]"), "{text}");
        let tree = nested(&rows);
        assert_eq!(tree["model"]["layers"]["3"]["q_proj"]["weight"]["shape"], json!([9, 4]));
        assert_eq!(tree["head"]["dtype"], "f32");
    }
}
