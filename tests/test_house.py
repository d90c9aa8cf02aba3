"The rules of the house, kept by a test: imports go left, functions stay short, notebooks stay clean"
import ast
import configparser
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT/"nbs").glob("*.ipynb"))
MEGABYTES = 1.5

def cells(path): return json.loads(path.read_text())["cells"]

def order():
    names = [re.search(r"#\| *default_exp (\w+)", "".join(c["source"])) for p in NOTEBOOKS for c in cells(p)]
    return [m[1] for m in names if m]

def tree(module): return ast.parse((ROOT/"audiotag"/f"{module}.py").read_text())

def imported(module):
    "Modules of ours that this one needs to run; not those that are named in annotations alone"
    body = tree(module)
    typing = {id(node) for block in body.body if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING" for node in ast.walk(block)}
    for node in (node for node in ast.walk(body) if id(node) not in typing):
        if isinstance(node, ast.Import): yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("audiotag."))
        elif isinstance(node, ast.ImportFrom):
            name = (node.module or "") if node.level else (node.module or "").removeprefix("audiotag").lstrip(".")
            if node.level or (node.module or "").split(".")[0] == "audiotag":
                yield from [name] if name else [a.name for a in node.names]

def test_modules_import_only_what_is_left_of_them():
    left = {m: i for i, m in enumerate(order())}
    assert len(left) > 20
    wrong = {(m, other) for m in left for other in imported(m) if other in left and left[other] >= left[m]}
    assert not wrong, sorted(wrong)

@pytest.mark.parametrize("module", order())
def test_functions_are_short_and_exports_say_what_they_do(module):
    body = tree(module)
    functions = [n for n in ast.walk(body) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert [f.name for f in functions if f.end_lineno-f.lineno+1 > 40] == []
    exported = next((ast.literal_eval(n.value) for n in body.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"), [])
    assert [n.name for n in body.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name in exported and not ast.get_docstring(n)] == []

def test_the_readme_is_short_and_names_every_notebook():
    text = (ROOT/"README.md").read_text()
    assert len(text.splitlines()) < 200
    assert [p.stem for p in NOTEBOOKS if f"| [{p.stem}](" not in text] == []

def test_the_citation_has_its_keys_and_the_version():
    keys = dict(re.findall(r"^([a-z-]+): *(.*)$", (ROOT/"CITATION.cff").read_text(), re.MULTILINE))
    settings = configparser.ConfigParser()
    settings.read(ROOT/"settings.ini")
    assert {"cff-version", "message", "title", "authors", "version"} <= set(keys)
    assert keys["version"] == settings["DEFAULT"]["version"]

@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_small_and_their_outputs_clean(path):
    assert path.stat().st_size <= MEGABYTES*1e6
    assert all("".join(c["source"]).strip() for c in cells(path)), "an empty cell"
    outputs = [o for c in cells(path) for o in c.get("outputs", [])]
    text = "\n".join("".join(o.get("text", [])) + "".join(o.get("data", {}).get("text/plain", [])) for o in outputs)
    assert re.findall(r"/(?:work|home|root|tmp|Users)/\S*|\w*Warning:.*", text) == []
