"""Reads YAML. What PyYAML accepts silently, or fails on with a traceback, is an error line here."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from sde_harl.config.wording import brief, shown
from sde_harl.errors import UserError

# PyYAML raises these too for text that is almost YAML: `!!int ""`, `!!map [x]`, `!!timestamp x`,
# and RecursionError for a deep nest.
BAD_YAML = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
MOST_BITS = 63
MOST_LETTERS = 1 << 18
"""Of a text. Configurations have some thousands."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that also refuses aliases, keys given twice and numbers beyond 64 bits."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # A few aliases of aliases stand for more values than any memory holds.
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()  # type: ignore[no-untyped-call]
            problem = f"an alias (*{alias.anchor[:20]}): write out what it stands for"
            raise yaml.composer.ComposerError(None, None, problem, alias.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # PyYAML takes the last of two equal keys without a word.
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                break  # the parent class raises the error for it
            if key in seen:
                problem = f"{brief(key)} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number: int = super().construct_yaml_int(node)
        # Python refuses to print numbers of thousands of digits, so no error line could show them.
        if number.bit_length() > MOST_BITS:
            problem = "a whole number beyond 64 bits"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def load(text: str, source: str) -> Any:
    """Returns the value of a YAML text.

    Raises UserError that names `source`, the line where there are several, and the problem.
    """
    # PyYAML takes seconds for each of them.
    if len(text) > MOST_LETTERS:
        raise UserError(f"{source}: expected {MOST_LETTERS:,} letters or less, got {len(text):,}")
    try:
        return _Loader(text).get_single_data()
    except BAD_YAML as error:
        mark = getattr(error, "problem_mark", None)
        where = source
        if mark and "\n" in text:
            where = f"{source}:{mark.line + 1}"
        # A scanner error has a problem, an error of encoding a reason; Python's own have neither.
        problem = getattr(error, "problem", None) or getattr(error, "reason", None)
        problem = problem or "a value can't be read"
        raise UserError(f"{where}: not valid YAML: {shown(problem)}") from error
