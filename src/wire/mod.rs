//! Header layouts in place, parsing, incremental checksums.
