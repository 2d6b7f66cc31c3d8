//! (client, request, verified subject) → grant or denial, with the trace of rules.
