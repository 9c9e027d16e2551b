"""Bytes in and bytes out; knows no format."""
