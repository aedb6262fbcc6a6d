//! The deterministic simulator, checkers, crash tests on real processes.
