"""What Xen's restore code does with odd streams, row by row (xen-restore-behaviour.md).

Each module has the rows of some sections of the specification: small edits of three good streams.
"""
