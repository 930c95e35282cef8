"""Addresses of boards, and what ssh is told."""

import pytest

from autotok.devices.ssh_address import SshAddress
from autotok.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "shown", "arguments"),
    [
        ("ssh://me@nano", "ssh://me@nano", ["--", "me@nano"]),
        ("ssh://10.0.0.7:2222", "ssh://10.0.0.7:2222", ["-p", "2222", "--", "10.0.0.7"]),
        ("ssh://me@[fe80::1]:22/", "ssh://me@[fe80::1]:22", ["-p", "22", "--", "me@fe80::1"]),
    ],
)
def test_an_address_becomes_arguments_after_a_double_dash(
    text: str, shown: str, arguments: list[str]
) -> None:
    address = SshAddress.parse(text)
    assert str(address) == shown
    assert address.arguments == arguments


@pytest.mark.parametrize(
    "text",
    [
        "nano",
        "ssh://",
        "ssh://-oProxyCommand=touch@host",
        "ssh://-oProxyCommand=touch",
        "ssh://me@host;touch",
        "ssh://me@ho st",
        "ssh://me@host:99999",
        "ssh://me@host?python=python3;reboot",
        "ssh://me@host?python=$(reboot)",
        "ssh://me@host?python=-c",
        "ssh://me@host?shell=sh",
        "ssh://me@host?dtype=float16",
        "ssh://me@host\n",
    ],
)
def test_an_address_that_could_be_an_option_or_a_command_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="device '"):
        SshAddress.parse(text)
