"""From the events of a legacy image to the segments of a v2 or v3 stream (v2-stream.md 19)."""
