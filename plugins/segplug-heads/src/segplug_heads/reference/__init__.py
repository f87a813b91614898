"""The reference: what the installed packages offer, read from signatures and docstrings.

``seg-kernel explain NAME`` prints an entry, and the documentation site is written from the same entries.
"""
