"""The Dockerfiles as far as they can be judged without Docker: what they copy, install and run as."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement

from tercet import __version__

ROOT = Path(__file__).parents[2]
IMAGES = ("router", "worker")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def steps(image: str) -> list[tuple[str, str]]:
    parser = DockerfileParser(fileobj=(ROOT / "docker" / f"{image}.Dockerfile").open("rb"))
    return [(step["instruction"], step["value"]) for step in parser.structure]


def pins(image: str) -> dict[str, str]:
    lines = (ROOT / "docker" / f"{image}.txt").read_text().splitlines()
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line) for line in lines if line and not line.startswith("#")]
    assert all(found)
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


def requirements(image: str) -> list[Requirement]:
    extras = [
        extra for _, value in steps(image) for said in re.findall(r"'\.\[(.+?)\]'", value) for extra in said.split(",")
    ]
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in PROJECT["optional-dependencies"][extra])]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_is_there_and_reaches_the_build(image: str) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines
    for instruction, value in steps(image):
        if instruction == "COPY" and not value.startswith("--from="):
            for source in value.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch.fnmatch(source, pattern) for pattern in let_through), source


@pytest.mark.parametrize("image", IMAGES)
def test_it_is_built_in_one_stage_and_runs_as_nobody_in_another(image: str) -> None:
    done = steps(image)
    bases = [value.split()[0] for instruction, value in done if instruction == "FROM"]
    assert len(bases) == 2 and len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases[0]), "a pinned version"
    last = done[max(i for i, (instruction, _) in enumerate(done) if instruction == "FROM") :]
    assert ("USER", "10001:10001") in last
    assert any(instruction == "HEALTHCHECK" and "/health" in value for instruction, value in last)
    assert not any("pip install" in value for _, value in last)


@pytest.mark.parametrize("image", IMAGES)
def test_every_requirement_is_pinned_at_a_version_that_it_allows(image: str) -> None:
    pinned = pins(image)
    assert any(f"--constraint {image}.txt" in value for _, value in steps(image))
    needed = requirements(image)
    assert len(needed) >= len(PROJECT["dependencies"])
    for requirement in needed:
        assert requirement.specifier.contains(pinned[requirement.name.lower().replace("_", "-")]), requirement


def test_torch_is_in_the_worker_alone_and_the_one_of_the_tests() -> None:
    (torch,) = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pins("worker")["torch"] == torch
    assert any(f"torch=={torch}" in value for instruction, value in steps("worker") if instruction == "RUN")
    assert "torch" not in pins("router")


@pytest.mark.parametrize("image", IMAGES)
def test_the_image_is_named_as_the_manifests_name_it(image: str) -> None:
    text = (ROOT / "docker" / f"{image}.Dockerfile").read_text()
    assert f"-t tercet-{image}:{__version__} ." in text
