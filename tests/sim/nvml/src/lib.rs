//! The stand-in GPU: its nvml library.
