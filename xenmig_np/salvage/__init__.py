"""Damaged images: what can be proven of them is saved, and a map tells what was lost."""
