"""`python -m autotok`."""

from autotok.cli import main

main()
