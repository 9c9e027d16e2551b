"""Reports: what manifests say of an archive, as one page that needs nothing but itself."""

from __future__ import annotations

from xenmig_np.report.model import Report
from xenmig_np.report.reading import read_report
from xenmig_np.report.write import write_report

__all__ = ["Report", "read_report", "write_report"]
