"""Commands and examples explain their options and arguments."""

import argparse
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys

import pytest

from rnnfast import commands, examples
from rnnfast.commands import main

EXAMPLES = [
    found.name
    for found in pkgutil.iter_modules(examples.__path__)
    if found.name != "common"  # it has no command line
]


def public_functions():
    """The public functions that a module of commands or examples defines."""
    for package in (commands, examples):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            for name, value in vars(module).items():
                own = inspect.isfunction(value) and value.__module__ == module.__name__
                if own and not name.startswith("_"):
                    yield pytest.param(value, id=f"{found.name}.{name}")


@pytest.mark.parametrize("function", list(public_functions()))
def test_parameters_are_those_of_the_signature(function):
    """A docstring is one line, or its Parameters are the function's."""
    doc = inspect.getdoc(function)
    assert doc
    if "Parameters\n---" not in doc:
        return
    section = re.split(r"\n\n[A-Z][A-Za-z ]+\n---", doc.split("Parameters\n", 1)[1])[0]
    lines = re.findall(r"^(\S[^:\n]*)(?: :.*)?$", section, re.MULTILINE)[1:]
    documented = {name.strip().lstrip("*") for line in lines for name in line.split(",")}
    assert documented == set(inspect.signature(function).parameters)


def unexplained(parser):
    """The options of a parser, and of its subcommands, that have no help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from (f"{name} {option}" for option in unexplained(command))
        elif not action.help:
            yield action.dest


def test_every_option_of_the_command_has_help():
    assert list(unexplained(main._parser())) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_option_of_an_example_has_help(name, monkeypatch):
    parsers = []

    def parse(parser, argv):
        parsers.append(parser)
        raise SystemExit(0)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    with pytest.raises(SystemExit):
        importlib.import_module(f"rnnfast.examples.{name}").main([])
    (parser,) = parsers
    assert list(unexplained(parser)) == []


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.one_in(3)
def test_an_example_needs_no_docstrings(name):
    """python -OO removes them."""
    done = subprocess.run(
        [sys.executable, "-OO", "-m", f"rnnfast.examples.{name}", "--help"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m rnnfast.examples.{name}" in done.stdout
