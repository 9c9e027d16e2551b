"""The command line: sees everything, is seen by nobody. Starts without numpy."""
