//! A policy as an operator writes it, with line numbers for complaints.
