"""All rules; importing this fills the table of :mod:`xenmig_np.verification.rule`."""

from xenmig_np.verification.rules import (  # noqa: F401 - each module enters its rules
    contexts,
    framing,
    headers,
    hvm,
    hvmcontext,
    libxl,
    misc,
    order,
    pages,
    pv,
    tables,
    trailing,
    vcpus,
    xl,
)
