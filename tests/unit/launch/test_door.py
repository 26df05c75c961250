"""What guards the router's door is looked at before anything is fetched or started."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tercet.cli.main import build_app
from tercet.core.errors import UsageError
from tercet.core.topology import RouterSpec
from tercet.launch import local
from tercet.launch.door import check_door


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--api-key-file", "absent"), "cannot read --api-key-file .*absent"),
        (("--api-key-file", "empty"), "holds no key: `tercet keys new"),
        (("--tls-cert", "absent"), "cannot use certificate and key in .*absent"),
        (("--tls-cert", "empty"), "cannot use certificate and key in .*empty"),
        (("--tls-key", "empty"), "need --tls-cert"),
        (("--tls-client-ca", "empty"), "need --tls-cert"),
    ],
)
def test_keys_and_certificates_that_can_not_be_used(
    flags: tuple[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "empty").write_text("# nothing\n")
    line = ["serve", "1A", "--random-weights", "tiny", "--port", "0", flags[0], str(tmp_path / flags[1])]
    monkeypatch.setattr(local, "LocalDeployment", None)  # it does not come to one
    with pytest.raises(UsageError, match=words):
        CliRunner().invoke(build_app(line), line, catch_exceptions=False)


def test_a_door_without_guards_is_open(tmp_path: Path) -> None:
    check_door(tmp_path, RouterSpec(port=0))
    (tmp_path / "keys").write_text("a-key\n")
    check_door(tmp_path, RouterSpec(port=0, api_key_file=str(tmp_path / "keys")))
