"""From a W&B sweep to figures, tables and one HTML report.

One command per figure: `python -m analysis.NAME --help`.
"""
