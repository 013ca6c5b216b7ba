"""A kernel as its compiler sees it: the branches of its ``tl.constexpr`` switches decided."""

import ast
import inspect
import textwrap
from typing import Any


class _Decide(ast.NodeTransformer):
    """Puts in place of ``if SWITCH:`` what the switch's value leaves of it."""

    def __init__(self, switches: dict[str, bool]) -> None:
        self.switches = switches

    def visit_If(self, node: ast.If) -> Any:
        """An ``if`` on a switch becomes one of its branches; others stay."""
        self.generic_visit(node)
        if isinstance(node.test, ast.Name) and node.test.id in self.switches:
            return node.body if self.switches[node.test.id] else node.orelse
        return node


def body(kernel: Any, **switches: bool) -> list[str]:
    """The lines of a @triton.jit kernel's body, without comments, for these values of its switches.

    A switch that is no parameter of the kernel is a ``ValueError``.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(kernel.fn)))
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    unknown = sorted(set(switches) - {argument.arg for argument in function.args.args})
    if unknown:
        raise ValueError(f"{function.name} has no switch {', '.join(unknown)}")
    decided = _Decide(switches).visit(function)
    return [line for node in decided.body for line in ast.unparse(node).splitlines()]
