"""`SshAddress`: ssh://user@host[:port], checked so that nothing in it can pass for an option."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from autotok.errors import ConfigError
from autotok.names import known

RUNTIMES = ("torch", "onnxruntime", "trtexec")
DTYPES = ("float32", "float16")
_ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>\d{1,5}))?/?(?:\?(?P<query>.*))?"
)
_PYTHON = re.compile(r"[A-Za-z0-9_./+-]*[A-Za-z0-9_.+]")
_SHOWN = "ssh://user@host[:port], with ?python=PATH&runtime=NAME&dtype=float16 as needed"


@dataclass(frozen=True)
class SshAddress:
    """A board: where it is, and what measures there."""

    host: str
    user: str | None = None
    port: int | None = None
    python: str = "python3"
    """Interpreter on the board."""
    runtime: str | None = None
    """None is what suits the board best."""
    dtype: str = "float32"

    @classmethod
    def parse(cls, text: str) -> SshAddress:
        """The address in a text.

        Raises:
            ConfigError: it is none, or holds what no address does.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise ConfigError(f"device '{text}' is no ssh address; write {_SHOWN}")
        port = None if match["port"] is None else int(match["port"])
        if port is not None and not 0 < port < 65536:
            raise ConfigError(f"device '{text}' has port {port}; a port is 1 to 65535")
        query = dict(parse_qsl(match["query"] or "", keep_blank_values=True))
        extra = query.keys() - {"python", "runtime", "dtype"}
        if extra:
            raise ConfigError(f"device '{text}' has '{sorted(extra)[0]}'; write {_SHOWN}")
        python, runtime = query.get("python", "python3"), query.get("runtime")
        if not _PYTHON.fullmatch(python) or python.startswith("-"):
            raise ConfigError(f"device '{text}' names the Python '{python}'; give a plain path")
        if runtime is not None:
            known("runtime", runtime, RUNTIMES)
        dtype = known("dtype", query.get("dtype", "float32"), DTYPES)
        if dtype != "float32" and runtime != "trtexec":
            raise ConfigError(
                f"device '{text}' asks for {dtype}; only ?runtime=trtexec can be told to use it"
            )
        host = match["host"].strip("[]")
        return cls(host, match["user"], port, python, runtime, dtype)

    def __str__(self) -> str:
        user = "" if self.user is None else f"{self.user}@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}" + ("" if self.port is None else f":{self.port}")

    @property
    def arguments(self) -> list[str]:
        """Of the ssh command: port and destination."""
        port = [] if self.port is None else ["-p", str(self.port)]
        user = "" if self.user is None else f"{self.user}@"
        return [*port, "--", f"{user}{self.host}"]
