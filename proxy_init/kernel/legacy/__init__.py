"""The legacy tables (x_tables), through libiptc."""
