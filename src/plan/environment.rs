//! Environment variables. Only `plan` reads them (`tests/architecture.rs` holds this): here by name, in `machine` those
//! that describe the machine and the hubs.

/// A variable's text; `None` where it is not set or is not UTF-8.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A key that the recipe names by its variable, so that it stands in no file; an empty one is none.
pub fn secret(name: &str) -> Option<String> {
    variable(name).filter(|key| !key.is_empty())
}

/// Whether the user asks for output without colours (<https://no-color.org>).
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
