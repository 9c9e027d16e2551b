"""Commands that take the place of Xen's own tools: same options, channels and exit codes, our code behind."""
