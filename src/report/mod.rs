//! The report: form only. [`json`] is what it says, with a schema beside it; [`text`] is the same for a terminal.

pub mod estimate;
pub mod json;
pub mod text;
