"""The conformance kit: what every component of a kind must do, as checks that anybody can run on their own package.

    for result in check_distribution("segplug-mymodel"):
        print(result)

The same checks through the command line, ``seg-kernel plugins check segplug-mymodel --deep``, and as one test each,
``pytest --segkernel-conformance segplug-mymodel``. Importing this imports neither torch nor numpy.

A class, or a function that is an entry point, tells the kit about itself by plain attributes:

``conformance``
    Small example arguments, one mapping per example (nested components as ``{"type": ...}``), or a function of an
    empty folder that fills it and returns them. Needed only where the constructor has arguments without a default
    that the kit does not know.
``conformance_inputs``
    What the checks feed it with, where the usual does not fit; see docs/conformance.md.
``conformance_exceptions``
    Check name to reason: known failures. The kit proves them: one that passes is reported as failed.
"""

from segkernel.testing.core import Case, CheckResult, check_distribution, check_object, plan, plan_object

__all__ = ["Case", "CheckResult", "check_distribution", "check_object", "plan", "plan_object"]
