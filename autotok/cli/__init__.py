"""The command line: argument parsing only, every command is one call into the package.

Exit codes: 0 ok, 1 failed, 2 usage, 3 nothing feasible, 4 device unreachable, 130 interrupted and
resumable. Nothing heavy is imported until a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit."""
    import autotok

    from . import (  # noqa: F401
        adapters,
        calibrate,
        catalog,
        dashboard,
        doctor,
        finetune,
        init,
        models,
        run_reports,
        runs,
        study,
        supernet,
        tokens,
    )
    from .app import app

    autotok.wait_asleep()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may know fewer characters than names
            stream.reconfigure(errors="backslashreplace")
    try:
        with autotok.Interrupts():
            app()
    except autotok.AutotokError as error:
        sys.stderr.write(f"autotok: {error}\n")
        sys.exit(error.exit_code)
    except SystemExit as ended:  # typer makes one of a KeyboardInterrupt, and says nothing
        cause = getattr(ended.__context__, "__cause__", None)
        if isinstance(cause, KeyboardInterrupt):
            sys.stderr.write(f"autotok: {str(cause) or 'interrupted'}\n")
        raise
    except KeyboardInterrupt:
        sys.stderr.write("autotok: interrupted\n")
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has gone, and needs no more of it
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")
        sys.exit(1)
    except Exception as error:
        from .failure import explain

        sys.stderr.write(f"autotok: {explain(error)}\n")
        sys.exit(1)
