"""The plain twin: the conversion written a second time, from the specification and nothing else.

`struct`, one page at a time, whole images in memory, nothing of `xenmig_np`. Slow and easy to check by
reading, it says which bytes the vectorised converter has to give.
"""
