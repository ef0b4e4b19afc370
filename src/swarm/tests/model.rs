//! Random inputs against a naive model. The laboratory checks its invariants after every one of them.
