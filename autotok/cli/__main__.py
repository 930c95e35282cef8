"""`python -m autotok.cli`."""

from autotok.cli import main

main()
