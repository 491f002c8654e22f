//! Prefetch, SIMD tag comparison and huge-page memory: the one audited module outside `dpdk` that may use `unsafe`.
