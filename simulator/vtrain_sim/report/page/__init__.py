"""Results as one self-contained HTML page: figures, charts and tables.

`parts` say what a page shows of each type of result, in words, tables and charts that name columns of the tables.
`document` writes that as strict JSON, `columns` in units that read well. The scripts in ``assets`` draw it, and
`frame` puts everything into one file that asks the network for nothing.
"""

from vtrain_sim.report.page.frame import page, served
from vtrain_sim.report.page.model import Report

__all__ = ["Report", "page", "served"]
