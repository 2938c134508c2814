"""Drawing rules: from rule sets to a drawing, and from that to the text of each format."""
