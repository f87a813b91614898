"""Modules written for MMSegmentation, as modules of a plugin: ``seg-kernel new-plugin --from``.

Files are read by their syntax tree and never executed; edits are made in the text, so that comments and layout stay.
"""
