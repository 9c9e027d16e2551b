"""Whether a stream is right: rules over the events of a reader, and the comparison with its original."""
