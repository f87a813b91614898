"""The names of a new package, from the name of its distribution."""

from __future__ import annotations

import keyword
import re
import sys
from dataclasses import dataclass

from segkernel.catalog import normalise
from segkernel.errors import UsageError

PREFIX = "segplug-"


@dataclass(frozen=True)
class Names:
    """The names of the package ``segplug-my-model``.

    Args:
        distribution: ``segplug-my-model``, as package indexes compare it.
        package: ``segplug_my_model``, which Python imports.
        stem: ``my-model``, the name of its command.
        camel: ``MyModel``, the start of its class names.
    """

    distribution: str
    package: str
    stem: str
    camel: str

    @classmethod
    def parse(cls, text: str) -> Names:
        """Return the names of a distribution.

        Raises:
            UsageError: The name is not valid for a package index (PEP 508), or Python could not import it.
        """
        if not re.fullmatch(r"[A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9]", text, re.IGNORECASE | re.ASCII):
            hint = "letters, digits, '-', '_' and '.', with a letter or a digit at both ends"
            raise UsageError(f"{text!r} is not a valid package name (PEP 508): use {hint}, such as segplug-my-model")
        distribution = normalise(text)
        stem = distribution.removeprefix(PREFIX)
        written = re.sub(r"^segplug[-_.]+", "", text, flags=re.IGNORECASE)
        camel = "".join(part[:1].upper() + part[1:] for part in re.split(r"[-_.]+", written))
        package = distribution.replace("-", "_")
        usable = package.isidentifier() and camel.isidentifier() and not keyword.iskeyword(package)
        if not usable or package in sys.stdlib_module_names:
            what = f"{text!r} would be imported as {package!r}, with class names such as {camel + 'Head'!r}"
            raise UsageError(f"{what}; they must begin with a letter, and not be a name of Python: use another name")
        return cls(distribution, package, stem, camel)

    def fill(self, text: str) -> str:
        """Return the text of a template with the names of this package."""
        for old, new in (
            ("segplug-my-model", self.distribution),
            ("segplug_my_model", self.package),
            ("my-model", self.stem),
            ("my_model", self.stem.replace("-", "_")),
            ("mymodel", self.stem.replace("-", "")),
            ("MyModel", self.camel),
        ):
            text = text.replace(old, new)
        return text
