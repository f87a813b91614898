"""The mask doctor: finds problems in images and masks, and the config lines that fix them.

inspected = inspect(parts_of_folders("images", "masks", ["wall", "door"], {}))
print(check(inspected).text())
"""

from __future__ import annotations

from segplug_datasets.doctor.findings import Finding
from segplug_datasets.doctor.inspect import inspect
from segplug_datasets.doctor.parts import Part, parts_of_config, parts_of_folders, parts_of_type
from segplug_datasets.doctor.report import Report, check

__all__ = ["Finding", "Part", "Report", "check", "inspect", "parts_of_config", "parts_of_folders", "parts_of_type"]
