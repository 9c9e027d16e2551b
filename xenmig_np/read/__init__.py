"""From bytes to located events. Knows nothing of writing."""
