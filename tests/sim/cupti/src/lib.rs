//! The stand-in GPU: its cupti library.
