"""The tables of nf_tables."""
