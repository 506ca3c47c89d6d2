"""Speed measurements, printed as tables: `python -m unisr.benchmarks.data`, `… .ranking`."""
