"""What OpenAPI says is what is served, and the documentation names it all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from discloud import errors
from discloud.api.openapi import document
from discloud.api.problem import STATUS, status_of
from discloud.api.table import ROUTES, native_router
from tests.support.grid import grid

ABSENT = ("/v1/uploads", "/v1/login", "/v1/users", "/v1/keys", "/v1/shares", "/v1/jobs")


def test_every_route_is_described_once() -> None:
    routes = native_router().routes
    described = document(routes)
    operations = [(path, method) for path, methods in described["paths"].items() for method in methods]
    assert len(operations) == len(routes) == len(set(operations))
    ids = [
        operation["operationId"] for methods in described["paths"].values() for operation in methods.values()
    ]
    assert len(set(ids)) == len(ids)
    for path, methods in described["paths"].items():
        for operation in methods.values():
            named = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
            assert operation["summary"]
            assert operation["responses"]


def test_what_comes_later_is_absent() -> None:
    paths = document(ROUTES)["paths"]
    assert not [path for path in paths if path.startswith(ABSENT)]
    assert "redirect" not in str(paths)


def test_every_error_has_a_status() -> None:
    for kind in errors.BY_CODE.values():
        if kind is not errors.DiscloudError:
            assert status_of(kind("what happened")) in {*STATUS.values()}


@pytest.mark.parametrize("path", ["/v1/openapi.json", "/docs"])
async def test_it_is_readable_without_a_token(path: str) -> None:
    async with (
        grid(1) as mesh,
        mesh.session.get(mesh.nodes[0].url + path, headers={"Authorization": ""}) as answer,
    ):
        text = await answer.text()
        assert answer.status == 200
        assert "/v1/files/{bucket}/{key}" in text


def test_the_tour_names_every_path_and_every_code_it_shows_exists() -> None:
    tour = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    for route in native_router().routes:
        path = route.pattern.replace("*}", "}").removesuffix("/")
        family = "/".join(path.split("/")[:3])
        assert family in tour or path in tour, path
    codes = set(re.findall(r"^\|[^|]*\| (?:.*?)`([a-z-]+)`", tour, re.MULTILINE)) - {"local"}
    known = set(errors.BY_CODE) | {"no-such-path", "method-not-allowed"}
    assert not {code for code in codes if "-" in code} - known
