"""Configurations: what xend stored, what xl reads, one made from the other (containers.md 1.4, 2.4, 9.5)."""
