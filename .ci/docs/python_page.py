"""The reference of the Python API, from signatures and docstrings; modules are not imported."""

from __future__ import annotations

import ast
from pathlib import Path

from markdown import page, prose

ROOT = Path(__file__).resolve().parents[2]
INTRO = """
`layerloop` is the public package. Its names are imported on first use, so that `import layerloop`
is fast and needs neither PyTorch nor a database. A function that a setting names by a dotted name
must follow a protocol at the end.
"""


Definition = ast.FunctionDef | ast.ClassDef


def python_page() -> str:
    """Return the page."""
    module = _parse(ROOT / "layerloop" / "__init__.py")
    names: list[str] = []
    defined_in: dict[str, str] = {}
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id == "__all__":
                names = ast.literal_eval(node.value)
            elif node.targets[0].id == "_DEFINED_IN":
                defined_in = ast.literal_eval(node.value)
    parts = ["## layerloop"]
    for name in sorted((name for name in names if not name.startswith("__")), key=str.lower):
        where, _, attribute = defined_in.get(name, f"training.pipelines:{name}").partition(":")
        parts.append(_entry("layerloop", name, _find(where, attribute)))
    parts.append("## Protocols")
    ports = _parse(ROOT / "curation" / "ports.py")
    classes = [node for node in ports.body if isinstance(node, ast.ClassDef)]
    parts += [_entry("curation.ports", node.name, node) for node in classes]
    return page("Python API", INTRO, *parts)


def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def _find(where: str, name: str) -> Definition:
    """Return the definition of a name; imports of packages are followed."""
    base = ROOT / Path(*where.split("."))
    module = _parse(base / "__init__.py" if base.is_dir() else base.with_suffix(".py"))
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and any(alias.name == name for alias in node.names)
        ):
            return _find(node.module, name)
    raise SystemExit(f"error: {where} does not define {name}")


def _entry(module: str, name: str, node: Definition) -> str:
    """Return the section of a function or class: signature, docstring, public members."""
    if isinstance(node, ast.FunctionDef):
        return f"### {name}\n\n{_signature(node, module)}\n\n{prose(ast.get_docstring(node))}"
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    parts = [
        f"### {name}",
        f"```python\nclass {module}.{name}({bases})\n```",
        prose(ast.get_docstring(node)),
    ]
    fields = [
        f"- `{ast.unparse(member)}`" for member in node.body
        if isinstance(member, ast.AnnAssign) and not ast.unparse(member.target).startswith("_")
    ]  # fmt: skip
    parts.append("\n".join(fields))
    methods = [member for member in node.body if isinstance(member, ast.FunctionDef)]
    parts += [
        f"#### {name}.{method.name}\n\n{_signature(method)}\n\n{prose(ast.get_docstring(method))}"
        for method in methods
        if not method.name.startswith("_") or method.name == "__call__"
    ]
    return "\n\n".join(part for part in parts if part)


def _signature(node: ast.FunctionDef, module: str = "") -> str:
    """Return a signature as a block of code, one argument a line where it is long."""
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    answer = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    if "property" in decorators:
        return f"```python\n{node.name}{answer}  # property\n```"
    head = (f"{module}." if module else "") + node.name
    arguments = ast.unparse(node.args)
    line = f"{head}({arguments}){answer}"
    if len(line) > 100:
        line = f"{head}(\n    " + ",\n    ".join(_split(arguments)) + f",\n){answer}"
    return f"```python\n{line}\n```"


def _split(arguments: str) -> list[str]:
    """Split arguments at their commas outside of brackets and strings."""
    parts, depth, quote, last = [""], 0, "", ""
    for letter in arguments:
        if quote:
            quote = "" if letter == quote and last != "\\" else quote
        elif letter in "\"'":
            quote = letter
        depth += (letter in "([{") - (letter in ")]}") if not quote else 0
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
        last = letter
    return [part.strip() for part in parts]
