"""``seg-kernel new-plugin``: the files of a plugin package, from templates or from MMSegmentation modules."""
