//! The report: form only. [`json`] is what it says, with a schema beside it; [`text`] is the same for a terminal, [`html`] for an auditor, [`aws`] for pipelines
//! that read the file of the AWS Fine-Tuning FLOPs Meter. [`form`] holds the fields that the authorities ask for. [`make`] makes it from evidence, [`file`]
//! puts it where it belongs, [`watch`] keeps it up to date while a job runs. [`completeness`] says for a terminal how much was metered. [`kernel`] is the table of kernels, in forms of its own, and [`top`] what the last
//! census of a live run saw.

pub mod aws;
pub mod completeness;
pub mod core;
pub mod estimate;
pub mod figure;
pub mod file;
pub mod form;
pub mod html;
pub mod json;
pub mod kernel;
pub mod make;
pub mod reconcile;
pub mod text;
pub mod top;
pub mod verdict;
pub mod watch;
