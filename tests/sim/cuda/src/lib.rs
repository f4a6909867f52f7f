//! The stand-in GPU: its cuda library.
