//! Apply, reload, the API server and state queries.
