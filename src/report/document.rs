//! What every page of ours is around its content: the head, the style, the footer.
//!
//! Next: `html` and `bars`.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::format::printable;

/// A whole page: no request goes out, no script runs, light and dark follow the reader's system.
pub fn document(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE) "\n"
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { (printable(title)) }
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body {
                main {
                    (body)
                    footer { "Written by minimind " (env!("CARGO_PKG_VERSION")) "." }
                }
            }
        }
        "\n"
    }
}

/// The figures on top of a page: names with values.
pub fn figures(figures: &[(&str, String)]) -> Markup {
    html! {
        dl.figures {
            @for (name, value) in figures {
                div { dt { (name) } dd { (printable(value)) } }
            }
        }
    }
}
