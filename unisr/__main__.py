"""`python -m unisr` is the command `unisr`."""

from unisr.cli import app

app(prog_name="unisr")
