"""All rules; importing this fills the table of :mod:`xenmig_np.verification.rule`."""

from xenmig_np.verification.rules import framing, headers  # noqa: F401 - each module enters its rules
