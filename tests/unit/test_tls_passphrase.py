from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from roles.tls import passphrase
from roles.tls.passphrase import Passphrase, PassphraseError, PassphraseSource, read, take

from .tls_support import canary


def write(path: Path, data: bytes, mode: int = 0o600) -> PassphraseSource:
    path.write_bytes(data)
    path.chmod(mode)
    return PassphraseSource(file=str(path))


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_file(tmp_path: Path, ending: bytes) -> None:
    secret = canary()
    assert read(write(tmp_path / "p", secret.encode() + ending)).reveal() == secret


def test_blanks_belong_to_it(tmp_path: Path) -> None:
    assert read(write(tmp_path / "p", b" a passphrase \n")).reveal() == " a passphrase "


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620])
def test_file_of_others_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "the file"
    secret = canary()
    with pytest.raises(PassphraseError) as error:
        read(write(path, secret.encode(), mode))
    assert f"chmod 600 '{path}'" in str(error.value)
    assert secret not in str(error.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"{canary}\nsecond\n", "more than one line"),
        (b"{canary}\0", "control characters"),
        (b"{canary}\xff", "not UTF-8"),
        (b"{canary}" + b"x" * 5000, "longer than"),
    ],
)
def test_unusable_content(tmp_path: Path, data: bytes, reason: str) -> None:
    secret = canary()
    with pytest.raises(PassphraseError, match=reason) as error:
        read(write(tmp_path / "p", data.replace(b"{canary}", secret.encode())))
    assert secret not in str(error.value)
    assert error.value.__cause__ is None


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PassphraseError, match="No such file"):
        read(PassphraseSource(file=str(tmp_path / "absent")))


def test_command_runs_without_a_shell() -> None:
    source = PassphraseSource(command=("printf", "%s\n", "a b;$HOME"))
    assert read(source).reveal() == "a b;$HOME"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("sh", "-c", "echo {canary}; exit 3"), "command 'sh' failed with exit code 3"),
        (("/absent/program", "{canary}"), "command '/absent/program': No such file"),
        (("true", "{canary}"), "command 'true' is empty"),
        (("printf", "{canary}\n\n{canary}"), "more than one line"),
        (("true", "\0{canary}"), "cannot be run"),
    ],
)
def test_failing_command_shows_neither_arguments_nor_output(
    command: tuple[str, ...], reason: str
) -> None:
    secret = canary()
    source = PassphraseSource(command=tuple(word.replace("{canary}", secret) for word in command))
    with pytest.raises(PassphraseError, match=reason) as error:
        read(source)
    assert secret not in str(error.value)
    assert secret not in repr(source)
    assert error.value.__cause__ is None


def test_variable_is_gone_once_read_and_still_known() -> None:
    secret = canary()
    name = f"TEST_{secret[-8:].upper()}"
    environment = {name: secret}
    source = PassphraseSource(variable=name)
    assert read(source, environment).reveal() == secret
    assert environment == {}
    assert read(source, environment).reveal() == secret


def test_what_was_taken_before_is_read_later() -> None:
    secret = canary()
    name = f"TEST_{secret[-8:].upper()}"
    environment = {name: secret}
    take(name, environment)
    assert environment == {}
    take(name, environment)
    assert read(PassphraseSource(variable=name), environment).reveal() == secret


def test_missing_variable_names_the_choices() -> None:
    with pytest.raises(PassphraseError, match="set NOT_SET, or tls_passphrase_file or"):
        read(PassphraseSource(variable="NOT_SET"), {})


def test_variable_is_not_inherited_nor_shown_by_the_kernel() -> None:
    secret = canary()
    program = (
        "import subprocess, sys\n"
        "from pathlib import Path\n"
        "from roles.tls.passphrase import read, PassphraseSource\n"
        "before = Path('/proc/self/environ').read_bytes()\n"
        "value = read(PassphraseSource(variable='CA_WORD')).reveal()\n"
        "after = Path('/proc/self/environ').read_bytes()\n"
        "child = subprocess.run(['env'], stdout=subprocess.PIPE).stdout\n"
        "print(value.encode() in before, value.encode() in after, value.encode() in child,\n"
        "      b'OTHER=kept' in after)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={"CA_WORD": secret, "OTHER": "kept", "PATH": os.environ["PATH"]},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert result.stdout.split() == [b"True", b"False", b"False", b"True"]


@pytest.mark.parametrize("value", ["", "eleven char"])
def test_too_short_for_new_keys(value: str) -> None:
    with pytest.raises(PassphraseError, match="shorter than 12") as error:
        passphrase.require_strong(Passphrase(value))
    assert not value or value not in str(error.value)


def test_long_enough() -> None:
    passphrase.require_strong(Passphrase("twelve chars"))


def test_text_of_a_passphrase_is_masked() -> None:
    secret = canary()
    item = Passphrase(secret)
    assert secret not in f"{item} {item!r} {[item]} {item!s:>40}"
