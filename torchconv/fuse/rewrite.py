"""A method with its chains of calls handed to `plan.run`, and everything else as it was written.

A chain is one layer called on another's output, ``relu(bn(conv(x)))``, or the same said in consecutive statements::

    out = self.conv(x)
    out = self.bn(out)              becomes        out = run((self.conv, self.bn, self.relu), x, where they stand)
    out = self.relu(out)

`run` calls the layers one after the other unless it knows them, so the method does what it did, whatever the layers
are at the call. Conditions, loops, attributes, arguments and globals are the method's own: nothing of them is decided
beforehand, as a traced graph would have to. A method whose source is not what it was compiled from is left as it is.
"""

import __future__

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, TypeAlias

from . import plan

_FUTURE = 0
for _feature in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _feature).compiler_flag

# Names that a rewritten method finds in its closure.
_RUN, _GIVEN, _HOME, _ORIGINAL = "_torchconv_run", "_torchconv_given", "_torchconv_home", "_torchconv_original"

_Function: TypeAlias = ast.FunctionDef


class Unreadable(Exception):
    """Why a method cannot be rewritten."""


@dataclass(frozen=True)
class Chain:
    """Layers that a method calls on each other's outputs, in the order of the calls."""

    layers: tuple[CodeType | None, ...]  # expressions of the method's module; None where only the call knows
    self_name: str
    globals: dict[str, Any]

    def resolved(self, module: Any) -> list[Any]:
        """The layers as they are now; None for those that only the call knows or that are not there."""
        found = []
        for code in self.layers:
            try:
                found.append(None if code is None else eval(code, self.globals, {self.self_name: module}))
            except Exception:  # whatever the module's own attributes do: the call will tell
                found.append(None)
        return found

    @property
    def open(self) -> bool:
        """Whether only the call knows some of the layers."""
        return None in self.layers


def rewritten(home: type, name: str, original: FunctionType) -> tuple[FunctionType, list[Chain]] | None:
    """The method `name` of the class `home` with its chains run by `plan.run`, and these; None if it has none.

    Where a class is given another method later, that is what is called.

    Raises:
        Unreadable: its source is not to be had, or is not what it was compiled from.
    """
    code = original.__code__
    if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        return None
    first = [*code.co_varnames[: code.co_argcount]]
    if not first:
        return None
    definition = _definition(original)
    found = _Chains(original, first[0], home)
    definition.body = found.linked(definition.body)
    found.generic_visit(definition)
    if not found.chains:
        return None
    has_docstring = ast.get_docstring(definition, clean=False) is not None
    definition.body.insert(1 if has_docstring else 0, _way_out(definition, name))
    cells = dict(zip(code.co_freevars, original.__closure__ or (), strict=True))
    for key, value in ((_RUN, plan.run), (_GIVEN, plan.given), (_HOME, home), (_ORIGINAL, original)):
        cells[key] = _cell(value)
    new = _compiled(definition, tuple(cells), original)
    function = FunctionType(
        new,
        original.__globals__,
        original.__name__,
        original.__defaults__,
        tuple(cells[free] for free in new.co_freevars),
    )
    hints = "__annotate__" if hasattr(original, "__annotate__") else "__annotations__"  # unevaluated from 3.14 on
    for attribute in ("__kwdefaults__", hints, "__doc__", "__qualname__", "__module__"):
        setattr(function, attribute, getattr(original, attribute))
    vars(function).update(vars(original))
    return function, found.chains


def _cell(value: Any) -> Any:
    return (lambda: value).__closure__[0]  # type: ignore[index]


# ---- source ----


def _definition(function: FunctionType) -> _Function:
    """The syntax tree of `function`, which compiles to what `function` runs."""
    try:
        lines, first = inspect.getsourcelines(function)
        # Indented as it is, for strings of several lines are.
        tree: Any = ast.parse("if True:\n" + "".join(lines)) if lines[0][:1].isspace() else ast.parse("".join(lines))
    except (OSError, TypeError, SyntaxError) as error:
        raise Unreadable(f"its source is not to be had ({type(error).__name__})") from None
    if isinstance(tree.body[0], ast.If):
        tree, first = tree.body[0], first - 1
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise Unreadable("it is no plain method")
    ast.increment_lineno(definition, first - 1)
    if not _same(_compiled(definition, function.__code__.co_freevars, function), function.__code__):
        raise Unreadable("its source is not what it was compiled from")
    return definition


def _compiled(definition: _Function, free: tuple[str, ...], like: FunctionType) -> CodeType:
    """The code of a function that finds the names `free` around it, compiled as `like` was."""
    a = definition.args
    bare = ast.arguments(
        posonlyargs=[ast.arg(x.arg) for x in a.posonlyargs],
        args=[ast.arg(x.arg) for x in a.args],
        vararg=a.vararg and ast.arg(a.vararg.arg),
        kwonlyargs=[ast.arg(x.arg) for x in a.kwonlyargs],
        kw_defaults=[None] * len(a.kwonlyargs),
        kwarg=a.kwarg and ast.arg(a.kwarg.arg),
        defaults=[],
    )
    inner = ast.copy_location(ast.FunctionDef(definition.name, bare, definition.body, []), definition)
    around = ast.arguments([], [ast.arg(name) for name in free], None, [], [], None, [])
    outer = ast.copy_location(ast.FunctionDef("around", around, [inner], []), definition)
    if "type_params" in ast.FunctionDef._fields:  # from Python 3.12 on
        inner.type_params = outer.type_params = []  # type: ignore[attr-defined]
    # The compiler has other code for a call of what a name has that the module imports.
    imports: list[ast.stmt] = [
        ast.Import([ast.alias(name)]) for name in sorted(_imported(definition, like.__globals__))
    ]
    tree = ast.fix_missing_locations(ast.Module([*imports, outer], []))
    flags = like.__code__.co_flags & _FUTURE
    code = compile(tree, like.__code__.co_filename, "exec", flags=flags, dont_inherit=True)
    for name in ("around", definition.name):
        code = next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name)
    return code


def _imported(definition: _Function, scope: dict[str, Any]) -> set[str]:
    """The names in `definition` that its module seems to have by importing them."""
    names = {node.id for node in ast.walk(definition) if isinstance(node, ast.Name) and node.id in scope}
    home = scope.get("__name__")
    return {n for n in names if inspect.ismodule(scope[n]) or getattr(scope[n], "__module__", home) != home}


def _same(one: CodeType, other: CodeType) -> bool:
    """Whether two codes do the same, wherever they stand."""
    names = ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_argcount", "co_kwonlyargcount")
    if any(getattr(one, name) != getattr(other, name) for name in names) or len(one.co_consts) != len(other.co_consts):
        return False
    for a, b in zip(one.co_consts, other.co_consts, strict=True):
        if isinstance(a, CodeType) and isinstance(b, CodeType):
            if not _same(a, b):
                return False
        elif type(a) is not type(b) or repr(a) != repr(b):  # 0.0 and -0.0 are equal
            return False
    return True


def _way_out(definition: _Function, name: str) -> ast.stmt:
    """``if home.method is not original: return home.method(the same arguments)``"""
    a = definition.args
    method = ast.Attribute(ast.Name(_HOME, ast.Load()), name, ast.Load())
    given: list[ast.expr] = [ast.Name(x.arg, ast.Load()) for x in (*a.posonlyargs, *a.args)]
    if a.vararg:
        given.append(ast.Starred(ast.Name(a.vararg.arg, ast.Load()), ast.Load()))
    named = [ast.keyword(x.arg, ast.Name(x.arg, ast.Load())) for x in a.kwonlyargs]
    if a.kwarg:
        named.append(ast.keyword(None, ast.Name(a.kwarg.arg, ast.Load())))
    changed = ast.Compare(method, [ast.IsNot()], [ast.Name(_ORIGINAL, ast.Load())])
    return ast.copy_location(ast.If(changed, [ast.Return(ast.Call(method, given, named))], []), definition.body[0])


# ---- chains ----


class _Chains(ast.NodeTransformer):
    """Finds the chains of a method's syntax tree and replaces them."""

    def __init__(self, function: FunctionType, self_name: str, home: type) -> None:
        code = function.__code__
        self.home = home
        self.chains: list[Chain] = []
        self.globals, self.self_name, self.filename = function.__globals__, self_name, code.co_filename
        self.locals = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
        # Nobody else sees these change.
        self.private = {*code.co_varnames} - {*code.co_cellvars}

    # Statements

    def linked(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Statements of which each calls something on what the one before it made, made one."""
        uses: dict[str, int] = {}
        nodes = [node for statement in body for node in ast.walk(statement)]
        changed = [node.target for node in nodes if isinstance(node, ast.AugAssign)]  # read, though it says Store
        for node in [*nodes, *changed]:
            if isinstance(node, ast.Name) and (node in changed or not isinstance(node.ctx, ast.Store)):
                uses[node.id] = uses.get(node.id, 0) + 1
        return self._linked(body, uses)

    def _linked(self, body: list[ast.stmt], uses: dict[str, int]) -> list[ast.stmt]:
        done: list[ast.stmt] = []
        for statement in body:
            # Not in `try` and `with`, which may go on after an error with what was there before it.
            if isinstance(statement, (ast.If, ast.For, ast.While)):
                statement.body = self._linked(statement.body, uses)
                statement.orelse = self._linked(statement.orelse, uses)
            elif done and self._takes_from(statement, done[-1], uses):
                last = self._links(statement.value)[-1]  # type: ignore[attr-defined]
                last.args[0] = done.pop().value  # type: ignore[attr-defined]
            done.append(statement)
        return done

    def _takes_from(self, second: ast.stmt, first: ast.stmt, uses: dict[str, int]) -> bool:
        """Whether `second` is a chain on the value of the chain `first`, which is then out of reach."""
        made, kept = _target(first), _target(second)
        if made is None or made not in self.private or (kept is None and not isinstance(second, ast.Return)):
            return False
        links, before = self._links(second.value), self._links(first.value)  # type: ignore[attr-defined]
        if not links or not before or not _is_name(links[-1].args[0], made):
            return False
        inside = [node for node in ast.walk(second.value) if _is_name(node, made)]  # type: ignore[attr-defined]
        if len(inside) != 1 or any(isinstance(node, ast.NamedExpr) for node in ast.walk(first)):
            return False
        if any(map(self._is_method, before)):  # it may set what `second` finds on self
            return False
        return kept in (made, None) or uses[made] == 1

    # Expressions

    def visit_Call(self, node: ast.Call) -> ast.AST:
        links = self._links(node)
        if len(links) < 2:
            return self.generic_visit(node)
        links.reverse()
        self.chains.append(Chain(tuple(map(self._resolver, links)), self.self_name, self.globals))
        layers = ast.Tuple([self._layer(link) for link in links], ast.Load())
        named = [link.func for link in links]
        where: Any = tuple((f.lineno, f.col_offset, f.end_col_offset) for f in named)
        called = ast.Call(ast.Name(_RUN, ast.Load()), [layers, self.visit(links[0].args[0]), ast.Constant(where)], [])
        return ast.copy_location(called, node)

    def _links(self, node: ast.AST | None) -> list[ast.Call]:
        """The calls of a chain, the last first: each is given the next one's result."""
        links = []
        while isinstance(node, ast.Call) and self._is_link(node):
            links.append(node)
            node = node.args[0]
        return links

    def _is_link(self, call: ast.Call) -> bool:
        """Whether this is ``self.layer(x)``, ``layer(x)`` of a local variable, or a ReLU as a function."""
        root: ast.expr = call.func
        while isinstance(root, ast.Attribute) or (
            isinstance(root, ast.Subscript) and isinstance(root.slice, (ast.Constant, ast.Name))
        ):
            root = root.value
        if not isinstance(root, ast.Name) or not call.args or isinstance(call.args[0], ast.Starred):
            return False
        if root.id not in self.locals:
            return _last_name(call.func) in ("relu", "relu_") and _is_plain(call)
        if len(call.args) > 1 or call.keywords:
            return False
        return (root is call.func) == (root.id != self.self_name)

    def _is_method(self, link: ast.Call) -> bool:
        """Whether what is called is of the class, not a layer of the module's."""
        called = link.func
        of_self = isinstance(called, ast.Attribute) and _is_name(called.value, self.self_name)
        return of_self and hasattr(self.home, called.attr)  # type: ignore[attr-defined]

    def _layer(self, link: ast.Call) -> ast.expr:
        if len(link.args) + len(link.keywords) == 1:
            return link.func
        more = [link.func, *link.args[1:]]
        return ast.copy_location(ast.Call(ast.Name(_GIVEN, ast.Load()), more, link.keywords), link.func)

    def _resolver(self, link: ast.Call) -> CodeType | None:
        names = {node.id for node in ast.walk(link.func) if isinstance(node, ast.Name)}
        if names & self.locals - {self.self_name}:
            return None
        return compile(ast.unparse(link.func), self.filename, "eval")


def _target(statement: ast.stmt) -> str | None:
    """The one variable that a statement assigns to."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target: ast.expr = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign) and statement.simple and statement.value is not None:
        target = statement.target
    else:
        return None
    return target.id if isinstance(target, ast.Name) else None


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_plain(relu: ast.Call) -> bool:
    """Whether a call of a function named relu is given at most True or False besides, as ``inplace`` is."""
    more = relu.args[1:] + [keyword.value for keyword in relu.keywords if keyword.arg == "inplace"]
    if len(relu.args) + len(relu.keywords) != 1 + len(more) or len(more) > 1:
        return False
    return all(isinstance(value, ast.Constant) and isinstance(value.value, bool) for value in more)


def methods(cls: type, until: type) -> Iterator[tuple[str, FunctionType]]:
    """The methods of `cls` that it or its bases, up to `until`, define in Python, but for Python's own."""
    seen = set()
    for base in cls.__mro__[: cls.__mro__.index(until)]:
        for name, value in vars(base).items():
            if name not in seen and isinstance(value, FunctionType) and not name.startswith("__"):
                yield name, value
            seen.add(name)
