"""The benchmark's parts: processes, pairs of runs, the table of cases, what is told of them."""
