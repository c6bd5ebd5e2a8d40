//! What a run leaves for people: rows of metrics, progress on the screen, and a page to look at.
//!
//! Writing: [`metrics`] (rows as JSON lines and, through [`tfevents`], for TensorBoard) and [`console`].
//! Reading: [`folder`] gathers a run's files, [`table`] and [`html`] (with [`svg`]) show them. Pages of other things: [`document`] and [`bars`].
//! Nothing here knows a plan or a stage: names and numbers come in, files go out.

pub mod bars;
mod completions;
pub mod console;
pub mod document;
pub mod folder;
pub mod format;
pub mod html;
mod left;
pub mod metrics;
mod section;
pub mod svg;
pub mod table;
pub mod tfevents;

pub use console::{Console, ConsoleMode};
pub use html::write_report;
pub use metrics::MetricsFile;
pub use table::{console_table, markdown_table};
