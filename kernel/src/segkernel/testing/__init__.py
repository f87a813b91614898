"""The conformance kit: checks of what every component of a kind must do, for anyone's package.

    for result in check_distribution("segplug-mymodel"):
        print(result)

The same checks run on the command line, ``seg-kernel plugins check segplug-mymodel --deep``, and as one test each,
``pytest --segkernel-conformance segplug-mymodel``. Importing this imports neither torch nor numpy.

A class, or a function that is an entry point, configures the kit by plain attributes:

``conformance``
    Small example arguments, one mapping per example (nested components as ``{"type": ...}``), or a function of an
    empty folder that fills it and returns them. Needed only if the constructor has arguments without a default that
    the kit does not know.
``conformance_inputs``
    Inputs for the checks, where the usual ones do not fit; see docs/conformance.md.
``conformance_exceptions``
    Check name to reason: known failures. The kit verifies them: one that passes is reported as failed.
"""

from segkernel.testing.core import Case, CheckResult, check_distribution, check_object, plan, plan_object

__all__ = ["Case", "CheckResult", "check_distribution", "check_object", "plan", "plan_object"]
