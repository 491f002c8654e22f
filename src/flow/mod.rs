//! Flow keys, the bucket table, the session slab, expiry.
