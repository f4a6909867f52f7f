//! The estimate against what PyTorch counted on the real classes, against the Commission's examples, and against its own bad input.

mod golden;
