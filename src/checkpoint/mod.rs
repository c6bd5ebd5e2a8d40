//! (checkpoint)
