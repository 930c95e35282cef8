"""`python -m autotok.cli`."""

from . import main

main()
