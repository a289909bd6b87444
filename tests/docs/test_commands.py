"""Every command that the documentation shows exists with its options, and the `sh` blocks of its pages run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import typer

from raypo.cli import main  # noqa: F401  the commands register themselves
from raypo.cli.common import app

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
RUN = ["own_data", "own_judge", "own_method", "resume", "wandb", "cluster"]
"""Pages with commands; `wandb` uses the search that `resume` made."""


def blocks(page: Path) -> list[str]:
    """The shell blocks of a page."""
    return re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def mentioned(page: Path) -> list[list[str]]:
    """Every `raypo ...` of a page as words: in blocks, in indented code and in backticks."""
    text = page.read_text().replace("\\\n", " ")
    code = "\n".join([*blocks(page), *re.findall(r"^    (\S.*)$", text, re.MULTILINE)]).replace("\\\n", " ")
    shown = re.findall(r"`(raypo [a-z][^`]*)`", text) + re.findall(r"(?:^|\S+ )(raypo [a-z].*)$", code, re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in shown]


def _spellings(parameter: Any) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts]


def group() -> typer.core.TyperGroup:
    found = typer.main.get_command(app)
    assert isinstance(found, typer.core.TyperGroup)
    return found


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "cluster" / "README.md"], ids=lambda p: p.stem)
def test_commands_and_options_exist(page: Path) -> None:
    commands = group().commands
    for words in mentioned(page):
        assert words[0] in commands, f"{page.name}: raypo {words[0]}"
        known = {option for parameter in commands[words[0]].params for option in _spellings(parameter)} | {"--help"}
        used = {word.strip("[].").split("=")[0] for word in words if word.lstrip("[").startswith("--")}
        assert used <= known, f"{page.name}: raypo {words[0]} has no {used - known}"


def test_the_index_names_every_page() -> None:
    named = set(re.findall(r"\((\w+\.md)\)", (ROOT / "docs" / "README.md").read_text()))
    assert named == {page.name for page in PAGES} - {"README.md"}


def test_every_page_with_blocks_is_run() -> None:
    assert {page.stem for page in PAGES if blocks(page)} == set(RUN)


def test_the_own_method_of_the_page_is_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raypo.methods import check_corners, load_method

    text = next(block for block in blocks(ROOT / "docs" / "own_method.md") if "my_methods.py" in block)
    code = text.split("<<'END'\n")[1].split("END\n")[0]
    assert len(code.splitlines()) <= 30
    (tmp_path / "my_methods.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    method = load_method("my_methods:hinge_dpo", allow_code=True)
    assert method.needs == ("reference",)
    assert list(method.hyperparameters) == ["beta", "margin"]
    assert not check_corners(method, [{"beta": 0.01, "margin": 1.0}, {"beta": 1.0, "margin": 1.0}])


def test_the_method_of_the_readme_is_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raypo.methods import check_corners, load_method

    section = (ROOT / "README.md").read_text().split("## Add a method\n")[1].split("\nName it")[0]
    (tmp_path / "my_loss.py").write_text(textwrap.dedent(section))
    monkeypatch.syspath_prepend(tmp_path)
    method = load_method("my_loss:my_loss", allow_code=True)
    assert (method.needs, list(method.hyperparameters)) == (("reference",), ["beta"])
    assert not check_corners(method, [{"beta": 0.1}])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with what a checkout has."""
    made = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "search_spaces", made / "search_spaces")
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_the_blocks_of_a_page_run(name: str, folder: Path) -> None:
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": here, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    environment.pop("RAYPO_STORAGE", None)
    for block in blocks(ROOT / "docs" / f"{name}.md"):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
