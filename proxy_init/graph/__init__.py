"""Draws rules: turns rulesets into a Drawing, and that into the text of each format."""
