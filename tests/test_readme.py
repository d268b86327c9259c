"""The snippets of README, CONTRIBUTING and docs run.

Each page is one story: its Python blocks share one namespace, in order, in an empty folder. What a reader need not see
(a model, a few random batches) may stand in a comment ``<!-- python … -->``; ``pycon`` blocks are doctests. Lines of
``shell`` blocks that begin with ``spectrim`` are parsed by the command line, so a renamed option is noticed; they do not
run, because they train.
"""

import doctest
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(p for p in ROOT.glob("docs/**/*.md") if "_build" not in p.parts)])


@dataclass(frozen=True)
class Block:
    """A fenced block, or a comment that stands for one."""

    language: str
    text: str
    line: int


def blocks(markdown: str) -> list[Block]:
    found = []
    for token in MarkdownIt().parse(markdown):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "fence":
            found.append(Block(token.info.split(" ")[0], token.content, line))
        hidden = re.match(r"<!-- python\n(.*?)-->", token.content, re.DOTALL) if token.type == "html_block" else None
        if hidden:
            found.append(Block("python", hidden[1], line))
    return found


def commands(markdown: str) -> list[str]:
    """The lines of shell blocks that begin with ``spectrim``, continuations joined, a prompt taken off."""
    lines = []
    for block in blocks(markdown):
        if block.language in {"shell", "bash", "console"}:
            joined = block.text.replace("\\\n", " ")
            lines += [line.removeprefix("$ ") for line in joined.splitlines()]
    return [line for line in lines if line.startswith("spectrim ")]


def run_python(page: str, name: str) -> dict[str, object]:
    """Run a page's Python from top to bottom; what it defined is returned."""
    namespace: dict[str, object] = {"__name__": "snippet"}
    for block in blocks(page):
        if block.language == "python":
            # the empty lines give tracebacks the page's line numbers
            exec(compile("\n" * block.line + block.text, name, "exec"), namespace)  # noqa: S102  (our own pages)
        elif block.language == "pycon":
            test = doctest.DocTestParser().get_doctest(block.text, namespace, name, name, block.line)
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
            result = runner.run(test, clear_globs=False)
            assert result.failed == 0, f"{name}:{block.line}"
            namespace |= test.globs
    return namespace


def parse(command: str) -> None:
    """Let the command line parse ``spectrim NAME …`` without running it."""
    import typer

    from spectrim.cli.app import app

    words = shlex.split(command, comments=True)[1:]
    group = typer.main.get_command(app)
    context = group.make_context("spectrim", words[:1] if words[0].startswith("-") else words, resilient_parsing=True)
    name, subcommand, rest = group.resolve_command(context, words)
    assert subcommand is not None, command
    if "--help" not in rest:
        subcommand.make_context(name, rest, parent=context)


def _pages(*, having: str) -> list[Path]:
    def has(page: Path) -> bool:
        text = page.read_text(encoding="utf-8")
        return (
            bool(commands(text))
            if having == "commands"
            else any(b.language in {"python", "pycon"} for b in blocks(text))
        )

    return [page for page in PAGES if has(page)]


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("page", _pages(having="python"), ids=_name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run_python(page.read_text(encoding="utf-8"), _name(page))


@pytest.mark.parametrize("page", _pages(having="commands"), ids=_name)
def test_the_commands_of_a_page_exist(page: Path):
    for command in commands(page.read_text(encoding="utf-8")):
        parse(command)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_the_links_of_a_page_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{_name(page)} links to {target}"


def test_a_wrong_snippet_is_noticed():
    with pytest.raises(NameError):
        run_python("```python\nnot_there\n```", "page")
    with pytest.raises(AssertionError):
        run_python("```pycon\n>>> 1 + 1\n3\n```", "page")


def test_a_comment_prepares_what_a_reader_need_not_see():
    run_python("<!-- python\nx = 1\n-->\n\n```python\nassert x == 1\n```", "page")


def test_a_command_is_found_with_its_continuation():
    assert commands("```shell\n$ spectrim eval \\\n  a\nls\n```") == ["spectrim eval    a"]
