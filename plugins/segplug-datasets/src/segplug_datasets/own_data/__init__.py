"""``seg-kernel init``: from a folder of labelled images to a config that trains on them.

Steps, each in a module: find the files (`layout`, `annotation_files`, `published`), read class names (`class_lists`),
let the doctor correct how masks are read (`diagnosis`), split (`splits`), choose sizes and lengths (`recipe`),
adapt a packaged model to the data (`zoo_model`), write the file (`config_file`).
"""

from __future__ import annotations
