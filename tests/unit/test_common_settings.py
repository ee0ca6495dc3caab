import shutil
import subprocess
from typing import ClassVar

import pytest
from pydantic import Field

from roles.common.facts import HostBaseState
from roles.common.host_settings import CommonSettings
from roles.common.settings import Port, RoleSettings, SettingsError, unknown_keys


class Sample(RoleSettings):
    prefix: ClassVar[str] = "sample"
    port: Port = Field(default=9094, description="A port.")
    name: str = Field(description="A name.")


def test_only_keys_with_the_prefix_are_taken() -> None:
    settings = Sample.load({"sample_name": "a", "other_port": 1, "ssh_user": "deploy"})
    assert (settings.name, settings.port) == ("a", 9094)


def test_a_misspelt_key_is_refused_with_a_suggestion() -> None:
    with pytest.raises(
        SettingsError,
        match=r"kafka1: unknown setting 'sample_prot': did you mean "
        r"'sample_port'\?",
    ):
        Sample.load({"sample_name": "a", "sample_prot": 1}, "kafka1")


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        Sample.load({"sample_port": 70000, "sample_nmae": "a"}, "h")
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert "h: sample_name: is required and has no default" in lines


@pytest.mark.parametrize("value", ["9094", 9094.5, True, None])
def test_values_are_not_converted_silently(value: object) -> None:
    with pytest.raises(SettingsError, match="sample_port"):
        Sample.load({"sample_name": "a", "sample_port": value})


def test_a_misspelt_prefix_is_found_and_own_keys_pass() -> None:
    data = {"smaple_port": 1, "x_rack": "r1", "_sudo": True, "ssh_user": "d", "sample_port": 1}
    problems = unknown_keys(data, [Sample], ["ssh_user"], "h")
    assert problems == ["h: unknown setting 'smaple_port': did you mean 'sample_port'?"]


def test_a_refused_value_is_not_echoed() -> None:
    canary = "CANARY-pasted-into-the-wrong-key"
    with pytest.raises(SettingsError) as error:
        Sample.load({"sample_name": "a", "sample_port": canary})
    assert canary not in str(error.value)


@pytest.mark.parametrize("hostname", ["", "-a", "a_b", "A", "a..b", "a" * 64, "a b"])
def test_bad_host_names_are_refused(hostname: str) -> None:
    with pytest.raises(SettingsError, match="common_hostname"):
        CommonSettings.load({"common_cluster": "lab", "common_hostname": hostname})


@pytest.mark.parametrize("path", ["srv/x", "/srv/../etc", "/srv/a b", "/srv/$(id)", "/srv/", "/"])
def test_bad_remote_paths_are_refused(path: str) -> None:
    with pytest.raises(SettingsError, match="common_base_dir"):
        CommonSettings.load(
            {"common_cluster": "lab", "common_hostname": "a", "common_base_dir": path}
        )


def common(**settings: object) -> CommonSettings:
    data = {"common_cluster": "lab", "common_hostname": "a"}
    return CommonSettings.load(data | {f"common_{key}": value for key, value in settings.items()})


@pytest.mark.parametrize(
    "package",
    ["", "a b", "a;reboot", "$(id)", "`id`", "a&", "a>b", "-y", "--purge", "openssl-", "Openssl",
     "a*", "a\n", "a=", "a=1 2", "a=$(id)", "a:", "a/stable", "ä", "a'b"],
)  # fmt: skip
def test_package_names_that_a_shell_or_apt_would_trip_over_are_refused(package: str) -> None:
    with pytest.raises(SettingsError, match=r"common_packages: .* is not a Debian package"):
        common(packages=["openssl", package])


@pytest.mark.parametrize(
    "package", ["g++", "libc6", "libstdc++6:amd64", "openssl=3.0.17-1~deb12u2", "a=1:2.0+b1"]
)
def test_package_names_of_debian_are_accepted(package: str) -> None:
    assert common(packages=[package]).packages == (package,)


def test_what_fetches_archives_is_installed() -> None:
    assert "curl" in common().packages


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="no dpkg")
def test_missing_packages_and_versions_are_told() -> None:
    """The fact's own command, on this machine."""
    shown = ["dpkg-query", "-W", "-f", "${Version}", "dpkg"]
    version = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    packages = ["dpkg", "absent-package", f"dpkg={version}", f"dpkg={version}x", "dpkg=0", "b=1"]
    fact = HostBaseState()
    command = fact.command(packages, ["root"], ["/"]).get_raw_value()
    said = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    seen = fact.process(said.splitlines())
    assert seen is not None
    assert seen.missing_packages == ("absent-package", f"dpkg={version}x", "dpkg=0", "b=1")
    assert seen.accounts == {"root"}
    assert list(seen.paths) == ["/"]
