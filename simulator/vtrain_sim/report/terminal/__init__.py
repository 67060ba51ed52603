"""Results for the terminal: tables and sentences."""

from vtrain_sim.report.terminal.printing import TerminalRenderer, printers

__all__ = ["TerminalRenderer", "printers"]
