"""What the bytes mean: dtypes, enumerations and tables, one module per format. No I/O, no logic."""
