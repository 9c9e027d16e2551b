"""Legacy images made to order: a builder, and hypothesis strategies over it (these need hypothesis)."""
