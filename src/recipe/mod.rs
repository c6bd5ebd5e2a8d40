//! (recipe)
